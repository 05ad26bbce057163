//! What an operation tells of its progress.

use std::ffi::OsStr;

use super::{ClientError, FetchedFile, StoredFile, VerifiedFile};

/// What became of one file.
#[derive(Debug)]
pub enum Report {
    Stored(StoredFile),
    Fetched(FetchedFile),
    /// Its copies were read, and this was found.
    Verified(VerifiedFile),
    /// It was left alone, for this reason.
    Skipped(&'static str),
    Failed(ClientError),
}

/// Hears of the progress of an operation, in the thread that called for it. Every method has
/// nothing to do unless it is written.
pub trait Observer {
    /// There is more to do than was known before.
    fn expect(&self, _files: u64, _bytes: u64) {}

    /// Bytes are done: they were moved, or found to be there.
    fn advance(&self, _bytes: u64) {}

    /// A file is done, in one way or the other. `from` and `to` are a local and a remote name.
    fn file(&self, _from: &OsStr, _to: &OsStr, _report: Report) {}

    /// The operation waits and will try again, because of this.
    fn waiting(&self, _why: &str) {}
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {}
