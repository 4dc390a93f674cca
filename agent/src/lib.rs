//! The health agent of one host.

pub mod health;
pub mod reading;
