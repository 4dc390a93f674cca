//! PostgreSQL in trouble, with few rights, of other versions, with everything in it.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use homelab_backup_agent::{
    backup::Backup,
    drill::{self, Report, Target, Verdict},
    ids::RunId,
    manifest::Contents,
    progress::Progress,
    source::postgres::{
        Databases, PostgresSource,
        grants::{self, Weight},
    },
};
use homelab_common::{error_chain::Chain, exec::Program, secret::Secret};
use homelab_tests::{
    majors::{NEWER, OLDER},
    postgres::{Cluster, MAJOR, USER, run},
};
use tokio_util::sync::CancellationToken;

use crate::bench::*;

fn because(report: &Report) -> String {
    match &report.verdict {
        Verdict::Unverified { because } => because.join("\n"),
        other => panic!("expected an open drill, got {other:?}"),
    }
}

/// A stand-in for the psql sessions that restore, not for those that ask.
fn only_when_restoring(script: &str) -> String {
    format!("case \"$*\" in *--no-align*) exec REAL \"$@\" ;; esac\n{script}")
}

fn scratch_databases(nas: &Cluster) -> String {
    nas.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ '^homelab_scratch_'")
}

#[tokio::test]
async fn a_target_without_room_leaves_it_open_whether_the_backup_is_good() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("small");
    fs::create_dir(&path).expect("a folder");
    let mount = Mounted::tmpfs(&path, "2m");
    run(Program::new("chmod").args(["711", &folder.path().display().to_string()]));
    run(Program::new("chown").args(["postgres", &path.display().to_string()]));
    nas.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", path.display()));
    nas.sql("postgres", &format!("ALTER ROLE {USER} SET default_tablespace = small"));
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    let said = because(&report);
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(scratch_databases(&nas), "0");
    drop((nas, mount));
}

#[tokio::test]
async fn a_target_that_goes_away_leaves_it_open_whether_the_backup_is_good() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let dump = bench.read(&backed.snapshot, "database.sql").expect("a dump");
    // In the middle of the restore, as if an administrator had done it.
    let end = "\nSELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());\n";
    let (before, after) = dump.split_once("\nCREATE INDEX page_title").expect("an index");
    let ended = format!("{before}{end}CREATE INDEX page_title{after}");
    let report = bench.drill(&bench.forge(&backed.manifest, &ended), &nas).await;
    let said = because(&report.expect("a report"));
    assert!(said.contains("terminating connection due to administrator command"), "{said}");
    assert_eq!(scratch_databases(&nas), "0");
}

#[tokio::test]
async fn a_missing_psql_leaves_it_open_and_names_the_package() {
    let (source, nas, mut bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    bench.clients = bench.folder.path().join("none");
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert!(because(&report).contains("apt install postgresql-client"), "{report:?}");
}

#[tokio::test]
async fn a_locale_that_the_target_lacks_leaves_it_open() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let mut manifest = backed.manifest.clone();
    contents_mut(&mut manifest).database.collate = "tlh_KX.UTF-8".to_owned();
    let dump = bench.read(&backed.snapshot, "database.sql").expect("a dump");
    let report = bench.drill(&bench.forge(&manifest, &dump), &nas).await.expect("a report");
    let said = because(&report);
    assert!(said.contains("invalid") && said.contains("tlh_KX.UTF-8"), "{said}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_ends_the_step_and_not_the_night() {
    let (source, mut bench) = (seeded(), Bench::new());
    bench.limits.step_max = Duration::from_millis(1500);
    // It takes what is sent, and never says a word.
    bench.shim(MAJOR, &[("psql", "exec cat > /dev/null")]);
    let said = message(bench.run(&source).await);
    assert!(said.contains("could not connect") && said.contains("no answer within"), "{said}");
    bench.assert_nothing_is_there().await;
}

#[tokio::test]
async fn pitfall_07_an_extension_that_the_target_lacks_is_named_and_proves_nothing() {
    let (source, bench) = (seeded(), Bench::new());
    let backed = bench.backed(&source).await;
    // This one comes without any extension but plpgsql and vector.
    let bare = cluster_of(NEWER[0], "nas");
    let report = bench.drill(&backed.snapshot, &bare).await.expect("a report");
    let said = because(&report);
    assert!(said.contains("extension citext 1.6 is not installed on the target"), "{said}");
    assert_eq!(scratch_databases(&bare), "0");
}

#[tokio::test]
async fn pitfall_09_large_objects_are_in_every_dump_and_missed_when_they_are_not() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    assert_eq!(contents(&backed.manifest).large_objects.count, 1);
    let dump = bench.read(&backed.snapshot, "database.sql").expect("a dump");
    assert!(dump.contains("lo_create") && dump.contains("lowrite"));
    // What `pg_dump -n` writes: no large objects at all.
    let without = |line: &&str| !line.contains("pg_catalog.lo") && !line.contains("LARGE OBJECT");
    let dump: String = dump.lines().filter(without).map(|line| format!("{line}\n")).collect();
    let report = bench.drill(&bench.forge(&backed.manifest, &dump), &nas).await.expect("a report");
    let found = differences(&report);
    assert!(found.contains("0 of 1 large objects are there"), "{found}");
}

/// A source that connects as a role with few rights.
fn source_as(bench: &Bench, cluster: &Cluster, role: &str) -> PostgresSource {
    let mut server = server(cluster);
    server.user = role.to_owned();
    server.password = Some(Secret::new("p".to_owned()));
    PostgresSource { server, databases: Databases::One(DATABASE.to_owned()), tools: bench.tools() }
}

#[tokio::test]
async fn pitfall_10_the_printed_grants_are_enough_and_read_all_data_is_not() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    source.sql("postgres", "CREATE ROLE naive LOGIN PASSWORD 'p'; GRANT pg_read_all_data TO naive");
    let naive = source_as(&bench, &source, "naive").probe(new_run()).await.expect("a probe");
    assert!(!naive.suffices());
    let said: Vec<_> = naive.findings.iter().map(ToString::to_string).collect();
    let said = said.join("\n");
    for part in ["row-level security would hide rows of app.page", "large objects", "verifiers"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(run_as(&bench, &source, "naive").await.is_err());

    let lines = grants::grants(MAJOR, "homelab_backup", &[DATABASE.to_owned()]);
    let password = "ALTER ROLE homelab_backup PASSWORD 'p';";
    let script: String = lines
        .iter()
        .map(|line| if line.starts_with("\\password") { password } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    run(source.psql("postgres").stdin(script));
    let careful = source_as(&bench, &source, "homelab_backup").probe(new_run()).await;
    let careful = careful.expect("a probe");
    assert!(careful.suffices(), "{:?}", careful.findings);
    assert!(careful.findings.iter().all(|finding| finding.weight == Weight::Note));
    let snapshot = match run_as(&bench, &source, "homelab_backup").await {
        Ok(backed) => backed.snapshot,
        Err(error) => panic!("{}", Chain(&error)),
    };
    let globals = bench.read(&snapshot, "globals.sql").expect("globals");
    assert!(globals.contains("SCRAM-SHA-256$"), "as the probe says: {globals}");
    let report = bench.drill(&snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);

    source.sql(DATABASE, "GRANT DELETE ON app.page TO homelab_backup");
    let greedy = source_as(&bench, &source, "homelab_backup").probe(new_run()).await;
    let findings = greedy.expect("a probe").findings;
    assert_eq!(findings[0].weight, Weight::Excess);
    assert_eq!(findings[0].to_string(), "homelab_backup may change app.page");
}

async fn run_as(
    bench: &Bench,
    cluster: &Cluster,
    role: &str,
) -> Result<homelab_backup_agent::backup::Backed, homelab_backup_agent::backup::BackupError> {
    let source = Arc::new(source_as(bench, cluster, role));
    let backup = Backup { source, ..bench.backup(cluster) };
    backup.run(new_run(), &Progress::unwatched(), &CancellationToken::new()).await
}

#[tokio::test]
async fn pitfall_35_a_plain_dump_is_restored_by_several_sessions_at_once() {
    let (source, nas, mut bench) = (seeded(), cluster("nas"), Bench::new());
    source.sql(
        DATABASE,
        "CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, 50000) i;
         CREATE INDEX ON big (t); CREATE UNIQUE INDEX ON big (i); ALTER TABLE big ADD PRIMARY KEY (i)",
    );
    let backed = bench.backed(&source).await;
    let log = bench.folder.path().join("sessions");
    let script = format!("tee {}/$$ | REAL \"$@\"", log.display());
    fs::create_dir(&log).expect("a folder");
    bench.shim(MAJOR, &[("psql", &only_when_restoring(&script))]);
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);
    let sessions: Vec<PathBuf> =
        fs::read_dir(&log).expect("a folder").flatten().map(|entry| entry.path()).collect();
    assert_eq!(sessions.len(), 2);
    for session in sessions {
        let given = fs::read_to_string(session).expect("what it was given");
        assert!(given.contains("CREATE INDEX") || given.contains("PRIMARY KEY"), "{given}");
    }
}

#[tokio::test]
async fn what_a_drill_had_no_time_to_mark_is_swept_and_no_failure_stops_the_sweep() {
    let (nas, bench) = (cluster("nas"), Bench::new());
    let name = |run: RunId| format!("{}{}", drill::postgres::PREFIX, run.compact());
    let (stuck, unmarked) = (new_run(), new_run());
    for run in [stuck, unmarked] {
        // As a drill leaves them that is killed right after it made its database.
        let (name, marker) = (name(run), drill::postgres::MARKER);
        nas.sql("postgres", &format!("CREATE ROLE {name}"));
        nas.sql("postgres", &format!("COMMENT ON ROLE {name} IS '{marker} {run} hx310-db'"));
        nas.sql("postgres", &format!("CREATE DATABASE {name} OWNER {name}"));
    }
    nas.sql("postgres", &format!("ALTER DATABASE {} IS_TEMPLATE true", name(stuck)));
    let Target::Postgres(target) = bench.target(&nas) else { panic!("a server") };
    let sweeping = move || drill::postgres::sweep(&target, new_run(), |_| false);
    let removed = tokio::task::spawn_blocking(sweeping).await.expect("swept").expect("swept");
    assert_eq!(removed, [name(unmarked), format!("role {}", name(unmarked))]);
    let left = nas.sql("postgres", "SELECT datname FROM pg_database WHERE datname ~ '^homelab'");
    assert_eq!(left, name(stuck));
}

#[tokio::test]
async fn databases_of_older_and_newer_servers_are_backed_up_and_drilled() {
    let mut bench = Bench::new();
    bench.use_all_clients();
    for (from, to) in [(OLDER, OLDER), (OLDER, MAJOR), (NEWER[1], NEWER[1])] {
        let (source, target) = (cluster_of(from, "source"), cluster_of(to, "nas"));
        plain_seed(&source);
        let backed = match bench.run(&source).await {
            Ok(backed) => backed,
            Err(error) => panic!("{from}: {}", Chain(&error)),
        };
        assert_eq!(contents(&backed.manifest).database.major(), from);
        let Contents::Postgres(found) = &backed.manifest.contents else { panic!("a database") };
        let version = &found.dump_version;
        assert!(version.starts_with(&from.max(MAJOR).to_string()), "{version}");
        let report = bench.drill(&backed.snapshot, &target).await;
        assert_eq!(report.expect("a report").verdict, Verdict::Passed, "{from} to {to}");
    }
}

#[tokio::test]
async fn pitfall_08_a_server_that_was_upgraded_is_refused_until_its_client_is_there() {
    let mut bench = Bench::new();
    let source = cluster_of(NEWER[1], "source");
    plain_seed(&source);
    let said = message(bench.run(&source).await);
    assert!(said.contains("apt install postgresql-client-18"), "{said}");
    // Chosen anew in every run: nothing is remembered.
    bench.use_all_clients();
    assert!(bench.run(&source).await.is_ok());
}

/// What every version can do without any extension.
fn plain_seed(cluster: &Cluster) {
    cluster.sql("postgres", "CREATE ROLE wiki; CREATE DATABASE wiki OWNER wiki");
    cluster.sql(
        DATABASE,
        "CREATE SCHEMA app AUTHORIZATION wiki;
         CREATE TABLE app.page (id serial PRIMARY KEY, t text NOT NULL, price numeric, seen timestamptz,
           twice int GENERATED ALWAYS AS (2 * length(t)) STORED, tags text[], doc jsonb, span interval);
         ALTER TABLE app.page OWNER TO wiki;
         INSERT INTO app.page (t, price, seen, tags, doc, span)
           SELECT md5(i::text), i / 8.0, now(), ARRAY['a', NULL], '{\"a\": 1.50}', i * interval '1 s'
           FROM generate_series(1, 3000) i;
         CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
         CREATE VIEW app.short AS SELECT id FROM app.page WHERE id < 10;
         SELECT lo_from_bytea(0, '\\x00ff');",
    );
}

#[tokio::test]
async fn a_restore_is_compared_to_its_last_comment() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    source.sql(DATABASE, EVERYTHING);
    let backed = bench.backed(&source).await;
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);

    let dump = bench.read(&backed.snapshot, "database.sql").expect("a dump");
    for (lost, named) in [
        ("ALTER DEFAULT PRIVILEGES", "default privileges of wiki on tables in app is missing"),
        ("CREATE EVENT TRIGGER", "event trigger told is missing"),
        ("COMMENT ON COLUMN", "comment on table column app.part.twice is missing"),
        ("CREATE STATISTICS", "statistics app.together is missing"),
        ("CREATE RULE", "rule silent of app.quiet is missing"),
        ("GRANT ALL ON FUNCTION", "function app.twice(i integer) has other definition or rights"),
        ("CREATE PUBLICATION", "publication feed is missing"),
    ] {
        let at = dump.find(lost).unwrap_or_else(|| panic!("no {lost} in {dump}"));
        let (before, rest) = dump.split_at(at);
        let (_, after) = rest.split_once(";\n").expect("an end");
        let without = format!("{before}\n{after}");
        let without = without.replace("ALTER EVENT TRIGGER told OWNER TO labadmin;", "");
        let without = if lost == "CREATE EVENT TRIGGER" || !named.contains("missing") {
            without
        } else {
            // What is about the lost one is lost with it.
            let about = |line: &&str| {
                let alters = line.starts_with("ALTER") && line.contains("app.together");
                !alters && !line.starts_with("ALTER PUBLICATION")
            };
            without.lines().filter(about).map(|line| format!("{line}\n")).collect()
        };
        let forged = bench.forge(&backed.manifest, &without);
        let report = bench.drill(&forged, &nas).await.expect("a report");
        let found = differences(&report);
        assert!(found.contains(named), "{lost}: {found}");
    }
}

const EVERYTHING: &str = "
  CREATE TABLE app.part (id int, twice int GENERATED ALWAYS AS (2 * id) STORED, a int, b int)
    PARTITION BY LIST (id);
  CREATE TABLE app.part_1 PARTITION OF app.part FOR VALUES IN (1);
  CREATE TABLE app.part_rest PARTITION OF app.part DEFAULT;
  CREATE INDEX ON app.part (a);
  INSERT INTO app.part (id, a, b) SELECT i % 3, i, i FROM generate_series(1, 100) i;
  ALTER TABLE app.part ADD CHECK (a > 0);
  COMMENT ON COLUMN app.part.twice IS 'twice as much; ''quoted''';
  CREATE STATISTICS app.together ON a, b FROM app.part;
  CREATE TABLE app.child (page int REFERENCES app.page (id)) WITH (fillfactor = 70);
  INSERT INTO app.child VALUES (1), (NULL);
  CREATE TABLE app.quiet (i int);
  CREATE RULE silent AS ON DELETE TO app.quiet DO INSTEAD NOTHING;
  CREATE SEQUENCE app.odd INCREMENT 7 START 3 CYCLE MAXVALUE 1000;
  SELECT nextval('app.odd');
  GRANT EXECUTE ON FUNCTION app.twice TO reader;
  CREATE FUNCTION app.told() RETURNS event_trigger LANGUAGE plpgsql AS $$
--
-- Data for Name: page; Type: TABLE DATA; Schema: app; Owner: wiki
--
BEGIN END $$;
  CREATE FUNCTION app.body(i int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT i; SELECT i + 1; END;
  CREATE EVENT TRIGGER told ON ddl_command_end EXECUTE FUNCTION app.told();
  ALTER DEFAULT PRIVILEGES FOR ROLE wiki IN SCHEMA app GRANT SELECT ON TABLES TO reader;
  CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
  CREATE TABLE app.\"odd (x) FROM stdin;\" (\"a b\" app.positive, c char(5), j json);
  INSERT INTO app.\"odd (x) FROM stdin;\" VALUES (1, 'x', '{}');
  CREATE UNLOGGED TABLE app.fast (i int); INSERT INTO app.fast VALUES (1);
  CREATE PUBLICATION feed FOR TABLE app.page;
  COMMENT ON DATABASE wiki IS 'the wiki';
";

/// Several databases of one server, of which one is empty and one has an odd name.
fn several(cluster: &Cluster) {
    cluster.sql("postgres", "CREATE DATABASE empty; CREATE DATABASE \"odd / name\"");
    cluster.sql(
        "odd / name",
        "CREATE TABLE page (id int PRIMARY KEY); INSERT INTO page SELECT generate_series(1, 500);
         ALTER TABLE page OWNER TO wiki",
    );
}

fn backup_of(bench: &Bench, cluster: &Cluster, databases: Databases) -> Backup {
    let source = PostgresSource { server: server(cluster), databases, tools: bench.tools() };
    Backup { source: Arc::new(source), ..bench.backup(cluster) }
}

#[tokio::test]
async fn a_whole_server_is_one_snapshot_with_a_file_for_each_database() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    several(&source);
    let backup = backup_of(&bench, &source, Databases::All);
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    let backed = match backup.run(new_run(), &progress, &cancel).await {
        Ok(backed) => backed,
        Err(error) => panic!("{}", Chain(&error)),
    };
    let files: Vec<&str> = backed.snapshot.files.iter().map(|file| file.name.as_str()).collect();
    for file in [
        "database-empty.sql",
        "database-odd%20%2F%20name.sql",
        "database-postgres.sql",
        "database-wiki.sql",
        "globals.sql",
    ] {
        assert!(files.contains(&file), "{file}: {files:?}");
    }
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!((report.count("databases"), report.count("rows")), (4, 20_005 + 500));
    assert_eq!(scratch_databases(&nas), "0");

    // What is wrong with one of them is told by its name.
    let mut manifest = backed.manifest.clone();
    let Contents::Postgres(contents) = &mut manifest.contents else { panic!("databases") };
    let odd = contents.databases.iter_mut().find(|stored| stored.file.contains("odd"));
    odd.expect("the odd one").contents.tables[0].rows += 1;
    let forged = bench.forge_files(&manifest, &backed.snapshot);
    let report = bench.drill(&forged, &nas).await.expect("a report");
    assert_eq!(
        differences(&report),
        "database `odd / name`: table public.page has 500 of 501 rows"
    );
}

#[tokio::test]
async fn only_the_named_databases_are_backed_up_and_a_missing_one_fails_the_run() {
    let (source, bench) = (seeded(), Bench::new());
    several(&source);
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    let names = |names: &[&str]| Databases::Named(names.iter().map(|&name| name.into()).collect());
    let backup = backup_of(&bench, &source, names(&["wiki", "empty"]));
    let backed = backup.run(new_run(), &progress, &cancel).await.expect("a snapshot");
    assert_eq!(backed.snapshot.files.len(), 4);
    let backup = backup_of(&bench, &source, names(&["wiki", "gone"]));
    let said = message(backup.run(new_run(), &progress, &cancel).await);
    assert!(said.contains("database \"gone\" does not exist"), "{said}");
}
