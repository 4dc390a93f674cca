//! A person at a keyboard: `labctl`, `grpcurl`, and the certificate that both show.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    lab::workspace,
    process::{command, output},
};

/// A person that logs in, or has.
#[derive(Clone, Debug)]
pub struct Person {
    programs: PathBuf,
    context: PathBuf,
}

impl Person {
    /// Has the programs of a folder, and keeps what belongs to the login in another.
    #[must_use]
    pub fn new(programs: &Path, context: PathBuf) -> Self {
        Self { programs: programs.to_path_buf(), context }
    }

    /// Runs `labctl`, and returns what it prints.
    ///
    /// # Errors
    /// When it does not succeed; says what it wrote.
    pub fn labctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(&mut self.labctl_command(arguments))
    }

    /// The same, with its result as JSON.
    ///
    /// # Errors
    /// As [`Person::labctl`].
    pub fn labctl_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.labctl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("labctl {arguments:?} printed no JSON: {text}"))
    }

    /// The command itself, for what needs its exit code or its output as it comes.
    #[must_use]
    pub fn labctl_command(&self, arguments: &[&str]) -> Command {
        let mut labctl = command(self.programs.join("labctl"));
        labctl.arg("--context").arg(&self.context).args(arguments);
        labctl
    }

    /// Folder with the certificate: `cert.pem`, `key.pem`, `ca.pem`.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.context.join("identity")
    }

    /// The grpcurl that `packaging/setup.sh` installs.
    #[must_use]
    pub fn grpcurl_program(&self) -> PathBuf {
        workspace().join(".dev/tools/bin/grpcurl")
    }

    /// Runs grpcurl against an address.
    ///
    /// # Errors
    /// When it does not succeed; says what it wrote.
    pub fn grpcurl(
        &self,
        address: &str,
        arguments: &[&str],
        call: &[&str],
    ) -> anyhow::Result<String> {
        let identity = self.identity();
        let mut grpcurl = command(self.grpcurl_program());
        grpcurl
            .arg("-cacert")
            .arg(identity.join("ca.pem"))
            .arg("-cert")
            .arg(identity.join("cert.pem"))
            .arg("-key")
            .arg(identity.join("key.pem"))
            .args(["-max-time", "120"])
            .args(arguments)
            .arg(address)
            .args(call);
        output(&mut grpcurl)
    }
}
