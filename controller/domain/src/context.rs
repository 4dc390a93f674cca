//! What the house has written down about itself, put before a job as reference.
//!
//! Documents of a Git repository, of Wiki.js and approved runbooks are cut into
//! [`Passage`]s and kept in the store's full-text search. A job that asks for context
//! gets the passages that fit its text best, within a budget, as quoted material with
//! numbers ([`quoted()`]), and its answer comes with [`Citation`]s that say where each is
//! from. Whoever writes a document is not whoever asks, so passages are marked as
//! material and never as instructions, those that hold a secret are never kept, and a
//! job that carries any stays in the house unless its source and the rules of gold both
//! say otherwise.

mod citation;
mod glob;
mod passage;
mod query;
mod quote;
mod select;
mod source;
mod splice;
mod state;

pub use citation::{Attached, Citation};
pub use glob::{Glob, InvalidGlob};
pub use passage::{Cut, Digest, Document, PASSAGE_BYTES_MAX, Passage, passages};
pub use query::{QUERY_WORDS_MAX, Query, words};
pub use quote::quoted;
pub use select::{BYTES_DEFAULT, BYTES_MAX, Budget, Candidate, select};
pub use source::{
    ContextSource, GitPlace, GitSource, InvalidGitPlace, Leaves, Origin, RUNBOOKS, WikiSource,
};
pub use splice::{NotAChat, question, spliced};
pub use state::{Refreshed, SourceState, Trouble, concern, due};
