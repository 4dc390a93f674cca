//! Who you are and where the controller is: the folder that `labctl login` wrote.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use homelab_common::{
    chance::Chance,
    error_chain::Chain,
    exit::Exit,
    tls::{Identity, Roots},
};
use homelab_rpc::{
    enrol::{Enrolment, IdentityFiles, enrolment_in},
    peer::SpiffeId,
};
use jiff::Timestamp;

use crate::failure::Failure;

/// Below the folder of the context: certificate, key, roots, and where they came from.
const IDENTITY: &str = "identity";

/// What `labctl login` wrote down.
#[derive(Clone, Debug)]
pub struct Context {
    /// Address of the controller's gRPC port, as HOST:PORT.
    pub controller: String,
    /// Name in the controller's certificate.
    pub controller_name: String,
    /// Who you are.
    pub id: SpiffeId,
}

/// The folder of the context: as given, else `$XDG_CONFIG_HOME/homelab`, else `~/.config/homelab`.
///
/// # Errors
/// Wrong usage when none of the three is known.
pub fn folder(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        return Ok(given.to_path_buf());
    }
    let from =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_CONFIG_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".config")))
        .map(|base| base.join("homelab"))
        .ok_or_else(|| {
            Failure::new(Exit::Usage, "neither HOME nor XDG_CONFIG_HOME is set")
                .next("give --context FOLDER")
        })
}

/// Where certificate and key of a context lie.
#[must_use]
pub fn identity_folder(folder: &Path) -> PathBuf {
    folder.join(IDENTITY)
}

impl Context {
    /// Reads the context of a folder.
    ///
    /// # Errors
    /// Denied when nobody has logged in there; failed when the files cannot be understood.
    pub fn load(folder: &Path) -> Result<Self, Failure> {
        let place = identity_folder(folder);
        let found = enrolment_in(&place).map_err(|error| broken(&error))?;
        let Enrolment { identity, controller_address, controller_name } =
            found.ok_or_else(|| {
                let words =
                    format!("nobody is logged in: there is no identity in {}", place.display());
                Failure::new(Exit::Denied, words).next("labctl login")
            })?;
        let id = identity.parse().map_err(|error| broken(&error))?;
        Ok(Self { controller: controller_address, controller_name, id })
    }

    /// Certificate and key, and the roots that the controller must chain up to.
    ///
    /// # Errors
    /// Denied when the certificate has ended; failed when the files cannot be understood.
    pub fn identity(folder: &Path, now: Timestamp) -> Result<(Identity, Roots), Failure> {
        let place = identity_folder(folder);
        let identity = Identity::from_dir(&place).map_err(|error| broken(&error))?;
        let roots = Roots::from_dir(&place).map_err(|error| broken(&error))?;
        let ends = identity.facts().not_after;
        if ends <= now {
            let words = format!("your certificate ended at {ends}");
            return Err(Failure::new(Exit::Denied, words).next("labctl login"));
        }
        Ok((identity, roots))
    }
}

/// Writes a whole identity into the folder of a context, in the place of the one that is there.
///
/// # Errors
/// When the folder cannot be written to; the old identity is still there then.
pub fn replace(folder: &Path, files: &IdentityFiles, chance: &dyn Chance) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| {
        Failure::new(Exit::Failed, format!("make the folder {}: {error}", folder.display()))
    })?;
    files.replace(&identity_folder(folder), chance).map_err(|error| broken(&error))
}

/// An address as people type it: without a port, the default is added.
///
/// # Errors
/// Wrong usage when it is no address.
pub fn with_port(address: &str, port: u16) -> Result<String, Failure> {
    let wrong = || Failure::new(Exit::Usage, format!("`{address}` is not ADDRESS or ADDRESS:PORT"));
    if address.is_empty() || address.contains(char::is_whitespace) || address.contains("://") {
        return Err(wrong());
    }
    if address.parse::<SocketAddr>().is_ok() {
        return Ok(address.to_owned());
    }
    if let Ok(bare) = address.parse::<IpAddr>() {
        return Ok(SocketAddr::new(bare, port).to_string());
    }
    match address.rsplit_once(':') {
        Some((_, digits)) if digits.parse::<u16>().is_ok() => Ok(address.to_owned()),
        Some(_) => Err(wrong()),
        None => Ok(format!("{address}:{port}")),
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Exit::Failed, Chain(error).to_string()).next("labctl login")
}

#[cfg(test)]
mod tests {
    use homelab_common::{chance::SeededChance, secret::Secret};

    use super::*;

    #[test]
    fn a_context_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("folder");
        let files = IdentityFiles {
            key: Secret::new("key".to_owned()),
            chain: "chain".to_owned(),
            roots: "roots".to_owned(),
            enrolment: Enrolment {
                identity: "spiffe://home/user/ada/admin".to_owned(),
                controller_address: "127.0.0.1:7440".to_owned(),
                controller_name: "controller.home.arpa".to_owned(),
            },
        };
        replace(folder.path(), &files, &SeededChance::new(1)).expect("written");
        let context = Context::load(folder.path()).expect("read");
        assert_eq!(context.controller, "127.0.0.1:7440");
        assert_eq!(context.id.to_string(), "spiffe://home/user/ada/admin");
    }

    #[test]
    fn without_a_login_the_next_command_is_login() {
        let folder = tempfile::tempdir().expect("folder");
        let Err(Failure::Said(trouble)) = Context::load(folder.path()) else {
            panic!("nobody is logged in")
        };
        assert_eq!((trouble.exit, trouble.next.as_deref()), (Exit::Denied, Some("labctl login")));
    }

    #[test]
    fn a_missing_port_is_added() {
        let port = |address| with_port(address, 7440).ok();
        assert_eq!(port("hx310-db").as_deref(), Some("hx310-db:7440"));
        assert_eq!(port("192.168.200.20").as_deref(), Some("192.168.200.20:7440"));
        assert_eq!(port("fd00::1").as_deref(), Some("[fd00::1]:7440"));
        assert_eq!(port("hx310-db:99").as_deref(), Some("hx310-db:99"));
        assert_eq!(port("https://hx310-db"), None);
        assert_eq!(port("hx310-db:http"), None);
    }
}
