//! File trees as one tar stream, and back into a new folder.
//!
//! **Why tar, and one stream.** `restic dump … | tar -xp` restores a tree on any
//! machine without this program. The entries come in a fixed order with nothing that
//! differs between two reads of the same tree, so that an unchanged tree is stored
//! as the chunks that are there already. What each entry was stands in the manifest
//! ([`Entry`]), with a digest per file, so that a drill does not have to trust the
//! archive about itself.
//!
//! **What is kept:** names, contents, modes, numeric owners, times of change in whole
//! seconds, symbolic and hard links, empty folders. **What is left out:** extended
//! attributes, access control lists, file flags, holes (they become zeros), sockets,
//! pipes and devices. Trees that need those belong into a ZFS backup.
//!
//! Both directions work relative to open folders and never follow a symbolic link
//! below a root: a tree that changes under us, or an archive that lies, cannot lead
//! anywhere else.

mod compare;
mod entry;
mod exclude;
mod extract;
mod pack;
#[cfg(test)]
mod tests;
mod walk;

pub use compare::{CompareError, Differences, Strictness, compare, differences};
pub use entry::{Entry, InvalidEntry, What, escape, unescape};
pub use exclude::{Exclude, InvalidPattern};
pub use extract::{ExtractError, Extracted, extract};
pub use pack::{Changing, Names, Pack, PackError, Packed, pack};
pub use walk::{Filesystems, Root, Rules};

/// The most entries of one tree: their descriptions are held in memory, about
/// 150 bytes each, while a tree is read or compared.
pub const ENTRIES_MAX: usize = 1_000_000;

/// The deepest nesting: one file descriptor is open per level.
pub const DEPTH_MAX: usize = 200;

/// How many names are given in one message.
pub(crate) const NAMES_MAX: usize = 20;
