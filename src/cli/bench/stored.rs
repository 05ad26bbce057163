//! What became of the files of a put.

use std::cell::RefCell;
use std::ffi::OsStr;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, shown};
use crate::client::{ClientError, Observer, Report};

/// Counts what was stored, and keeps the first failure.
#[derive(Default)]
pub struct Outcome(RefCell<Counts>);

#[derive(Default)]
struct Counts {
    files: u64,
    sent_bytes: u64,
    under_copied_chunks: u64,
    failed: Option<Failure>,
}

impl Observer for Outcome {
    fn file(&self, _from: &OsStr, to: &OsStr, report: Report) {
        let mut counts = self.0.borrow_mut();
        match report {
            Report::Stored(file) => {
                counts.files += 1;
                counts.sent_bytes += file.sent_bytes;
                counts.under_copied_chunks += file.under_copied_chunks;
            }
            Report::Failed(error) if counts.failed.is_none() => {
                counts.failed = Some(failure(&format!("cannot put {}", shown(to)), &error));
            }
            _ => {}
        }
    }
}

impl Outcome {
    /// Fails unless all of it was sent, and has as many copies as it should: a put that sent less,
    /// or stored it less safely, is not the one that is measured.
    pub fn check(
        self,
        result: Result<(), ClientError>,
        files: u64,
        bytes: u64,
    ) -> Result<(), Failure> {
        result.map_err(|error| failure("cannot put what is measured", &error))?;
        let counts = self.0.into_inner();
        if let Some(failure) = counts.failed {
            return Err(failure);
        }
        let text = if counts.files != files || counts.sent_bytes != bytes {
            let Counts { files: stored, sent_bytes, .. } = counts;
            format!(
                "{stored} of {files} files were stored, {sent_bytes} of {bytes} bytes were sent"
            )
        } else if counts.under_copied_chunks > 0 {
            format!("{} chunks got fewer copies than wanted", counts.under_copied_chunks)
        } else {
            return Ok(());
        };
        Err(Failure::new(
            Exit::Failed,
            format!("what was put is not what was to be measured: {text}"),
        )
        .hint("`p2pdfs admin status` shows the state of the cluster"))
    }
}
