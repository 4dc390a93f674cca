//! A scripted [`Exec`] for tests.

use std::{
    collections::VecDeque,
    io::{self, Cursor, Write},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    Ended, Exec, ExecError, Finished, Output, Program, Streaming, Supervised, program::Stdin,
};
use crate::lock;

/// The process id that scripted programs have.
const PID: u32 = 4_000_000;

/// What a scripted program does.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    stdout: Vec<u8>,
    stderr: String,
    code: i32,
    late: bool,
}

impl Answer {
    /// Writes this and exits with 0.
    pub fn stdout(stdout: impl Into<Vec<u8>>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    /// Writes `stderr` and exits with `code`.
    pub fn exit(code: i32, stderr: impl Into<String>) -> Self {
        Self { code, stderr: stderr.into(), ..Self::default() }
    }

    /// Does not end before its deadline.
    #[must_use]
    pub fn late() -> Self {
        Self { late: true, ..Self::default() }
    }

    /// Writes this to standard error as well.
    #[must_use]
    pub fn with_stderr(mut self, stderr: impl Into<String>) -> Self {
        self.stderr = stderr.into();
        self
    }

    /// Exits with this code after all.
    #[must_use]
    pub const fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    fn judge(self, program: &Program) -> Result<Output, ExecError> {
        let argv = program.argv();
        let stderr_tail = self.stderr;
        if self.late {
            return Err(ExecError::Deadline { argv, after: program.deadline, stderr_tail });
        }
        if !program.accepted.contains(&self.code) {
            return Err(ExecError::Exit { argv, code: Some(self.code), signal: None, stderr_tail });
        }
        Ok(Output { stdout: self.stdout, stderr_tail, code: self.code })
    }
}

/// One use of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The input that was given as bytes, or written to a piped input.
    pub stdin: Vec<u8>,
}

/// Programs that answer by a script. Clones share the script.
///
/// Answers are looked up by the program's file name and the beginning of its
/// arguments; the rule added last is asked first. A rule's answers are used up
/// one by one, the last one again and again. A program without a rule is not
/// installed.
#[derive(Clone, Debug, Default)]
pub struct FakeExec {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    calls: Vec<Arc<Mutex<Call>>>,
    running: Vec<(String, watch::Sender<Option<Ended>>)>,
}

#[derive(Debug)]
struct Rule {
    program: String,
    args: Vec<String>,
    answers: VecDeque<Answer>,
}

impl FakeExec {
    /// Answers every call of `program`, whose arguments do not matter.
    #[must_use]
    pub fn on(self, program: &str, answer: Answer) -> Self {
        self.on_args(program, &[], [answer])
    }

    /// Answers the calls of `program` whose arguments begin with `args`, by one
    /// of `answers` after the other.
    #[must_use]
    pub fn on_args(
        self,
        program: &str,
        args: &[&str],
        answers: impl IntoIterator<Item = Answer>,
    ) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let answers = answers.into_iter().collect();
        lock(&self.state).rules.push(Rule { program: program.into(), args, answers });
        self
    }

    /// All calls so far, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.state).calls.iter().map(|call| lock(call).clone()).collect()
    }

    /// Ends the supervised programs of this name; gives how many there were.
    pub fn end(&self, program: &str, how: Ended) -> usize {
        let mut state = lock(&self.state);
        let (ending, running) =
            std::mem::take(&mut state.running).into_iter().partition(|(name, _)| name == program);
        state.running = running;
        let ending: Vec<_> = ending;
        for (_, ended) in &ending {
            ended.send_replace(Some(how));
        }
        ending.len()
    }

    fn answer(&self, program: &Program) -> Result<(Answer, Arc<Mutex<Call>>), ExecError> {
        let argv = program.argv();
        let stdin = program.input().unwrap_or_default().to_vec();
        let call = Arc::new(Mutex::new(Call { argv: argv.words().to_vec(), stdin }));
        let mut state = lock(&self.state);
        state.calls.push(Arc::clone(&call));
        let name = file_name(program.name());
        let args = &argv.words()[1..];
        let rule = state.rules.iter_mut().rev().find(|rule| {
            rule.program == name && args.starts_with(&rule.args) && !rule.answers.is_empty()
        });
        let answer = rule.and_then(|rule| match rule.answers.len() {
            1 => rule.answers.front().cloned(),
            _ => rule.answers.pop_front(),
        });
        answer
            .map(|answer| (answer, call))
            .ok_or_else(|| ExecError::NotFound { program: program.name().into() })
    }
}

#[async_trait]
impl Exec for FakeExec {
    async fn run(&self, program: Program) -> Result<Output, ExecError> {
        let (answer, _) = self.answer(&program)?;
        let limit_bytes = program.output_limit();
        let output = answer.judge(&program)?;
        if u64::try_from(output.stdout.len()).unwrap_or(u64::MAX) > limit_bytes {
            return Err(ExecError::OutputTooLarge { argv: program.argv(), limit_bytes });
        }
        Ok(output)
    }

    fn stream(&self, program: Program) -> Result<Streaming, ExecError> {
        let (answer, call) = self.answer(&program)?;
        let stdout = Box::new(Cursor::new(answer.stdout.clone()));
        let stdin = (program.stdin == Stdin::Piped).then(|| Box::new(Recording(call)) as _);
        let end = answer
            .judge(&program)
            .map(|Output { stderr_tail, code, .. }| Finished { stderr_tail, code });
        Ok(Streaming::scripted(&program, stdout, stdin, end))
    }

    fn supervise(&self, program: Program) -> Result<Supervised, ExecError> {
        let (answer, _) = self.answer(&program)?;
        let (ended, _) = watch::channel(None);
        let name = file_name(program.name()).to_owned();
        lock(&self.state).running.push((name, ended.clone()));
        let output = String::from_utf8_lossy(&answer.stdout).into_owned() + &answer.stderr;
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        Ok(Supervised::scripted(program.argv(), PID, &lines, ended))
    }
}

struct Recording(Arc<Mutex<Call>>);

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).stdin.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
