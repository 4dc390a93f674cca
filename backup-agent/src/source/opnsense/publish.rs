//! The redacted copy into a Git working tree.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::manifest::Revision;
use crate::{
    ids::RunId,
    source::git::{Git, GitError, GitTools, remote::Remote},
};

/// Where the copy goes.
#[derive(Clone, Debug)]
pub struct Publication {
    /// A Git working tree that is there.
    pub tree: PathBuf,
    /// The file below it.
    pub file: PathBuf,
    /// Who commits, as `Name <mail@host>`.
    pub author: Author,
    /// Where it is pushed then.
    pub push: Option<Push>,
    /// What runs and where.
    pub tools: GitTools,
}

/// Where commits go.
#[derive(Clone, Debug)]
pub struct Push {
    /// The repository's server and how we log in there.
    pub remote: Remote,
    /// The address of the repository.
    pub url: String,
}

/// Who commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// Name.
    pub name: String,
    /// Mail address.
    pub mail: String,
}

/// What became of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is a new commit.
    Committed(String),
    /// It is what the newest commit holds.
    Unchanged(String),
}

/// Why the copy is not in Git.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Git failed.
    #[error("git failed in `{}`", tree.display())]
    Git {
        /// The working tree.
        tree: PathBuf,
        /// Why.
        #[source]
        source: GitError,
    },
    /// The file could not be written.
    #[error("could not write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else works there.
    #[error(
        "the working tree `{}` has staged changes; nothing was committed into them", tree.display()
    )]
    Busy {
        /// The working tree.
        tree: PathBuf,
    },
}

impl Publication {
    /// Commits `document` if it is new, and nothing else; pushes if that is wanted,
    /// also what an earlier run could not push.
    ///
    /// # Errors
    ///
    /// Why it is not there, or not pushed.
    pub async fn publish(
        &self,
        run: RunId,
        host: &str,
        document: &str,
        revision: &Revision,
    ) -> Result<Outcome, PublishError> {
        let failed = |source| PublishError::Git { tree: self.tree.clone(), source };
        let git = match &self.push {
            Some(push) => Git::reaching(&self.tools, run, &push.remote),
            None => Git::local(&self.tools, run),
        };
        let git = git.map_err(failed)?;
        let file = self.file.display().to_string();
        let staged = git.ask(&self.tree, ["diff", "--cached", "--quiet"], 1).await;
        if staged.map_err(failed)? != 0 {
            return Err(PublishError::Busy { tree: self.tree.clone() });
        }
        self.write(document)?;
        // `--sparse` and `--force`: neither rules of the tree keep the copy out.
        git.run(&self.tree, ["add", "--force", "--", &file]).await.map_err(failed)?;
        let changed = git.ask(&self.tree, ["diff", "--cached", "--quiet", "--", &file], 1).await;
        let changed = changed.map_err(failed)? != 0;
        if changed {
            self.commit(&git, host, &file, revision).await.map_err(failed)?;
        }
        let head = git.run(&self.tree, ["rev-parse", "HEAD"]).await.map_err(failed)?;
        if let Some(push) = &self.push {
            let sent = git.run(&self.tree, ["push", "--quiet", "--", &push.url, "HEAD"]).await;
            sent.map_err(|error| failed(error.explained(&push.url)))?;
        }
        let head = head.trim().to_owned();
        Ok(if changed { Outcome::Committed(head) } else { Outcome::Unchanged(head) })
    }

    async fn commit(
        &self,
        git: &Git,
        host: &str,
        file: &str,
        revision: &Revision,
    ) -> Result<(), GitError> {
        let Author { name, mail } = &self.author;
        let name = format!("user.name={name}");
        let mail = format!("user.email={mail}");
        let args = [
            "-c",
            &name,
            "-c",
            &mail,
            "-c",
            "commit.gpgSign=false",
            "commit",
            "--quiet",
            "--no-verify",
            "--cleanup=verbatim",
            "--file=-",
            "--",
            file,
        ];
        git.feed(&self.tree, args, message(host, revision)).await.map(drop)
    }

    /// Beside the file and renamed, so that nobody sees half of it. No link is
    /// followed out of the tree.
    fn write(&self, document: &str) -> Result<(), PublishError> {
        let path = self.tree.join(&self.file);
        let failed = |source| PublishError::Write { path: path.clone(), source };
        let mut folder = self.tree.clone();
        for part in self.file.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            match fs::symlink_metadata(&folder) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(failed(io::Error::other("a part of it is no folder"))),
                Err(_) => fs::create_dir(&folder).map_err(failed)?,
            }
        }
        let partial = path.with_extension("partial");
        fs::write(&partial, document).map_err(failed)?;
        fs::rename(&partial, &path).map_err(failed)
    }
}

/// Whether a path names a file below whatever it is joined to.
#[must_use]
pub fn is_below(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some()
        && path.components().all(|part| matches!(part, Component::Normal(name) if name != ".git"))
}

fn message(host: &str, revision: &Revision) -> String {
    let when = revision.moment();
    let when = when.map_or_else(|| revision.time.clone(), |moment| moment.to_string());
    let mut message = format!("{host}: configuration of {when}\n");
    let facts = [("Changed by", &revision.user), ("Change", &revision.description)];
    let facts = facts.into_iter().filter_map(|(what, fact)| Some((what, fact.as_ref()?)));
    for (index, (what, fact)) in facts.enumerate() {
        let line: String = fact.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        message += if index == 0 { "\n" } else { "" };
        message += &format!("{what}: {line}\n");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_who_changed_what_and_when_on_lines_of_their_own() {
        let revision = Revision {
            time: "1763865600.1234".to_owned(),
            user: Some("root@192.0.2.7".to_owned()),
            description: Some("rules\nmade\rchanges".to_owned()),
        };
        assert_eq!(
            message("fw.home.example", &revision),
            "fw.home.example: configuration of 2025-11-23T02:40:00Z\n\nChanged by: \
             root@192.0.2.7\nChange: rules made changes\n"
        );
    }

    #[test]
    fn the_file_stays_in_its_tree() {
        for good in ["config.xml", "opnsense/config.xml"] {
            assert!(is_below(Path::new(good)), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../../x", ".git/config", "a/.git/hooks/x", "."] {
            assert!(!is_below(Path::new(bad)), "{bad}");
        }
    }
}
