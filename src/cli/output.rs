//! What goes to the terminal: names made safe to show, times and tables for people, JSON for
//! programs, and a client's errors with the next thing to type.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::causes::with_causes;
use crate::client::ClientError;
use crate::wire::{Fault, FaultCode};

/// A name as it can be shown: what would steer the terminal, or is no text, is escaped.
pub fn shown(name: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in name.as_ref().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_invisible(c) {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// True for characters that change the direction of text or cannot be seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Prints to stdout. When nobody reads on, the program ends quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| not_printed(&error))
}

/// The failure for output that could not be written.
pub fn not_printed(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Done, ""),
        _ => Failure::because(Exit::Failed, "cannot write the output", error),
    }
}

/// Prints one JSON document.
pub fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(document)
        .map_err(|error| Failure::because(Exit::Failed, "cannot write the output", &error))?;
    text.push('\n');
    print(&text)
}

/// Rows as aligned columns, two spaces apart. Numbers are best aligned by their writer.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width_of).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A time as `2026-11-22 21:19:41`, in UTC.
pub fn utc(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// `1 file`, `2 files`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number of copies.
pub fn copies(count: u64) -> String {
    if count == 1 { "1 copy".to_string() } else { format!("{count} copies") }
}

/// A span of time as people say it: `0.4 s`, `42 s`, `3 min`, `2 h 5 min`, `3 d`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{:.1} s", ms as f64 / 1000.0),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A part of a whole, as `41 %`; `-` of nothing.
pub fn percent(part: u64, whole: u64) -> String {
    match (u128::from(part) * 100).checked_div(u128::from(whole)) {
        Some(percent) => format!("{percent} %"),
        None => "-".to_string(),
    }
}

/// The exit code for a client's error.
pub fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::NotLoopback(_) => Exit::Usage,
        ClientError::NoMainServer { .. }
        | ClientError::Node { .. }
        | ClientError::NoCopy { .. } => Exit::Unavailable,
        ClientError::Refused(fault) => Exit::of_fault(fault.code),
        ClientError::Io { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::NotAllowed,
            _ => Exit::Failed,
        },
        ClientError::Damaged { .. } => Exit::Damaged,
        ClientError::Cancelled => Exit::Interrupted,
        ClientError::NotAMainServer { .. }
        | ClientError::Changed
        | ClientError::Name(_)
        | ClientError::Unsuitable(_)
        | ClientError::Worker => Exit::Failed,
    }
}

/// What a command says of a client's error; `what` is as in `cannot store notes.txt`.
pub fn failure(what: &str, error: &ClientError) -> Failure {
    if let ClientError::Cancelled = error {
        return Failure::new(Exit::Interrupted, "interrupted");
    }
    if let ClientError::Io { source, .. } = error
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        return not_printed(source);
    }
    let mut failure =
        Failure::new(exit_of(error), format!("{what}: {}", shown(with_causes(error))));
    if let Some(fault) = error.fault() {
        failure.details = node_lines(fault);
        failure.details.extend(fault.files.iter().map(shown));
    }
    failure.hint = hint(error);
    failure
}

fn node_lines(fault: &Fault) -> Vec<String> {
    let row = |n: &crate::wire::RefusedNode| {
        vec![format!("node {}", n.node), shown(&n.why), shown(&n.detail)]
    };
    let rows: Vec<Vec<String>> = fault.nodes.iter().map(row).collect();
    table(&rows).lines().map(str::to_string).collect()
}

/// The next thing to type.
fn hint(error: &ClientError) -> Option<String> {
    let text = match error {
        ClientError::NotLoopback(_) => {
            "if the network in between is to be trusted, say so with --insecure-plaintext"
        }
        ClientError::NoMainServer { .. } => {
            "start a cluster with `p2pdfs up`, or say where its main server is with --main HOST:PORT"
        }
        ClientError::NotAMainServer { .. } => {
            "give the address that p2pdfs-main printed when it started with --main HOST:PORT"
        }
        ClientError::Refused(fault) => return fault_hint(fault),
        ClientError::Node { .. } => "`p2pdfs nodes` shows which nodes are well",
        ClientError::NoCopy { .. } => {
            "`p2pdfs nodes` shows which nodes are missing; start them again"
        }
        ClientError::Changed => "store it again when nobody writes to it",
        _ => return None,
    };
    Some(text.to_string())
}

fn fault_hint(fault: &Fault) -> Option<String> {
    let text = match fault.code {
        FaultCode::TooFewNodes | FaultCode::NoSpace if fault.nodes.is_empty() => {
            "start a node: `p2pdfs admin invite` makes an invite for p2pdfs-node, \
             `p2pdfs nodes` shows the nodes there are"
        }
        FaultCode::TooFewNodes => {
            "start another node (`p2pdfs admin invite` makes an invite for it), \
             or accept a single copy with --copies 1"
        }
        FaultCode::NoSpace => {
            "start another node or offer more space on one; `p2pdfs nodes` shows what is free"
        }
        FaultCode::Denied => {
            "is this the key of this cluster? p2pdfs-main writes it to client.toml in its directory"
        }
        FaultCode::NotFound => "`p2pdfs ls` shows what is there",
        FaultCode::IsADirectory => "add -r for a directory with all that is in it",
        FaultCode::NotEmpty => "add -r to remove it with all that is in it",
        FaultCode::Exists => "remove it first, or take another name",
        FaultCode::Conflict => "`p2pdfs stat` shows the version that is there",
        FaultCode::WouldLose => {
            "have its copies moved off first: p2pdfs admin drain NODE --wait; \
             or lose these files, with --force"
        }
        FaultCode::HashUnsafe => "store it with --hash blake3",
        _ => return None,
    };
    Some(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(shown("exe\u{202e}fdp"), "exe\\u{202e}fdp");
        assert_eq!(shown(OsStr::from_bytes(b"caf\xe9 \xc3\xa9")), "caf\\xe9 é");
    }

    #[test]
    fn spans_and_parts_are_said_as_people_say_them() {
        let spans = [400, 42_000, 185_000, 7_500_000, 400_000_000].map(span);
        assert_eq!(spans, ["0.4 s", "42 s", "3 min", "2 h 5 min", "4 d"]);
        assert_eq!(
            [percent(1, 3), percent(0, 0), percent(u64::MAX, u64::MAX)],
            ["33 %", "-", "100 %"]
        );
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(-1), "1969-12-31 23:59:59");
        assert_eq!(utc(1_795_382_381_000), "2026-11-22 21:19:41");
    }
}
