//! A database like that of a wiki: documents in words as frequent as those of a language, which
//! compress and change a little, and blobs that neither compress nor repeat.

use std::{
    fmt::Write as _,
    io::{BufWriter, Write},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use homelab_common::chance::{Chance, SeededChance};

use crate::{
    postgres::{CLIENTS, Cluster, MAJOR, PASSWORD, USER, run},
    process::command,
};

const SEED: u64 = 7;
const VOCABULARY: usize = 8_000;
const WORDS_A_DOCUMENT: u32 = 200;
const BLOB_BYTES: usize = 1 << 20;

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) documents: u32,
    pub(super) blobs: u32,
}

/// A client program of PostgreSQL that can connect to a database as superuser.
pub(super) fn client(cluster: &Cluster, program: &str, database: &str) -> Command {
    let mut client = command(format!("{CLIENTS}/{MAJOR}/bin/{program}"));
    client
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", USER)
        .env("PGPASSWORD", PASSWORD)
        .env("PGDATABASE", database)
        .env("LC_ALL", "C.UTF-8");
    client
}

/// Makes the database anew and fills it.
///
/// # Errors
/// When psql fails.
pub(super) fn create(cluster: &Cluster, database: &str, size: Size) -> anyhow::Result<()> {
    run(cluster.client("dropdb", "postgres").args(["--if-exists", database]));
    run(cluster.client("createdb", "postgres").args([database]));
    cluster.sql(
        database,
        "create table documents (id int primary key, title text not null, body text not null, \
           updated timestamptz not null default now());
         create table blobs (id int primary key, data bytea not null);
         alter table blobs alter column data set storage external;",
    );
    let chance = SeededChance::new(SEED);
    copy(cluster, database, "documents (id, title, body)", |into| {
        documents(into, &chance, size.documents)
    })?;
    copy(cluster, database, "blobs (id, data)", |into| blobs(into, &chance, size.blobs))?;
    run(cluster
        .psql(database)
        .stdin("create index on documents (title); vacuum analyze;")
        .deadline(Duration::from_secs(120)));
    Ok(())
}

/// Makes the database anew and fills it by `pgbench -i`: rows that compress to a hundredth.
///
/// # Errors
/// When pgbench fails.
pub(super) fn create_pgbench(cluster: &Cluster, database: &str, scale: u32) -> anyhow::Result<()> {
    run(cluster.client("dropdb", "postgres").args(["--if-exists", database]));
    run(cluster.client("createdb", "postgres").args([database]));
    let mut pgbench = client(cluster, "pgbench", database);
    pgbench.args(["--initialize", "--quiet", "--scale", &scale.to_string()]);
    super::pipeline::run(vec![pgbench]).map(drop)
}

/// So many transactions of pgbench, each of which changes three rows and adds one.
///
/// # Errors
/// When pgbench fails.
pub(super) fn change_pgbench(
    cluster: &Cluster,
    database: &str,
    transactions: u32,
) -> anyhow::Result<()> {
    let mut pgbench = client(cluster, "pgbench", database);
    pgbench.args(["--client=1", "--random-seed=7", "--transactions", &transactions.to_string()]);
    super::pipeline::run(vec![pgbench]).map(drop)
}

/// What a day changes: every 400th document, one in 160 is new, and two blobs.
pub(super) fn change(cluster: &Cluster, database: &str, size: Size) {
    let new = size.documents / 160;
    cluster.sql(
        database,
        &format!(
            "update documents set body = body || ' edited', updated = now() where id % 400 = 3;
             insert into documents select 1000000 + i, 'new ' || i, repeat(md5(i::text) || ' ', 30)
               from generate_series(1, {new}) i;
             insert into blobs select 1000000 + i, (select data from blobs where id = i) || 'x'::bytea
               from generate_series(1, 2) i;"
        ),
    );
}

fn copy(
    cluster: &Cluster,
    database: &str,
    table: &str,
    fill: impl FnOnce(&mut BufWriter<ChildStdin>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut psql = client(cluster, "psql", database);
    psql.args(["--no-psqlrc", "--quiet", "--command", &format!("copy {table} from stdin")]);
    let mut child = psql.stdin(Stdio::piped()).spawn().context("start psql")?;
    let input = child.stdin.take().context("psql's input")?;
    let mut input = BufWriter::with_capacity(1 << 20, input);
    let filled = fill(&mut input).and_then(|()| input.flush().context("feed psql"));
    drop(input);
    let status = child.wait().context("wait for psql")?;
    filled?;
    ensure!(status.success(), "psql copies into {table}: {status}");
    Ok(())
}

fn documents(into: &mut impl Write, chance: &dyn Chance, count: u32) -> anyhow::Result<()> {
    let words = Vocabulary::new(chance);
    let mut line = String::new();
    for id in 0..count {
        line.clear();
        write!(line, "{id}\ttitle {id} {}\t", words.pick(chance))?;
        for place in 0..WORDS_A_DOCUMENT {
            if place > 0 {
                line.push(' ');
            }
            line.push_str(words.pick(chance));
        }
        line.push('\n');
        into.write_all(line.as_bytes()).context("feed psql")?;
    }
    Ok(())
}

fn blobs(into: &mut impl Write, chance: &dyn Chance, count: u32) -> anyhow::Result<()> {
    let mut bytes = vec![0; BLOB_BYTES];
    let mut line = Vec::with_capacity(2 * BLOB_BYTES + 32);
    for id in 0..count {
        chance.fill(&mut bytes);
        line.clear();
        // COPY reads a backslash as an escape, so that `\\x` is the `\x` of a bytea in hexadecimal.
        write!(line, "{id}\t\\\\x")?;
        line.extend(
            bytes
                .iter()
                .flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        );
        line.push(b'\n');
        into.write_all(&line).context("feed psql")?;
    }
    Ok(())
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Words of which the n-th is 1/n as frequent as the first (Zipf's law).
struct Vocabulary {
    words: Vec<String>,
    /// Sum of the weights up to each word.
    sums: Vec<f64>,
}

impl Vocabulary {
    fn new(chance: &dyn Chance) -> Self {
        let mut sum = 0.0;
        let (words, sums) = (1..=VOCABULARY)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                (word(chance), sum)
            })
            .unzip();
        Self { words, sums }
    }

    fn pick(&self, chance: &dyn Chance) -> &str {
        let total = self.sums.last().copied().unwrap_or_default();
        let point = chance.fraction() * total;
        let place = self.sums.partition_point(|sum| *sum <= point);
        self.words.get(place).map_or("", String::as_str)
    }
}

/// Two to ten letters.
fn word(chance: &dyn Chance) -> String {
    let mut random = [0; 11];
    chance.fill(&mut random);
    let length = 2 + usize::from(random[10] % 9);
    random[..length].iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_come_often_and_rare_ones_seldom() {
        let chance = SeededChance::new(1);
        let words = Vocabulary::new(&chance);
        let first = (0..10_000).filter(|_| words.pick(&chance) == words.words[0]).count();
        // One over the 8,000th harmonic number: 10.5 %.
        assert!((900..1_250).contains(&first), "{first}");
    }

    #[test]
    fn the_same_seed_gives_the_same_rows() {
        let rows = || {
            let chance = SeededChance::new(SEED);
            let mut text = Vec::new();
            documents(&mut text, &chance, 3).expect("memory");
            blobs(&mut text, &chance, 1).expect("memory");
            text
        };
        let text = rows();
        assert_eq!(text, rows());
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 4);
    }
}
