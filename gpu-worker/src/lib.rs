//! Supervises inference engines and serves their tokens over gRPC.

pub mod device;
pub mod engine;
pub mod slot;
