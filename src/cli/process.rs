//! Processes that are started here and may be stopped by another run of the program.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::exit::{Exit, Failure};

/// A process as a state file remembers it. The start time tells it from a later process that was
/// given the same number: that one must never be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    pub name: String,
    pub pid: u32,
    /// In clock ticks since the machine's start, from /proc/PID/stat.
    pub started: u64,
    pub address: String,
}

impl ProcessRecord {
    /// A handle to it, if it still runs.
    pub fn find(&self) -> Option<Running> {
        let running = Running::open(self.pid).ok()?;
        // Looked at after the handle was opened: if it is the right process now, it was then.
        let (started, is_zombie) = start_time(self.pid)?;
        (started == self.started && !is_zombie).then_some(running)
    }
}

/// Servers are started as the running program under another name. In a program that is not p2pdfs, a
/// benchmark say, this makes such a process into `p2pdfs`, whose path is given. Returns only in all
/// other processes, or with why it cannot be run.
pub fn become_server(p2pdfs: &str) -> Option<Failure> {
    let called = std::env::args_os().next()?;
    let name =
        Path::new(&called).file_name().filter(|n| *n == "p2pdfs-main" || *n == "p2pdfs-node")?;
    let error = Command::new(p2pdfs).arg0(name).args(std::env::args_os().skip(1)).exec();
    Some(Failure::because(Exit::Failed, format!("cannot run {p2pdfs}"), &error))
}

/// The field `starttime` of /proc/PID/stat (proc(5)), and whether only its remains are there.
fn start_time(pid: u32) -> Option<(u64, bool)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name, can hold anything, and ends with the last bracket.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let is_zombie = matches!(*fields.first()?, "Z" | "X");
    Some((fields.get(19)?.parse().ok()?, is_zombie))
}

/// A process that was running when the handle was opened.
pub struct Running(OwnedFd);

impl Running {
    /// A handle to a process that is a child of ours: its number is not used again meanwhile.
    pub fn open(pid: u32) -> io::Result<Running> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Running(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Asks it to stop in order.
    pub fn ask_to_stop(&self) {
        self.send(Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.send(Signal::KILL);
    }

    fn send(&self, signal: Signal) {
        // One that has ended meanwhile needs no signal.
        if let Err(error) = pidfd_send_signal(&self.0, signal) {
            log::debug!("a signal was not sent: {error}");
        }
    }

    /// Waits until it has ended; false when it still runs after `time`.
    pub fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut descriptors = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut descriptors, timeout.as_ref()) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Stops it: in order if it can be done in `time`, or else at once.
    /// Returns false when it had to be killed.
    pub fn stop(&self, time: Duration) -> bool {
        self.ask_to_stop();
        if self.wait(time) {
            return true;
        }
        self.kill();
        self.wait(time);
        false
    }
}

/// A process that was started here.
pub struct Started {
    pub record: ProcessRecord,
    pub log: PathBuf,
    child: Child,
    lines: Receiver<String>,
}

/// How this program is started as one of the servers.
pub struct Role<'a> {
    /// `p2pdfs-main` or `p2pdfs-node`.
    pub program: &'a str,
    /// What it is called here.
    pub name: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'a str, String)>,
    pub log: PathBuf,
}

/// Why a process did not come to be ready.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot start {name}")]
    Spawn { name: String, source: io::Error },
    #[error("{name} ended before it was ready ({how})")]
    Died { name: String, how: String, log: PathBuf },
    #[error("{name} is not ready after {}", seconds(.after))]
    TooSlow { name: String, after: Duration, log: PathBuf },
}

fn seconds(time: &Duration) -> String {
    format!("{} s", time.as_secs())
}

impl Started {
    /// Starts this very program in another role. It is a process group of its own, so that what a
    /// terminal sends to us does not reach it: we stop it in order.
    pub fn spawn(role: Role<'_>) -> Result<Started, StartError> {
        let Role { program, name, arguments, environment, log } = role;
        let failed = |source| StartError::Spawn { name: name.clone(), source };
        let log_file = File::options().create(true).append(true).open(&log).map_err(failed)?;
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg0(program)
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pid = child.id();
        let started = start_time(pid).map_or(0, |(started, _)| started);
        let output = child.stdout.take().expect("its stdout was asked for as a pipe");
        let lines = first_line(output).map_err(failed)?;
        let record = ProcessRecord { name, pid, started, address: String::new() };
        Ok(Started { record, log, child, lines })
    }

    /// Waits for the line in which it says that it is ready; its last word is the address.
    pub fn wait_ready(&mut self, time: Duration) -> Result<(), StartError> {
        let (name, log) = (self.record.name.clone(), self.log.clone());
        match self.lines.recv_timeout(time) {
            Ok(line) if line.contains(" ready ") => {
                // `p2pdfs-main ready ADDRESS` or `p2pdfs-node ready node=N ADDRESS`.
                for word in line.split_whitespace().skip(2) {
                    match word.strip_prefix("node=") {
                        Some(number) => self.record.name = format!("node {number}"),
                        None => self.record.address = word.to_string(),
                    }
                }
                Ok(())
            }
            Ok(_) => {
                let how = self.child.wait().map_or("unknown".to_string(), |how| how.to_string());
                Err(StartError::Died { name, how, log })
            }
            Err(_) => Err(StartError::TooSlow { name, after: time, log }),
        }
    }

    /// Waits for its end and returns how it ended.
    pub fn wait(mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait()
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

/// The first line of what a process prints; an empty one if it ends without.
fn first_line(output: ChildStdout) -> io::Result<Receiver<String>> {
    let (sender, lines) = bounded(1);
    thread::Builder::new().name("first line".to_string()).spawn(move || {
        let mut line = String::new();
        // Without a line the process is as good as ended, and its log says why.
        let _ = BufReader::new(output).read_line(&mut line);
        let _ = sender.send(line);
    })?;
    Ok(lines)
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> Vec<String> {
    const BYTES: u64 = 16 * 1024;
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_reused_number_is_not_found() {
        let pid = std::process::id();
        let (started, is_zombie) = start_time(pid).expect("we run");
        assert!(!is_zombie);
        let mut record = ProcessRecord { name: "us".into(), pid, started, address: String::new() };
        assert!(record.find().is_some());
        record.started += 1;
        assert!(record.find().is_none());
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let running = Running::open(child.id()).expect("it runs");
        assert!(!running.wait(Duration::ZERO));
        assert!(running.stop(Duration::from_secs(10)));
        child.wait().expect("it ended");
    }
}
