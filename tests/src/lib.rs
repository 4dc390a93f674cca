//! The lab on loopback that demo and tests share: real daemons, real databases, a real engine, and the
//! ways to look at them. Nothing in the product depends on this crate.

pub mod backup_lab;
pub mod bench;
pub mod chaos;
pub mod demo;
#[expect(clippy::expect_used, reason = "test support may stop at the first surprise")]
pub mod faultfs;
pub mod gateway_lab;
pub mod lab;
pub mod majors;
pub mod person;
#[expect(
    clippy::expect_used,
    clippy::panic,
    reason = "test support may stop at the first surprise"
)]
pub mod postgres;
pub mod process;
pub mod wait;
pub mod x99;
