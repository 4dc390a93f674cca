//! The health agent of one host.

pub mod check;
pub mod health;
pub mod reading;
