//! Other ways to keep a dump, each with its own means to check it and to bring it back.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use crate::{
    bench::{
        dataset::client,
        measure::size_of,
        pipeline::{self, Cost},
    },
    lab::{BACKUP, Lab},
    process::command,
};

/// Opens the repositories of restic and borg.
const PASSWORD: &str = "correct horse battery staple";
/// What restic and borg call the dump.
const FILE: &str = "dump.sql";
/// Archives of borg are told apart by a number.
const ARCHIVE: &str = "dump-";

/// A way to keep a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// `pg_dump -Fc` into a file, compressed by gzip as it is by default.
    Custom,
    /// A plain dump through `zstd` into a file.
    Zstd,
    /// A plain dump into restic.
    Restic,
    /// A plain dump into borg.
    Borg,
}

impl Peer {
    pub(super) const ALL: [Self; 4] = [Self::Custom, Self::Zstd, Self::Restic, Self::Borg];

    /// How it is made.
    pub(super) const fn way(self) -> &'static str {
        match self {
            Self::Custom => "pg_dump -Fc into a file",
            Self::Zstd => "pg_dump piped to zstd -3",
            Self::Restic => "pg_dump piped to restic --stdin",
            Self::Borg => "pg_dump piped to borg, zstd,3",
        }
    }

    /// How it is checked.
    pub(super) const fn check(self) -> &'static str {
        match self {
            Self::Custom => "pg_restore to nowhere",
            Self::Zstd => "zstd --test",
            Self::Restic => "restic check --read-data",
            Self::Borg => "borg check --verify-data",
        }
    }

    /// How it is brought back.
    pub(super) const fn restore(self) -> &'static str {
        match self {
            Self::Custom => "createdb, pg_restore -j2 of the file of pg_dump -Fc",
            Self::Zstd => "createdb, zstd -dc piped to psql",
            Self::Restic => "createdb, restic dump piped to psql",
            Self::Borg => "createdb, borg extract piped to psql",
        }
    }
}

/// All of them, with repositories of their own on the same disk as ours.
#[derive(Debug)]
pub(super) struct Peers {
    folder: PathBuf,
}

impl Peers {
    /// Empty repositories, for the data set `of`.
    pub(super) fn init(lab: &Lab, of: &str) -> anyhow::Result<Self> {
        let folder = lab.folder().join(format!("peers-{of}"));
        let peers = Self { folder };
        for place in ["files", "restic", "borg"] {
            fs::create_dir_all(peers.folder.join(place)).context("make a folder for the peers")?;
        }
        pipeline::run(vec![peers.restic("init")])?;
        let mut init = peers.borg("init");
        init.arg("--encryption=repokey-blake2");
        pipeline::run(vec![init])?;
        Ok(peers)
    }

    /// Makes the backup number `number`; what it cost, and what it takes on the disk.
    pub(super) fn back_up(
        &self,
        lab: &Lab,
        peer: Peer,
        number: usize,
    ) -> anyhow::Result<(Cost, u64)> {
        let before = self.size()?;
        let mut plain = client(&lab.source, "pg_dump", BACKUP);
        plain.arg("--format=plain");
        let cost = match peer {
            Peer::Custom => {
                let mut dump = client(&lab.source, "pg_dump", BACKUP);
                dump.arg("--format=custom").arg("--file").arg(self.file("custom", number));
                pipeline::run(vec![dump])?
            }
            Peer::Zstd => {
                let mut zstd = command("zstd");
                zstd.args(["-q", "-3", "-o"]).arg(self.file("zst", number));
                pipeline::run(vec![plain, zstd])?
            }
            Peer::Restic => {
                let mut backup = self.restic("backup");
                backup.args(["--quiet", "--stdin", "--stdin-filename", FILE]);
                pipeline::run(vec![plain, backup])?
            }
            Peer::Borg => {
                let mut create = self.borg("create");
                create.args(["--compression=zstd,3", "--stdin-name", FILE]);
                create.args([&format!("::{ARCHIVE}{number}"), "-"]);
                pipeline::run(vec![plain, create])?
            }
        };
        Ok((cost, self.size()?.saturating_sub(before)))
    }

    /// Reads back all that a peer keeps, or the file number `number`.
    pub(super) fn check(&self, lab: &Lab, peer: Peer, number: usize) -> anyhow::Result<Cost> {
        let command = match peer {
            Peer::Custom => {
                let mut restore = client(&lab.source, "pg_restore", BACKUP);
                restore.args(["--file", "/dev/null"]).arg(self.file("custom", number));
                restore
            }
            Peer::Zstd => {
                let mut zstd = command("zstd");
                zstd.args(["-q", "--test"]).arg(self.file("zst", number));
                zstd
            }
            Peer::Restic => {
                let mut check = self.restic("check");
                check.args(["--quiet", "--read-data"]);
                check
            }
            Peer::Borg => {
                let mut check = self.borg("check");
                check.arg("--verify-data");
                check
            }
        };
        pipeline::run(vec![command])
    }

    /// The programs that bring backup number `number` back into `database`, which exists.
    pub(super) fn restore(
        &self,
        lab: &Lab,
        peer: Peer,
        number: usize,
        database: &str,
    ) -> Vec<Command> {
        let mut psql = client(&lab.nas, "psql", database);
        psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]);
        match peer {
            Peer::Custom => {
                let mut restore = client(&lab.nas, "pg_restore", database);
                restore.args(["--jobs=2", "--dbname", database]).arg(self.file("custom", number));
                vec![restore]
            }
            Peer::Zstd => {
                let mut zstd = command("zstd");
                zstd.args(["-q", "-d", "-c"]).arg(self.file("zst", number));
                vec![zstd, psql]
            }
            Peer::Restic => {
                let mut dump = self.restic("dump");
                dump.args(["latest", &format!("/{FILE}")]);
                vec![dump, psql]
            }
            Peer::Borg => {
                let mut extract = self.borg("extract");
                extract.args(["--stdout", &format!("::{ARCHIVE}{number}")]);
                vec![extract, psql]
            }
        }
    }

    fn file(&self, kind: &str, number: usize) -> PathBuf {
        self.folder.join("files").join(format!("{number}.{kind}"))
    }

    /// Caches are not what is kept.
    fn size(&self) -> anyhow::Result<u64> {
        let of = |place: &str| size_of(&self.folder.join(place));
        Ok(of("files")? + of("restic")? + of("borg")?)
    }

    fn restic(&self, verb: &str) -> Command {
        let mut restic = command("restic");
        restic
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_REPOSITORY", self.folder.join("restic"))
            .env("RESTIC_CACHE_DIR", self.folder.join("restic-cache"))
            .arg(verb);
        restic
    }

    fn borg(&self, verb: &str) -> Command {
        let mut borg = command("borg");
        borg.env("BORG_PASSPHRASE", PASSWORD)
            .env("BORG_REPO", self.folder.join("borg"))
            .env("BORG_BASE_DIR", self.folder.join("borg-cache"))
            .arg(verb);
        borg
    }
}
