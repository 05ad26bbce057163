//! Runs of the client's program, as from a terminal.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::wait::DEADLINE;

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails the test unless it went well; returns what it printed.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.text(), self.stderr);
        self.text()
    }

    /// Fails the test unless it ended with this exit code and explained itself: all of `words` must
    /// be in what it wrote to stderr.
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.stderr);
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "{word:?} is not in: {}", self.stderr);
        }
    }
}

/// The client's program with a home directory of its own and, usually, settings.
#[derive(Debug, Clone)]
pub struct Cli {
    home: PathBuf,
    config: Option<PathBuf>,
}

impl Cli {
    /// In `home`, with these settings.
    pub fn new(home: &Path, config: Option<&Path>) -> Cli {
        Cli { home: home.to_path_buf(), config: config.map(Path::to_path_buf) }
    }

    /// The command, not run yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = clean_command(env!("CARGO_BIN_EXE_p2pdfs"), &self.home);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(args);
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        run(&mut self.command(args), &[])
    }

    /// Runs it with `input` as its standard input.
    pub fn run_with<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Run {
        run(&mut self.command(args), input)
    }

    /// Runs it and fails the test unless it went well; returns what it printed.
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        self.run(args).ok()
    }

    /// What it prints with `--json`, which must be one value.
    pub fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> serde_json::Value {
        let mut command = self.command(&["--json"]);
        command.args(args);
        let text = run(&mut command, &[]).ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
    }
}

/// A command that sees nothing of the user's home and settings.
pub fn clean_command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(home).env("HOME", home);
    for (name, directory) in [
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_RUNTIME_DIR", ".run"),
    ] {
        command.env(name, home.join(directory));
    }
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.env("RUST_BACKTRACE", "1");
    command
}

/// Runs a command to its end, within the deadline.
pub fn run(command: &mut Command, input: &[u8]) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("it was asked for");
    let input = input.to_vec();
    // A program that wants no more of its input may close it early.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let out = collect(child.stdout.take().expect("it was asked for"));
    let err = collect(child.stderr.take().expect("it was asked for"));
    let (out, err) = (out.recv_timeout(DEADLINE), err.recv_timeout(DEADLINE));
    if out.is_err() || err.is_err() {
        let _ = child.kill();
        let _ = child.wait();
        let (program, args) = (command.get_program(), command.get_args());
        panic!("{program:?} did not end within {DEADLINE:?}: {:?}", args.collect::<Vec<_>>());
    }
    let status = child.wait().expect("it is our child");
    writer.join().expect("the writer does not panic");
    let stderr = String::from_utf8_lossy(&err.expect("checked above")).into_owned();
    Run { code: status.code(), stdout: out.expect("checked above"), stderr }
}

fn collect(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is all that there is.
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}
