//! Supervises inference engines and serves their tokens over gRPC.
//!
//! | Module | What it is for |
//! |---|---|
//! | [`app`] | puts the daemon together |
//! | [`cli`] | the command line |
//! | [`config`] | the configuration file |
//! | [`engine`] | one foreign process: started, watched, ended, started again |
//! | [`slot`] | how many requests an engine works on at once |
//! | [`model`], [`device`] | what can be loaded, and what it can run on |
//! | [`energy`] | joules of devices and requests |
//! | [`worker`] | all engines of the host: who gets which |
//! | [`fence`] | attempts of jobs that were overtaken |
//! | [`service`], [`convert`], [`error`] | the worker on the wire |
//! | [`fake_engine`] | a scripted engine, for tests |

pub mod app;
pub mod cli;
pub mod config;
pub mod convert;
pub mod device;
pub mod energy;
pub mod engine;
pub mod error;
pub mod fake_engine;
pub mod fence;
pub mod model;
pub mod service;
pub mod slot;
pub mod worker;
