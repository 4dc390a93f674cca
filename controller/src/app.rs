//! The composition root: the only place that names real sockets, clocks and stores.
