//! TOML files for people: all problems in one report.
//!
//! A daemon reads its file key by key and gathers what it got; only at the end
//! it asks whether everything was in order. The report names each problem with
//! its line, the key, the value seen, what is allowed, and the nearest known
//! word.
//!
//! ```
//! use homelab_common::config::{Document, parse};
//!
//! # fn main() -> Result<(), homelab_common::config::Report> {
//! let text = "name = \"qotom\"\n[listen]\ngrpc = \"127.0.0.1:7450\"\n";
//! let document = Document::parse("agent.toml", text)?;
//! let root = document.root();
//! let name = root.required("name", parse::string);
//! let listen = root.table("listen");
//! let grpc = listen.or("grpc", ([127, 0, 0, 1], 0).into(), parse::socket_addr);
//! let (name, grpc) = document.finish_with(|| Some((name?, grpc)))?;
//! assert_eq!((name.as_str(), grpc.port()), ("qotom", 7450));
//! # Ok(())
//! # }
//! ```

mod document;
mod node;
pub mod parse;
mod report;
mod section;
mod value;

#[cfg(test)]
mod tests;

pub use document::Document;
pub use report::{Problem, Report};
pub use section::Section;
pub use value::{Allowed, Value};
