//! `verify`: whether files are whole, down to the last copy.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{IsTerminal, stderr};

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;

use super::remote;
use crate::causes::with_causes;
use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, exit_of, failure, print, print_json, shown};
use crate::cli::progress::bar;
use crate::cli::size::ByteSize;
use crate::client::{
    Cancel, ClientError, CopyProblem, Observer, ProblemCopy, Report, VerifiedFile, Wholeness,
};
use crate::ids::{ChunkId, NodeId, Version};

/// Read every copy of every chunk of files, and say whether the files are whole
///
/// Each copy is read from its own node and checked against its hash; those that are no good are told to
/// the main server, which has them replaced. A line for each file: `ok`; `under-copied`, fewer copies than
/// wanted; `unreachable`, copies on nodes that do not answer; `damaged`, a copy has other bytes or is not
/// where it should be; `unreadable`, a chunk without any good copy.
///
/// Exit codes: 0 all are ok, 5 something is damaged, 4 something could not be reached (try again), 1 copies are
/// missing or a file could not be looked at.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs verify /photos/sea.jpg
  p2pdfs verify / --json")]
pub struct VerifyArgs {
    /// Files, or directories with all that is in them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

/// What `--json` says of one file.
#[derive(Debug, Serialize)]
struct FileLine {
    path: String,
    /// `ok`, `under_copied`, `unreachable`, `damaged`, `unreadable`, `skipped` or `failed`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    chunks: u64,
    copies_wanted: u8,
    good_copies: u64,
    bad_copies: u64,
    unreachable_copies: u64,
    under_copied_chunks: u64,
    unreadable_chunks: u64,
    problems: Vec<ProblemLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProblemLine {
    index: u64,
    chunk: ChunkId,
    node: NodeId,
    /// `damaged`, `missing` or `unreachable`.
    problem: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The sums.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Totals {
    files: u64,
    whole: u64,
    under_copied: u64,
    unreachable: u64,
    damaged: u64,
    unreadable: u64,
    skipped: u64,
    failed: u64,
    bytes: u64,
    good_copies: u64,
    bad_copies: u64,
    unreachable_copies: u64,
}

/// The command.
pub fn verify(context: &Context, args: &VerifyArgs) -> Result<Exit, Failure> {
    let roots = args.paths.iter().map(|text| remote(text)).collect::<Result<Vec<_>, _>>()?;
    let what = match args.paths.as_slice() {
        [one] => format!("cannot verify {}", shown(one)),
        many => format!("cannot verify {}", counted(many.len() as u64, "path")),
    };
    let cannot = |error: ClientError| failure(&what, &error);
    let bar = (!context.common.quiet && stderr().is_terminal()).then(bar);
    if let Some(bar) = &bar {
        // Only what is known beforehand can be a time that is left; a tree is listed soon.
        for file in context.client.files(&roots) {
            let (_, facts) = file.map_err(cannot)?;
            bar.inc_length(facts.size.saturating_mul(facts.copies.into()));
        }
    }
    let verifying = Verifying {
        is_json: context.common.json,
        is_quiet: context.common.quiet,
        bar,
        cancel: context.client.cancel_handle(),
        state: RefCell::default(),
    };
    let done = context.client.verify(&roots, &verifying);
    if let Some(bar) = &verifying.bar {
        bar.finish_and_clear();
    }
    let State { totals, lines, exits, not_printed } = verifying.state.into_inner();
    if let Some(failure) = not_printed {
        return Err(failure);
    }
    done.map_err(cannot)?;
    if context.common.json {
        #[derive(Serialize)]
        struct Document {
            files: Vec<FileLine>,
            totals: Totals,
        }
        print_json(&Document { files: lines, totals })?;
    } else if !context.common.quiet {
        eprintln!("{}", summary(&totals));
    }
    Ok(exits.into_iter().max_by_key(|exit| gravity(*exit)).unwrap_or(Exit::Done))
}

/// Hears of each file, and says what it is.
struct Verifying {
    is_json: bool,
    is_quiet: bool,
    bar: Option<ProgressBar>,
    cancel: Cancel,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    totals: Totals,
    lines: Vec<FileLine>,
    /// Each code that came up, once.
    exits: Vec<Exit>,
    /// Why nothing more is printed.
    not_printed: Option<Failure>,
}

impl Verifying {
    fn say(&self, text: &str, on: fn(&str) -> Result<(), Failure>) {
        let said = match &self.bar {
            Some(bar) => bar.suspend(|| on(text)),
            None => on(text),
        };
        if let Err(failure) = said {
            self.state.borrow_mut().not_printed.get_or_insert(failure);
            self.cancel.cancel();
        }
    }
}

fn on_stderr(text: &str) -> Result<(), Failure> {
    eprintln!("{text}");
    Ok(())
}

impl Observer for Verifying {
    fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn waiting(&self, why: &str) {
        if !self.is_quiet {
            self.say(&format!("waiting: {}", shown(why)), on_stderr);
        }
    }

    fn file(&self, from: &OsStr, _to: &OsStr, report: Report) {
        let (line, exit) = line_of(shown(from), report);
        let mut state = self.state.borrow_mut();
        count(&mut state.totals, &line);
        if !state.exits.contains(&exit) {
            state.exits.push(exit);
        }
        if self.is_json {
            state.lines.push(line);
            return;
        }
        drop(state);
        self.say(&in_words(&line), print);
    }
}

fn line_of(path: String, report: Report) -> (FileLine, Exit) {
    let mut line = FileLine {
        path,
        status: "failed",
        version: None,
        size: None,
        chunks: 0,
        copies_wanted: 0,
        good_copies: 0,
        bad_copies: 0,
        unreachable_copies: 0,
        under_copied_chunks: 0,
        unreadable_chunks: 0,
        problems: Vec::new(),
        reason: None,
    };
    match report {
        Report::Verified(file) => {
            let (status, exit) = verdict(&file);
            line.status = status;
            fill(&mut line, file);
            (line, exit)
        }
        Report::Skipped(why) => {
            (line.status, line.reason) = ("skipped", Some(why.to_string()));
            (line, Exit::Done)
        }
        Report::Failed(error) => {
            line.reason = Some(with_causes(&error));
            (line, exit_of(&error))
        }
        Report::Stored(_) | Report::Fetched(_) => (line, Exit::Failed),
    }
}

fn verdict(file: &VerifiedFile) -> (&'static str, Exit) {
    match file.wholeness() {
        Wholeness::Whole => ("ok", Exit::Done),
        Wholeness::UnderCopied => ("under_copied", Exit::Failed),
        Wholeness::Unreachable => ("unreachable", Exit::Unavailable),
        Wholeness::Damaged => ("damaged", Exit::Damaged),
        Wholeness::Unreadable if file.bad_copies > 0 => ("unreadable", Exit::Damaged),
        Wholeness::Unreadable => ("unreadable", Exit::Unavailable),
    }
}

fn fill(line: &mut FileLine, file: VerifiedFile) {
    (line.version, line.size) = (Some(file.version), Some(file.size));
    (line.chunks, line.copies_wanted) = (file.chunks, file.wanted);
    (line.good_copies, line.bad_copies) = (file.good_copies, file.bad_copies);
    line.unreachable_copies = file.unreachable_copies;
    line.under_copied_chunks = file.under_copied_chunks;
    line.unreadable_chunks = file.unreadable_chunks;
    line.problems = file.problems.into_iter().map(problem_line).collect();
}

fn problem_line(problem: ProblemCopy) -> ProblemLine {
    let ProblemCopy { index, chunk, node, what } = problem;
    let (problem, why) = match what {
        CopyProblem::Damaged(why) => ("damaged", Some(why)),
        CopyProblem::Missing => ("missing", None),
        CopyProblem::Unreachable(why) => ("unreachable", Some(why)),
    };
    ProblemLine { index, chunk, node, problem, why }
}

/// Which of several exit codes stands for them all.
fn gravity(exit: Exit) -> u8 {
    match exit {
        Exit::Done => 0,
        Exit::Failed => 1,
        Exit::Unavailable => 2,
        Exit::Usage | Exit::NotFound | Exit::NotAllowed | Exit::Interrupted => 3,
        Exit::Damaged => 4,
    }
}

fn count(totals: &mut Totals, line: &FileLine) {
    totals.files += 1;
    let of_status = match line.status {
        "ok" => &mut totals.whole,
        "under_copied" => &mut totals.under_copied,
        "unreachable" => &mut totals.unreachable,
        "damaged" => &mut totals.damaged,
        "unreadable" => &mut totals.unreadable,
        "skipped" => &mut totals.skipped,
        _ => &mut totals.failed,
    };
    *of_status += 1;
    totals.bytes += line.size.unwrap_or(0);
    totals.good_copies += line.good_copies;
    totals.bad_copies += line.bad_copies;
    totals.unreachable_copies += line.unreachable_copies;
}

fn in_words(line: &FileLine) -> String {
    let mut text = format!("{:<12}  {}", line.status.replace('_', "-"), line.path);
    if let Some(reason) = &line.reason {
        text.push_str(&format!(": {}", shown(reason)));
    }
    text.push('\n');
    for problem in &line.problems {
        let ProblemLine { index, chunk: _, node, problem, why } = problem;
        let why = why.as_ref().map_or(String::new(), |why| format!(": {}", shown(why)));
        text.push_str(&format!("  chunk {index} on node {node}: {problem}{why}\n"));
    }
    let told = line.problems.len() as u64;
    let more = (line.bad_copies + line.unreachable_copies).saturating_sub(told);
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    for (chunks, what) in [
        (line.under_copied_chunks, "with fewer good copies than the {} wanted"),
        (line.unreadable_chunks, "without any"),
    ] {
        if chunks > 0 {
            let what = what.replace("{}", &line.copies_wanted.to_string());
            text.push_str(&format!("  {} {what}\n", counted(chunks, "chunk")));
        }
    }
    text
}

fn summary(totals: &Totals) -> String {
    let mut text = format!(
        "verified {}, {}, {} read: {} ok",
        counted(totals.files, "file"),
        ByteSize(totals.bytes),
        crate::cli::output::copies(totals.good_copies + totals.bad_copies),
        totals.whole
    );
    let others = [
        (totals.under_copied, "under-copied"),
        (totals.unreachable, "unreachable"),
        (totals.damaged, "damaged"),
        (totals.unreadable, "unreadable"),
        (totals.skipped, "skipped"),
        (totals.failed, "failed"),
    ];
    for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {count} {what}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::HashAlgorithm;

    fn file() -> VerifiedFile {
        VerifiedFile {
            version: Version(1),
            size: 1000,
            chunks: 2,
            wanted: 2,
            good_copies: 4,
            bad_copies: 0,
            unreachable_copies: 0,
            under_copied_chunks: 0,
            unreadable_chunks: 0,
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_exit_code_says_the_worst_that_was_found() {
        let whole = file();
        let under = VerifiedFile { under_copied_chunks: 1, ..file() };
        let away = VerifiedFile { unreachable_copies: 1, ..under.clone() };
        let bad = VerifiedFile { bad_copies: 1, ..away.clone() };
        let exits: Vec<Exit> = [whole, under, away, bad].iter().map(|f| verdict(f).1).collect();
        assert_eq!(exits, [Exit::Done, Exit::Failed, Exit::Unavailable, Exit::Damaged]);
        let worst = exits.into_iter().max_by_key(|exit| gravity(*exit));
        assert_eq!(worst, Some(Exit::Damaged));
        // Nothing is known to be damaged where nothing could be read.
        let gone = VerifiedFile { unreadable_chunks: 1, good_copies: 0, ..file() };
        assert_eq!(verdict(&gone), ("unreadable", Exit::Unavailable));
    }

    #[test]
    fn a_bad_copy_is_said_with_its_place() {
        let chunk = ChunkId::of(HashAlgorithm::Blake3, b"bytes");
        let what = CopyProblem::Damaged("other bytes\u{1b}".to_string());
        let problems = vec![ProblemCopy { index: 1, chunk, node: NodeId(3), what }];
        let found = VerifiedFile { bad_copies: 1, under_copied_chunks: 1, problems, ..file() };
        let (line, _) = line_of("/a".to_string(), Report::Verified(found));
        let expected = "\
damaged       /a
  chunk 1 on node 3: damaged: other bytes\\u{1b}
  1 chunk with fewer good copies than the 2 wanted
";
        assert_eq!(in_words(&line), expected);
        let mut totals = Totals::default();
        count(&mut totals, &line);
        assert_eq!(summary(&totals), "verified 1 file, 1000 B, 5 copies read: 0 ok, 1 damaged");
    }
}
