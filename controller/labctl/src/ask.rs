//! Asking before something that cannot simply be done again.

use std::io::{self, BufRead as _, IsTerminal as _};

use homelab_common::exit::Exit;

use crate::{failure::Failure, lab::Lab, output};

/// Lets a person say yes by typing `word`; the default is no.
///
/// # Errors
/// Wrong usage when nobody can be asked, or the answer is another.
pub fn confirm(lab: &Lab, question: &str, word: &str, instead: &str) -> Result<(), Failure> {
    if lab.for_programs() || !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("{question}: nobody is there to be asked"))
            .next(instead));
    }
    output::say(&format!("{question}\nType `{word}` to go on:"));
    let mut typed = String::new();
    let read = io::stdin().lock().read_line(&mut typed);
    if read.is_ok() && typed.trim() == word {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, "nothing was done, for it was not confirmed").next(instead))
}
