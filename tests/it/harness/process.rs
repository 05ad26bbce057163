//! A program of ours as a real process: its output is kept, its end can be waited for, and it never
//! outlives the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::wait::DEADLINE;

/// A running (or ended) process.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// What a process has said so far.
#[derive(Default)]
struct Output {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    /// Of stdout and stderr, how many have ended.
    ended: usize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `found` sees something in the lines, or `None` when the process ended without it.
    fn wait<T>(&self, mut found: impl FnMut(&[String]) -> Option<T>) -> Result<Option<T>, ()> {
        let deadline = Instant::now() + DEADLINE;
        let mut heard = self.lock();
        loop {
            if let Some(value) = found(&heard.lines) {
                return Ok(Some(value));
            }
            if heard.ended == 2 {
                return Ok(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(());
            }
            heard =
                self.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Process {
    /// Starts `command`; `name` is what its output is listed under.
    pub fn start(name: &str, command: &mut Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        let output = Arc::new(Output::default());
        listen(child.stdout.take().expect("it was asked for"), output.clone());
        listen(child.stderr.take().expect("it was asked for"), output.clone());
        Process { name: name.to_string(), child, output }
    }

    /// Waits for a line that begins with `prefix`, and returns what follows there.
    /// When the process ends without it, the error is all that it said.
    pub fn line_after(&self, prefix: &str) -> Result<String, String> {
        let wanted = |lines: &[String]| {
            lines.iter().find_map(|line| line.strip_prefix(prefix).map(str::to_string))
        };
        match self.output.wait(wanted) {
            Ok(Some(rest)) => Ok(rest.trim().to_string()),
            Ok(None) => Err(self.said()),
            Err(()) => panic!("{} never said {prefix:?}; it said:\n{}", self.name, self.said()),
        }
    }

    /// Waits until some line holds `text`.
    pub fn wait_for(&self, text: &str) {
        let has = |lines: &[String]| lines.iter().any(|line| line.contains(text)).then_some(());
        let heard = self.output.wait(has);
        assert_eq!(heard, Ok(Some(())), "{} never said {text:?}:\n{}", self.name, self.said());
    }

    /// All that it said.
    pub fn said(&self) -> String {
        self.output.lock().lines.join("\n")
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let never = self.output.wait(|_| None::<()>);
        assert!(never.is_ok(), "{} does not end; it said:\n{}", self.name, self.said());
        self.child.wait().expect("it is our child")
    }

    /// kill -9, as after a crash.
    pub fn kill(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// kill -9 in the middle of its start: when its first thread has had the processor for `worked`, or
    /// when it says that it is `ready`. True when it had not said so.
    pub fn kill_starting(&mut self, worked: Duration, ready: &str) -> bool {
        let is_ready = |heard: &Heard| heard.lines.iter().any(|line| line.starts_with(ready));
        // Nobody announces this. It passes in no time, and a pause would miss most of it.
        while self.has_worked().is_some_and(|so_far| so_far < worked)
            && !is_ready(&self.output.lock())
            && self.is_running()
        {
            thread::yield_now();
        }
        assert!(self.is_running(), "{} ended by itself; it said:\n{}", self.name, self.said());
        self.kill();
        // Then nothing more is heard.
        self.wait();
        !is_ready(&self.output.lock())
    }

    /// How long its first thread has had the processor; `None` where the system does not say.
    fn has_worked(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.id())).ok()?;
        Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
    }

    /// SIGTERM, and waits for the orderly end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.id());
        let done = Command::new("sh").args(["-c", &command]).status().expect("sh runs");
        assert!(done.success(), "{command} failed");
    }

    /// What it said, under its name.
    pub fn log(&self) -> String {
        format!("--- {} ---\n{}", self.name, self.said())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(stream: impl Read + Send + 'static, output: Arc<Output>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            output.lock().lines.push(text);
            output.changed.notify_all();
            line.clear();
        }
        output.lock().ended += 1;
        output.changed.notify_all();
    });
}
