use super::*;

/// A file with one table, `kept (name UNIQUE)`, and one whose rows must name a row of the other
/// by the time of the commit.
fn file() -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let conn = Connection::open(folder.path().join("store.db")).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA foreign_keys = ON;
         CREATE TABLE kept (name TEXT PRIMARY KEY);
         CREATE TABLE late (name TEXT REFERENCES kept (name) DEFERRABLE INITIALLY DEFERRED);",
    )
    .unwrap();
    (folder, conn)
}

/// What another connection finds in the file.
fn names(folder: &tempfile::TempDir) -> Vec<String> {
    let conn = Connection::open(folder.path().join("store.db")).unwrap();
    let mut names = conn.prepare("SELECT name FROM kept ORDER BY name").unwrap();
    names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn desk(conn: Connection) -> Desk {
    Desk { conn: Some(conn), waiting: Vec::new() }
}

/// Writes a name in a part of its own, and waits for it to be kept.
fn write(desk: &mut Desk, name: &str) -> oneshot::Receiver<Result<(), StoreError>> {
    desk.begin().unwrap();
    let args = [Arg::Text(Some(name.to_owned()))];
    direct::run(desk.conn().unwrap(), "INSERT INTO kept VALUES ($1)", &args).unwrap();
    direct::run(desk.conn().unwrap(), "RELEASE part", &[]).unwrap();
    let (tell, kept) = oneshot::channel();
    desk.waiting.push(tell);
    kept
}

#[test]
fn one_commit_keeps_the_parts_of_all_who_wait_and_tells_them_afterwards() {
    let (folder, conn) = file();
    let mut desk = desk(conn);
    let mut waiting = [write(&mut desk, "a"), write(&mut desk, "b")];
    assert!(waiting.iter_mut().all(|kept| kept.try_recv().is_err()));
    assert_eq!(names(&folder), Vec::<String>::new());
    desk.keep();
    assert!(waiting.iter_mut().all(|kept| kept.try_recv().unwrap().is_ok()));
    assert_eq!(names(&folder), ["a", "b"]);
}

#[test]
fn a_part_that_is_undone_takes_nothing_of_the_others_with_it() {
    let (folder, conn) = file();
    let mut desk = desk(conn);
    let mut first = write(&mut desk, "a");
    desk.begin().unwrap();
    direct::run(desk.conn().unwrap(), "INSERT INTO kept VALUES ('b')", &[]).unwrap();
    desk.undo().unwrap();
    let mut last = write(&mut desk, "c");
    desk.keep();
    assert!(first.try_recv().unwrap().is_ok() && last.try_recv().unwrap().is_ok());
    assert_eq!(names(&folder), ["a", "c"]);
}

#[test]
fn those_who_wait_are_told_when_an_error_of_another_ends_the_transaction() {
    let (folder, conn) = file();
    let mut desk = desk(conn);
    let mut first = write(&mut desk, "a");
    desk.begin().unwrap();
    let twice = "INSERT OR ROLLBACK INTO kept VALUES ('a')";
    assert!(direct::run(desk.conn().unwrap(), twice, &[]).is_err());
    desk.after_an_error();
    assert!(first.try_recv().unwrap().is_err());
    // And nothing more is written in what would be no transaction.
    assert!(matches!(desk.intact("keep a name"), Err(StoreError::Other { .. })));
    desk.undo().unwrap();
    let mut next = write(&mut desk, "b");
    desk.keep();
    assert!(next.try_recv().unwrap().is_ok());
    assert_eq!(names(&folder), ["b"]);
}

#[test]
fn a_commit_that_fails_is_told_to_all_and_leaves_nothing() {
    let (folder, conn) = file();
    let mut desk = desk(conn);
    let mut waiting = [write(&mut desk, "a"), write(&mut desk, "b")];
    direct::run(desk.conn().unwrap(), "INSERT INTO late VALUES ('nobody')", &[]).unwrap();
    desk.keep();
    assert!(waiting.iter_mut().all(|kept| kept.try_recv().unwrap().is_err()));
    let mut next = write(&mut desk, "c");
    desk.keep();
    assert!(next.try_recv().unwrap().is_ok());
    assert_eq!(names(&folder), ["c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once_are_all_kept_but_for_those_who_left() {
    let (folder, conn) = file();
    let writer = Arc::new(Writer::new(conn).unwrap());
    let callers = (0..64).map(|number: u32| {
        let writer = Arc::clone(&writer);
        async move {
            let mut turn = writer.begin().await.unwrap();
            let args = [Arg::Text(Some(format!("{number:02}")))];
            turn.run("keep a name", "INSERT INTO kept VALUES ($1)", &args).unwrap();
            match number % 4 {
                0 => drop(turn),
                1 => turn.rollback().unwrap(),
                _ => turn.commit().await.unwrap(),
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let expected: Vec<String> =
        (0..64).filter(|number| number % 4 > 1).map(|number| format!("{number:02}")).collect();
    assert_eq!(names(&folder), expected);
    writer.close().await;
    assert!(matches!(writer.begin().await, Err(StoreError::Busy { .. })));
}

#[tokio::test]
async fn who_waits_for_another_process_gets_the_turn_that_it_leaves() {
    let (folder, conn) = file();
    conn.busy_timeout(Duration::ZERO).unwrap();
    let writer = Writer::new(conn).unwrap();
    let other = Connection::open(folder.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO kept VALUES ('theirs')").unwrap();
    let mut turn = Box::pin(writer.begin());
    assert!(futures_util::poll!(&mut turn).is_pending());
    other.execute_batch("COMMIT").unwrap();
    let mut turn = turn.await.unwrap();
    turn.run("keep a name", "INSERT INTO kept VALUES ('ours')", &[]).unwrap();
    turn.commit().await.unwrap();
    assert_eq!(names(&folder), ["ours", "theirs"]);
}
