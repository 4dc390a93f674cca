//! How a host fares, read cheaply enough to do it every second.
//!
//! Three parts. A [`Sampler`] reads the files of `/proc` that change all the time, through
//! descriptors that stay open: about a tenth of a millisecond of CPU. A [`Window`] remembers
//! the counters of the sample before and makes rates of two of them; each watcher has a window
//! of its own, so that watchers with different intervals do not spoil each other's rates. A
//! [`SlowReader`] takes in the background what is dear or may hang.
//!
//! Every value is a [`Reading`](crate::reading::Reading): nothing that could not be read is ever shown as zero.

mod condition;
mod cpu;
mod disk;
mod filesystem;
mod memory;
mod monitor;
mod network;
mod pressure;
mod probe;
mod sampler;
mod sensor;
mod slow;
mod source;
mod text;
mod time_sync;
mod unit;
mod uptime;
mod window;

pub use condition::{Condition, ConditionKind, Status, Thresholds, conditions};
pub use cpu::{Core, CpuCounters, Shares, Ticks};
pub use disk::{Disk, DiskCounters, DiskRates};
pub(crate) use filesystem::mounts;
#[cfg(test)]
pub(crate) use filesystem::parse_mounts;
pub use filesystem::{Access, Filesystem, Inodes, Mount, Usage};
pub use memory::{Arc as ZfsCache, Memory, Swap};
pub use monitor::{Monitor, Observation, Watcher};
pub use network::{
    Interface, InterfaceCounters, InterfaceRates, Link, Links, Traffic, TrafficRates,
};
pub use pressure::{Pressure, Stall, StallLine};
pub(crate) use probe::Probes;
pub use sampler::{Counters, Sampler};
pub use sensor::{Sensor, SensorKind};
pub use slow::{Slow, SlowReader};
pub use source::Roots;
pub(crate) use source::read_small;
pub(crate) use text::{label, lines, words};
pub use time_sync::TimeSync;
pub use unit::FailedUnits;
pub use uptime::Load;
pub use window::{Sample, Window};
