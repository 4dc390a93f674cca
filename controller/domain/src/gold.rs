//! What may leave the house, to whom, and for how much.
//!
//! A gold job goes to a provider outside. Before a byte of it does, its text is
//! read for what it gives away ([`Classifier`]), the site's rules say for each
//! class whether that may leave, must be replaced by pseudonyms, or keeps the
//! job at home ([`judge()`]), and only what passed becomes an [`Outbound`], the one
//! thing that a provider can be sent. Nothing but [`permit()`] makes one, and
//! without a rule the answer is no.

mod answer;
mod budget;
mod class;
mod money;
mod permit;
mod pseudonym;
mod request;
mod rule;

pub use answer::ChunkRestorer;
pub use budget::{Budget, Period, Shortfall, Spent, Standing, shortfall};
pub use class::{Classifier, DataClass, Finding};
pub use money::{InvalidMoney, Money, Price, Worst};
pub use permit::{Outbound, Refusal, Verdict, Wish, judge, permit, tags_of};
pub use pseudonym::{Pseudonyms, Restorer};
pub use request::{Found, Place};
pub use rule::{Action, Asker, InvalidAsker, Rule, Ruling, Tag, decide};

/// The tag of a job that never leaves the house, whatever the rules say.
pub const LOCAL_ONLY: &str = "local-only";
