//! The exit codes that every program here uses.

use std::process::ExitCode;

/// How a program ended. The numbers are a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked.
    Ok = 0,
    /// It failed; the message says at what.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The asked-for question was answered with "not yet": a gate is shut.
    GateShut = 3,
    /// Some of several targets failed.
    Partial = 4,
    /// The other side could not be reached.
    Unreachable = 5,
    /// The other side refused: not allowed.
    Denied = 6,
    /// It was done, then undone.
    RolledBack = 7,
    /// The reply was lost; it may or may not have happened.
    Unknown = 8,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        let all = [
            (Exit::Ok, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::GateShut, 3),
            (Exit::Partial, 4),
            (Exit::Unreachable, 5),
            (Exit::Denied, 6),
            (Exit::RolledBack, 7),
            (Exit::Unknown, 8),
        ];
        for (exit, code) in all {
            assert_eq!(exit.code(), code);
        }
    }
}
