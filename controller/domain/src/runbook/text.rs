//! The form of a runbook: Markdown with a title, a purpose and numbered steps.

use std::{fmt, str::FromStr};

/// Longest runbook, in bytes.
pub const RUNBOOK_BYTES_MAX: usize = 64 * 1024;

/// Steps of a runbook at most.
pub const STEPS_MAX: usize = 100;

/// Longest title, in characters.
const TITLE_CHARS_MAX: usize = 120;

/// What a runbook says.
///
/// ```text
/// # Title
///
/// What it is for.
///
/// ## Steps
///
/// 1. The first step, which may go over
///    several lines.
/// 2. The second.
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunbookText {
    title: String,
    purpose: String,
    steps: Vec<String>,
}

/// The text is no runbook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {rule}")]
pub struct InvalidRunbook {
    /// Line, from 1.
    pub line: usize,
    /// What is wanted there.
    pub rule: &'static str,
}

impl RunbookText {
    /// Its title.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What it is for.
    #[must_use]
    pub fn purpose(&self) -> &str {
        &self.purpose
    }

    /// What to do, in order.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

/// The written form, whose digest is approved. It reads as the same runbook again.
impl fmt::Display for RunbookText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "# {}\n\n{}\n\n## Steps\n\n", self.title, self.purpose)?;
        for (index, step) in self.steps.iter().enumerate() {
            let mut lines = step.lines();
            writeln!(f, "{}. {}", index + 1, lines.next().unwrap_or_default())?;
            for line in lines {
                if line.is_empty() { writeln!(f)? } else { writeln!(f, "   {line}")? }
            }
        }
        Ok(())
    }
}

impl FromStr for RunbookText {
    type Err = InvalidRunbook;

    fn from_str(text: &str) -> Result<Self, InvalidRunbook> {
        let wrong = |line: usize, rule| Err(InvalidRunbook { line, rule });
        if text.len() > RUNBOOK_BYTES_MAX {
            return wrong(1, "a runbook has at most 64 KiB");
        }
        let mut lines = unfenced(text).peekable();
        while lines.next_if(|(_, line)| line.trim().is_empty()).is_some() {}
        let title = match lines.next() {
            Some((_, line)) if line.starts_with("# ") => line.trim_start_matches("# ").trim(),
            Some((number, _)) => return wrong(number, "it begins with its title: `# Title`"),
            None => return wrong(1, "it is empty; it begins with its title: `# Title`"),
        };
        if title.is_empty() || title.chars().count() > TITLE_CHARS_MAX {
            return wrong(1, "a title has 1 to 120 characters");
        }
        let mut purpose = Vec::new();
        let mut last = 1;
        let steps_at = loop {
            match lines.next() {
                Some((number, line)) if is_steps(line) => break number,
                Some((number, line)) if line.starts_with('#') => {
                    return wrong(number, "after the purpose comes `## Steps`");
                }
                Some((number, line)) => {
                    last = number;
                    purpose.push(line.trim_end());
                }
                None => return wrong(last, "`## Steps` is missing"),
            }
        };
        let purpose = purpose.join("\n").trim().to_owned();
        if purpose.is_empty() {
            return wrong(steps_at, "before the steps stands what it is for");
        }
        let steps = steps(lines, steps_at)?;
        Ok(Self { title: title.to_owned(), purpose, steps })
    }
}

fn steps<'t>(
    lines: impl Iterator<Item = (usize, &'t str)>,
    steps_at: usize,
) -> Result<Vec<String>, InvalidRunbook> {
    let wrong = |line: usize, rule| Err(InvalidRunbook { line, rule });
    let mut steps: Vec<String> = Vec::new();
    for (number, line) in lines {
        let indented = line.starts_with([' ', '\t']) || line.is_empty();
        let numbered = line.split_once(". ").map(|(count, rest)| (count.parse::<usize>(), rest));
        match (numbered, steps.last_mut()) {
            (Some((Ok(count), rest)), _) if !indented => {
                if count != steps.len() + 1 {
                    return wrong(number, "steps are numbered 1, 2, 3 without gaps");
                }
                if steps.len() >= STEPS_MAX {
                    return wrong(number, "a runbook has at most 100 steps");
                }
                if rest.trim().is_empty() {
                    return wrong(number, "a step says what to do");
                }
                steps.push(rest.trim().to_owned());
            }
            (_, None) if line.trim().is_empty() => {}
            (_, Some(step)) if indented => {
                step.push('\n');
                step.push_str(
                    line.strip_prefix("   ").unwrap_or_else(|| line.trim_start()).trim_end(),
                );
            }
            _ => {
                let rule = "a step begins with its number, `1. `, and goes on in indented lines; \
                            nothing follows the steps";
                return wrong(number, rule);
            }
        }
    }
    if steps.is_empty() {
        return wrong(steps_at, "there is no step; the first begins with `1. `");
    }
    Ok(steps.into_iter().map(|step| step.trim_end().to_owned()).collect())
}

fn is_steps(line: &str) -> bool {
    line.strip_prefix("## ").is_some_and(|words| words.trim().eq_ignore_ascii_case("steps"))
}

/// The numbered lines of a text; when all of it stands in one fence, as models like to write, those
/// within.
fn unfenced(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let bare = text.trim();
    let opens = bare.starts_with("```") && bare.ends_with("\n```");
    let skipped = text.len() - text.trim_start().len();
    let before = text.get(..skipped).unwrap_or_default().matches('\n').count();
    let count = bare.lines().count();
    bare.lines()
        .enumerate()
        .filter(move |(index, _)| !opens || (*index != 0 && *index + 1 != count))
        .map(move |(index, line)| (before + index + 1, line))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "# Wake x99\n\nWhen silver is wanted\nand it sleeps.\n\n## Steps\n\n\
        1. Look:\n\n   ```sh\n   labctl host show x99\n   ```\n2. Wake it.\n";

    fn refused(text: &str) -> (usize, &'static str) {
        let InvalidRunbook { line, rule } = text.parse::<RunbookText>().unwrap_err();
        (line, rule)
    }

    #[test]
    fn a_runbook_has_a_title_a_purpose_and_steps() {
        let runbook: RunbookText = GOOD.parse().unwrap();
        assert_eq!(runbook.title(), "Wake x99");
        assert_eq!(runbook.purpose(), "When silver is wanted\nand it sleeps.");
        assert_eq!(runbook.steps()[0], "Look:\n\n```sh\nlabctl host show x99\n```");
        assert_eq!(runbook.steps()[1], "Wake it.");
        assert_eq!(runbook.to_string(), GOOD);
    }

    #[test]
    fn an_answer_that_stands_in_a_fence_is_read_without_it() {
        let fenced = format!("\n```markdown\n{GOOD}```\n");
        assert_eq!(fenced.parse::<RunbookText>(), GOOD.parse::<RunbookText>());
    }

    #[test]
    fn a_text_in_another_form_is_refused_with_the_line() {
        assert_eq!(refused("").0, 1);
        assert_eq!(refused("\n\nSure! Here it is:\n# A").0, 3);
        assert_eq!(refused("# A\n## Steps\n1. x\n"), (2, "before the steps stands what it is for"));
        assert_eq!(refused("# A\nb\n## Plan\n1. x\n"), (3, "after the purpose comes `## Steps`"));
        assert_eq!(refused("# A\nb\n"), (2, "`## Steps` is missing"));
        assert_eq!(refused("# A\nb\n## Steps\n\n").0, 3);
        assert_eq!(
            refused("# A\nb\n## Steps\n2. x\n").1,
            "steps are numbered 1, 2, 3 without gaps"
        );
        assert_eq!(refused("# A\nb\n## Steps\n1. x\nGood luck!\n").0, 5);
        assert_eq!(refused("# A\nb\n## Steps\n- x\n").0, 4);
        let many: String = (1..=101).map(|number| format!("{number}. x\n")).collect();
        assert_eq!(
            refused(&format!("# A\nb\n## Steps\n{many}")).1,
            "a runbook has at most 100 steps"
        );
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(text in "# [a-z]{1,9}\n[a-z \n]{1,40}\n## Steps\n1. [a-z]{1,9}\n( {0,4}[a-z]{0,9}\n){0,6}") {
            if let Ok(runbook) = text.parse::<RunbookText>() {
                prop_assert_eq!(runbook.to_string().parse::<RunbookText>(), Ok(runbook));
            }
        }
    }
}
