//! Further major versions of PostgreSQL, which `packaging/setup.sh` puts into `.dev/`.

/// An older server, without client programs.
pub const OLDER: u32 = 14;

/// Newer servers, with client programs.
pub const NEWER: [u32; 2] = [16, 18];
