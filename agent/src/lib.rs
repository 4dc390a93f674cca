//! The health agent of one host.
