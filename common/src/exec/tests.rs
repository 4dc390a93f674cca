use std::{
    io::{Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use nix::{sys::signal::kill, unistd::Pid};

use super::{fake::Answer, fake::FakeExec, *};

/// Waits for something that must come true soon; fails after 10 s.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come true: {what}");
        std::thread::yield_now();
    }
}

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script]).deadline(Duration::from_secs(20))
}

async fn run(program: Program) -> Result<Output, ExecError> {
    SystemExec.run(program).await
}

/// Zombies count as gone: whoever adopted them may take its time.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(Pid::from_raw(pid), None).is_err() || stat.contains(") Z ")
}

#[tokio::test]
async fn output_and_input_go_through() {
    let output = run(shell("cat; echo words >&2").stdin("hello")).await.expect("output");
    assert_eq!((output.text().as_str(), output.stderr_tail.as_str()), ("hello", "words"));
}

#[tokio::test]
async fn large_input_and_output_do_not_block_each_other() {
    let bytes = vec![b'x'; 1 << 20];
    let output = run(Program::new("cat").stdin(bytes.clone())).await.expect("output");
    assert!(output.stdout == bytes);
}

#[tokio::test]
async fn unread_input_is_not_an_error() {
    run(Program::new("true").stdin(vec![0; 1 << 20])).await.expect("success");
}

#[tokio::test]
async fn the_environment_is_what_was_given_and_a_path() {
    let output = run(Program::new("env").env("LANG", "C")).await.expect("output");
    let text = output.text();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["LANG=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
}

#[tokio::test]
async fn a_failure_tells_code_words_and_arguments_but_not_the_environment() {
    let error = run(shell("echo no space left >&2; exit 3").env("PGPASSWORD", "hunter2"))
        .await
        .expect_err("a failure");
    let message = error.to_string();
    assert!(message.contains("failed with exit code 3; it said: no space left"), "{message}");
    assert!(message.contains("/bin/sh -c 'echo"), "{message}");
    assert!(!format!("{error:?}{message}").contains("hunter2"));
}

#[tokio::test]
async fn other_exit_codes_can_be_accepted() {
    assert_eq!(run(shell("exit 4").accept([0, 4])).await.expect("accepted").code, 4);
}

#[tokio::test]
async fn a_signal_is_named() {
    let error = run(shell("kill -9 $$")).await.expect_err("a failure");
    assert!(error.to_string().contains("was ended by SIGKILL"), "{error}");
}

#[tokio::test]
async fn a_missing_program_is_told_from_a_missing_directory() {
    let missing = run(Program::new("no-such-program")).await.expect_err("no program");
    assert!(matches!(missing, ExecError::NotFound { .. }), "{missing}");
    let nowhere = run(Program::new("true").directory("/nonexistent")).await.expect_err("nowhere");
    assert!(matches!(nowhere, ExecError::Spawn { .. }), "{nowhere}");
}

#[tokio::test]
async fn too_much_output_is_an_error() {
    let exact = run(shell("printf 1234").output_bytes_max(4)).await.expect("just enough");
    assert_eq!(exact.text(), "1234");
    let error = run(shell("cat /dev/zero").output_bytes_max(4)).await.expect_err("too much");
    assert!(matches!(error, ExecError::OutputTooLarge { limit_bytes: 4, .. }), "{error}");
}

#[tokio::test]
async fn at_the_deadline_the_whole_group_is_killed() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let script = "sleep 600 & echo $! > pid; echo half >&2; wait";
    let program = shell(script).directory(dir.path()).deadline(Duration::from_millis(500));
    let error = run(program).await.expect_err("too late");
    let ExecError::Deadline { stderr_tail, .. } = &error else { panic!("{error}") };
    assert_eq!(stderr_tail, "half");
    let child = pid_in(&dir.path().join("pid"));
    eventually("the grandchild is gone", || is_gone(child));
}

#[tokio::test]
async fn dropping_the_future_kills_the_whole_group() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("pid");
    let mut running = Box::pin(run(
        shell("sleep 600 & echo $! > pid.new; mv pid.new pid; wait").directory(dir.path())
    ));
    let written = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = &mut running => panic!("ended: {ended:?}"),
        () = written => {}
    }
    drop(running);
    let child = pid_in(&path);
    eventually("the grandchild is gone", || is_gone(child));
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipe_does_not_delay_the_end() {
    let began = Instant::now();
    let output = run(shell("sleep 600 & echo done")).await.expect("output");
    assert_eq!(output.text(), "done\n");
    assert!(began.elapsed() < Duration::from_secs(10));
}

fn pid_in(path: &Path) -> i32 {
    std::fs::read_to_string(path).expect("a pid file").trim().parse().expect("a pid")
}

#[test]
fn a_stream_is_read_to_its_good_end() {
    let mut stream = SystemExec.stream(shell("printf abc; echo fine >&2")).expect("started");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a good end");
    let finished = stream.finish().expect("a good end");
    assert_eq!((text.as_str(), finished.stderr_tail.as_str()), ("abc", "fine"));
}

#[test]
fn a_stream_of_a_failing_program_never_ends_well() {
    let mut stream = SystemExec.stream(shell("printf abc; echo bad >&2; exit 1")).expect("started");
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).expect_err("a bad end");
    assert_eq!(bytes, b"abc");
    assert!(error.to_string().contains("exit code 1; it said: bad"), "{error}");
    assert!(matches!(stream.finish(), Err(ExecError::Exit { code: Some(1), .. })));
}

#[test]
fn a_stuck_stream_is_killed_at_its_deadline() {
    let program = shell("printf abc; sleep 600").deadline(Duration::from_millis(300));
    let mut stream = SystemExec.stream(program).expect("started");
    stream.read_to_end(&mut Vec::new()).expect_err("too late");
    assert!(matches!(stream.finish(), Err(ExecError::Deadline { .. })));
}

#[test]
fn a_program_that_closes_its_output_but_stays_is_killed_at_its_deadline() {
    let program = shell("exec >&-; sleep 600").deadline(Duration::from_millis(300));
    let mut stream = SystemExec.stream(program).expect("started");
    stream.read_to_end(&mut Vec::new()).expect_err("too late");
    assert!(matches!(stream.finish(), Err(ExecError::Deadline { .. })));
}

#[test]
fn a_stream_can_be_killed_from_another_thread() {
    let mut stream = SystemExec.stream(shell("printf abc; sleep 600")).expect("started");
    let killer = stream.killer();
    let mut first = [0; 3];
    stream.read_exact(&mut first).expect("the first bytes");
    let thread = std::thread::spawn(move || killer.kill());
    stream.read_to_end(&mut Vec::new()).expect_err("killed");
    thread.join().expect("no panic");
    assert!(matches!(stream.finish(), Err(ExecError::Killed { .. })));
}

#[test]
fn a_dropped_stream_leaves_nothing_behind() {
    let mut stream = SystemExec.stream(shell("echo $$; sleep 600")).expect("started");
    let mut line = [0; 16];
    let size = stream.read(&mut line).expect("a line");
    let pid = String::from_utf8_lossy(&line[..size]).trim().parse().expect("a pid");
    drop(stream);
    eventually("the program is gone", || is_gone(pid));
}

#[test]
fn a_stream_obeys_its_limit() {
    let program = shell("cat /dev/zero").output_bytes_max(100_000);
    let mut stream = SystemExec.stream(program).expect("started");
    stream.read_to_end(&mut Vec::new()).expect_err("too much");
    assert!(matches!(stream.finish(), Err(ExecError::OutputTooLarge { limit_bytes: 100_000, .. })));
}

#[test]
fn a_stream_can_be_fed() {
    let mut stream = SystemExec.stream(Program::new("cat").stdin_piped()).expect("started");
    let mut input = stream.take_stdin().expect("a pipe");
    input.write_all(b"fed").expect("written");
    drop(input);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a good end");
    assert_eq!(text, "fed");
}

#[test]
fn a_stream_gets_the_bytes_it_was_given() {
    let mut stream =
        SystemExec.stream(Program::new("cat").stdin(vec![7; 1 << 20])).expect("started");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a good end");
    assert!(bytes == vec![7; 1 << 20]);
}

#[tokio::test]
async fn a_supervised_program_is_watched_and_ends() {
    let mut program =
        SystemExec.supervise(shell("echo out; echo err >&2; exit 7")).expect("started");
    let ended = program.wait().await.expect("an end");
    assert_eq!(ended, Ended { code: Some(7), signal: None });
    eventually("both lines are there", || program.lines() == ["out", "err"]);
}

#[tokio::test]
async fn a_polite_program_ends_when_it_is_asked() {
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let mut program = SystemExec.supervise(shell(script)).expect("started");
    eventually("it is up", || program.lines() == ["up"]);
    let ended = program.terminate(Duration::from_secs(20)).await.expect("an end");
    assert_eq!(ended.code, Some(0));
}

#[tokio::test]
async fn a_deaf_program_is_killed_after_the_grace() {
    let script = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    let mut program = SystemExec.supervise(shell(script)).expect("started");
    eventually("it is up", || program.lines() == ["up"]);
    let ended = program.terminate(Duration::from_millis(200)).await.expect("an end");
    assert_eq!(ended.signal, Some(9));
}

#[tokio::test]
async fn a_dropped_supervised_program_is_killed_with_its_children() {
    let program = SystemExec.supervise(shell("sleep 600 & echo $!; wait")).expect("started");
    eventually("it is up", || !program.lines().is_empty());
    let child = program.lines()[0].parse().expect("a pid");
    drop(program);
    eventually("the grandchild is gone", || is_gone(child));
}

#[test]
fn debug_hides_environment_and_input() {
    let program = Program::new("psql").env("PGPASSWORD", "hunter2").stdin("hunter3");
    let shown = format!("{program:?}");
    assert!(shown.contains("PGPASSWORD") && !shown.contains("hunter"), "{shown}");
}

#[tokio::test]
async fn a_fake_answers_by_program_and_arguments() {
    let fake = FakeExec::default().on("zfs", Answer::exit(1, "no such pool")).on_args(
        "zfs",
        &["list"],
        [Answer::stdout("a"), Answer::stdout("b")],
    );
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(
            fake.run(Program::new("/sbin/zfs").args(["list", "-H"])).await.expect("output").text(),
        );
    }
    assert_eq!(seen, ["a", "b", "b"]);
    assert!(matches!(fake.run(Program::new("zfs")).await, Err(ExecError::Exit { .. })));
    assert!(matches!(fake.run(Program::new("git")).await, Err(ExecError::NotFound { .. })));
    assert_eq!(fake.calls()[0].argv, ["/sbin/zfs", "list", "-H"]);
}

#[test]
fn a_fake_stream_fails_like_a_real_one() {
    let fake = FakeExec::default().on("pg_dump", Answer::stdout("half").with_code(1));
    let mut stream = fake.stream(Program::new("pg_dump")).expect("started");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect_err("a bad end");
    assert_eq!(bytes, b"half");
    assert!(matches!(stream.finish(), Err(ExecError::Exit { code: Some(1), .. })));
}

#[test]
fn a_fake_stream_can_be_killed_and_fed() {
    let fake = FakeExec::default().on("psql", Answer::stdout("x"));
    let mut stream = fake.stream(Program::new("psql").stdin_piped()).expect("started");
    stream.take_stdin().expect("a pipe").write_all(b"select 1").expect("written");
    stream.killer().kill();
    stream.read_to_end(&mut Vec::new()).expect_err("killed");
    assert!(matches!(stream.finish(), Err(ExecError::Killed { .. })));
    assert_eq!(fake.calls()[0].stdin, b"select 1");
}

#[tokio::test]
async fn a_fake_supervised_program_ends_when_told() {
    let fake = FakeExec::default().on("llama-server", Answer::stdout("listening\n"));
    let mut program = fake.supervise(Program::new("llama-server")).expect("started");
    assert_eq!(program.lines(), ["listening"]);
    let crash = Ended { code: None, signal: Some(11) };
    assert_eq!(fake.end("llama-server", crash), 1);
    assert_eq!(program.wait().await.expect("an end"), crash);
    let mut again = fake.supervise(Program::new("llama-server")).expect("started");
    let ended = again.terminate(Duration::from_secs(1)).await.expect("an end");
    assert_eq!(ended.signal, Some(15));
}
