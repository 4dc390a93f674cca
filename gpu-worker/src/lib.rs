//! Supervises inference engines and serves their tokens over gRPC.
