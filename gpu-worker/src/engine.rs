//! One inference process and everything around it.

pub mod chunk;
pub mod command;
pub mod health;
pub mod http;
pub mod request;
pub mod restart;
pub mod sse;
pub mod stream;
