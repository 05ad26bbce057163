//! Progress of long commands: a bar on a terminal, and what became of each file for the end.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::exit::Exit;
use super::output::{exit_of, failure, shown};
use crate::causes::with_causes;
use crate::client::{ClientError, Observer, Report};
use crate::ids::Version;
use crate::wire::FaultCode;

/// What became of one file, as `--json` shows it.
#[derive(Debug, Serialize)]
pub struct FileLine {
    pub from: String,
    pub to: String,
    /// `stored`, `fetched`, `verified`, `skipped` or `failed`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_copied_chunks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<FaultCode>,
}

/// The sums of an operation.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
    pub sent_bytes: u64,
    pub under_copied_chunks: u64,
    pub skipped: u64,
    pub failed: u64,
}

/// Shows the progress of an operation, and keeps what became of it.
pub struct Progress {
    verb: &'static str,
    is_quiet: bool,
    keeps_lines: bool,
    bar: Option<ProgressBar>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    totals: Totals,
    lines: Vec<FileLine>,
    exits: Vec<Exit>,
    is_waiting: bool,
}

impl Progress {
    /// `verb` is what fails: `store`, `fetch`.
    pub fn new(verb: &'static str, is_quiet: bool, keeps_lines: bool) -> Progress {
        let bar = (!is_quiet && stderr().is_terminal()).then(bar);
        Progress { verb, is_quiet, keeps_lines, bar, state: RefCell::default() }
    }

    /// Says something on stderr, above the bar.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the bar away; returns the sums, the lines and the exit code so far.
    pub fn finish(self) -> (Totals, Vec<FileLine>, Exit) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let state = self.state.into_inner();
        let exit = match state.exits.split_first() {
            None => Exit::Done,
            Some((first, rest)) if rest.iter().all(|exit| exit == first) => *first,
            Some(_) => Exit::Failed,
        };
        (state.totals, state.lines, exit)
    }

    fn failed(&self, from: &OsStr, line: &mut FileLine, error: &ClientError) {
        line.status = "failed";
        line.code = error.code();
        line.reason = Some(with_causes(error));
        let name = if from == "-" { "stdin".to_string() } else { shown(from) };
        let mut failure = failure(&format!("cannot {} {name}", self.verb), error);
        match error {
            // The name is said already.
            ClientError::Io { path, source, .. } if path.as_os_str() == from => {
                failure.message = format!("cannot {} {name}: {source}", self.verb);
            }
            ClientError::Refused(fault)
                if self.verb == "store" && fault.code == FaultCode::NotFound =>
            {
                failure.hint = Some("make the directory first, with p2pdfs mkdir -p".into());
            }
            _ => {}
        }
        let mut text = format!("p2pdfs: {}", failure.message);
        for detail in &failure.details {
            text.push_str(&format!("\n  {detail}"));
        }
        let is_first = self.state.borrow().totals.failed == 0;
        // One hint is help; the same one for each of a thousand files is not.
        if let Some(hint) = failure.hint.filter(|_| is_first) {
            text.push_str(&format!("\nhint: {hint}"));
        }
        self.note(&text);
        let mut state = self.state.borrow_mut();
        state.totals.failed += 1;
        state.exits.push(exit_of(error));
    }
}

/// A bar of bytes, with their rate and the time that is left.
pub fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(8));
    let template = "{wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

impl Observer for Progress {
    fn expect(&self, _files: u64, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc_length(bytes);
        }
    }

    fn advance(&self, bytes: u64) {
        let was_waiting = std::mem::take(&mut self.state.borrow_mut().is_waiting);
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
            if was_waiting {
                bar.set_message("");
            }
        }
    }

    fn waiting(&self, why: &str) {
        let is_new = !std::mem::replace(&mut self.state.borrow_mut().is_waiting, true);
        match &self.bar {
            Some(bar) => bar.set_message(format!("waiting: {}", shown(why))),
            None if is_new && !self.is_quiet => self.note(&format!("waiting: {}", shown(why))),
            None => {}
        }
    }

    fn file(&self, from: &OsStr, to: &OsStr, report: Report) {
        let mut line = FileLine {
            from: shown(from),
            to: shown(to),
            status: "stored",
            version: None,
            size: None,
            sent_bytes: None,
            under_copied_chunks: None,
            reason: None,
            code: None,
        };
        match report {
            Report::Stored(file) => {
                let mut state = self.state.borrow_mut();
                state.totals.files += 1;
                state.totals.bytes += file.size;
                state.totals.sent_bytes += file.sent_bytes;
                state.totals.under_copied_chunks += file.under_copied_chunks;
                (line.version, line.size) = (Some(file.version), Some(file.size));
                line.sent_bytes = Some(file.sent_bytes);
                line.under_copied_chunks = Some(file.under_copied_chunks);
            }
            Report::Fetched(file) => {
                let mut state = self.state.borrow_mut();
                state.totals.files += 1;
                state.totals.bytes += file.size;
                line.status = "fetched";
                (line.version, line.size) = (Some(file.version), Some(file.size));
            }
            Report::Verified(file) => {
                let mut state = self.state.borrow_mut();
                state.totals.files += 1;
                state.totals.bytes += file.size;
                line.status = "verified";
                (line.version, line.size) = (Some(file.version), Some(file.size));
            }
            Report::Skipped(reason) => {
                self.state.borrow_mut().totals.skipped += 1;
                line.status = "skipped";
                line.reason = Some(reason.to_string());
                self.note(&format!("p2pdfs: skipped {}: {reason}", shown(from)));
            }
            Report::Failed(error) => self.failed(from, &mut line, &error),
        }
        if self.keeps_lines {
            self.state.borrow_mut().lines.push(line);
        }
    }
}
