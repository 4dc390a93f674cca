//! The decisions of the control plane, as pure functions.
