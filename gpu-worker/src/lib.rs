//! Supervises inference engines and serves their tokens over gRPC.
//!
//! | Module | What it is for |
//! |---|---|
//! | [`engine`] | one foreign process: started, watched, ended, started again |
//! | [`slot`] | how many requests an engine works on at once |
//! | [`model`], [`device`] | what can be loaded, and what it can run on |
//! | [`worker`] | all engines of the host: who gets which |
//! | [`fence`] | attempts of jobs that were overtaken |
//! | [`fake_engine`] | a scripted engine, for tests |

pub mod device;
pub mod engine;
pub mod fake_engine;
pub mod fence;
pub mod model;
pub mod slot;
pub mod worker;
