//! What processes take, as Linux counts it in /proc.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Clock ticks in a second: Linux shows processes so many on every machine (man 5 proc).
const TICKS: u64 = 100;

/// What a process has taken so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// Memory in use now, and at its peak. Of these, memory that no file stands behind.
    pub resident_kib: u64,
    pub peak_kib: u64,
    pub anonymous_kib: u64,
}

impl Usage {
    /// Of the process with this number, or `self`.
    pub fn of(process: &str) -> Outcome<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name, in parentheses, may hold spaces.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Usage {
            cpu: Duration::from_millis(ticks * 1000 / TICKS),
            resident_kib: kib("VmRSS:"),
            peak_kib: kib("VmHWM:"),
            anonymous_kib: kib("RssAnon:"),
        })
    }

    /// Of this process.
    pub fn own() -> Outcome<Usage> {
        Usage::of("self")
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let Usage { cpu, resident_kib, peak_kib, anonymous_kib } = *self;
        write!(
            f,
            "cpu {:.2} s, memory {:.1} MiB ({:.1} anonymous), peak {:.1} MiB",
            cpu.as_secs_f64(),
            mib(resident_kib),
            mib(anonymous_kib),
            mib(peak_kib)
        )
    }
}

/// A program that was started and said that it is ready. It ends with this value.
pub struct Running {
    child: Child,
    /// How long it took to say so.
    pub ready_after: Duration,
    /// What it said.
    pub line: String,
}

impl Running {
    /// Starts a program, and waits for the line in which it says that it is ready. Its log goes to a
    /// file.
    pub fn start(program: &str, args: &[&str], log: &Path) -> Outcome<Running> {
        let log_file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let begun = Instant::now();
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("it has no output")?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains(" ready "));
        let ready_after = begun.elapsed();
        let Some(line) = line else {
            child.wait()?;
            return Err(format!("{program} did not start: see {}", log.display()).into());
        };
        Ok(Running { child, ready_after, line })
    }

    /// What it has taken so far.
    pub fn usage(&self) -> Outcome<Usage> {
        Usage::of(&self.child.id().to_string())
    }

    /// Has it stop in order, and waits for that.
    pub fn stop(mut self) -> Outcome<Duration> {
        let begun = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(begun.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
