//! An error and everything that caused it, on one line.

use std::{error::Error, fmt};

/// Displays an error followed by its causes, joined by `: `. Line breaks inside
/// a message become spaces, so that a log entry stays one line.
///
/// From an `anyhow::Error`: `Chain(error.as_ref())`.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = Some(self.0);
        let mut separator = "";
        while let Some(error) = next {
            f.write_str(separator)?;
            write_on_one_line(f, &error.to_string())?;
            separator = ": ";
            next = error.source();
        }
        Ok(())
    }
}

fn write_on_one_line(f: &mut fmt::Formatter<'_>, message: &str) -> fmt::Result {
    let mut separator = "";
    for line in message.lines().map(str::trim).filter(|line| !line.is_empty()) {
        write!(f, "{separator}{line}")?;
        separator = " ";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not open `{path}`")]
    struct Open {
        path: &'static str,
        #[source]
        source: std::io::Error,
    }

    #[test]
    fn each_cause_is_printed_once() {
        let error = Open { path: "/x", source: std::io::Error::other("nope") };
        assert_eq!(Chain(&error).to_string(), "could not open `/x`: nope");
    }

    #[test]
    fn line_breaks_become_spaces() {
        let error = std::io::Error::other("first\n  second\n");
        assert_eq!(Chain(&error).to_string(), "first second");
    }
}
