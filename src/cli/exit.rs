//! How a program ends: its exit code, and what it says when it fails.

use std::error::Error;
use std::process::ExitCode;

use crate::causes::with_causes;
use crate::wire::FaultCode;

/// Exit codes, an interface of all programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// The command line is not one that the program takes.
    Usage = 2,
    NotFound = 3,
    /// Not possible now; the same command can succeed later.
    Unavailable = 4,
    /// Data is damaged.
    Damaged = 5,
    NotAllowed = 6,
    Interrupted = 130,
}

impl Exit {
    /// The exit code of a program that failed because of this fault.
    pub fn of_fault(code: FaultCode) -> Exit {
        use FaultCode::*;
        match code {
            NotFound => Exit::NotFound,
            Denied | TokenExpired | HelloFirst | StaleDirectory | Left => Exit::NotAllowed,
            HashMismatch | HashUnsafe | Damaged => Exit::Damaged,
            NotStored | NoSpace | TooFewNodes | Busy | Timeout | Stopping | Unreachable => {
                Exit::Unavailable
            }
            Malformed | TooLarge | UnknownRequest | UnsupportedVersion | Exists | NotADirectory
            | WouldLose | IsADirectory | NotEmpty | Conflict | BadName | Invalid | Internal
            | Unknown => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What a program says when it cannot do what it was asked: what, on what, why, the details one a
/// line, and the next thing to type.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub details: Vec<String>,
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without details and hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), details: Vec::new(), hint: None }
    }

    /// A failure whose message is `what`, a colon, and the error with its causes.
    pub fn because(exit: Exit, what: impl AsRef<str>, error: &dyn Error) -> Failure {
        Failure::new(exit, format!("{}: {}", what.as_ref(), with_causes(error)))
    }

    /// The same failure with the next thing to type.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Says it on stderr, under the program's name, and turns it into the exit code.
    pub fn report(&self, program: &str) -> ExitCode {
        eprintln!("{program}: {}", self.message);
        for line in &self.details {
            eprintln!("  {line}");
        }
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        self.exit.into()
    }
}
