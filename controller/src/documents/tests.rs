//! Sources, attaching and runbooks over a real store, a real repository and a scripted wiki.

mod attaching;
mod repository;
mod rig;
mod runbook;

mod wiki_peer;
