//! The recovery key, and `p2pdfs-main --recover`: flags and words.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, Failure};
use super::main_server::of_catalog;
use crate::clock::{Clock, WallTime};
use crate::ids::Address;
use crate::main_server::{self, DirectoryError, RecoverError, Recovered, Recovery, RecoveryKey};

/// What the line with the recovery key begins with.
const KEY_LINE: &str = "p2pdfs-main recovery key: ";

/// The flags of a recovery.
#[derive(Debug, Args)]
pub(super) struct RecoveryFlags {
    /// Build the catalog anew from what nodes keep of it, then serve
    #[arg(long, requires = "from", requires = "recovery_key_file", env = "P2PDFS_MAIN_RECOVER")]
    recover: bool,

    /// A node to ask for what it keeps of the catalog; any will do, and it may be given several times
    #[arg(
        long,
        value_name = "HOST:PORT",
        requires = "recover",
        env = "P2PDFS_MAIN_FROM",
        value_delimiter = ','
    )]
    from: Vec<Address>,

    /// The file with the recovery key. At a first start without --recover, the new key is written
    /// there instead of being printed
    #[arg(long, value_name = "FILE", env = "P2PDFS_MAIN_RECOVERY_KEY_FILE")]
    recovery_key_file: Option<PathBuf>,

    /// Recover without what is behind this piece of the journal, though more was kept once, or may
    /// be on nodes that do not answer
    #[arg(long, value_name = "SEQUENCE", requires = "recover", env = "P2PDFS_MAIN_UNTIL")]
    until: Option<u64>,
}

impl RecoveryFlags {
    /// Recovers, if that was asked for.
    pub(super) fn recover(
        &self,
        dir: &Path,
        address: SocketAddr,
        insecure_plaintext: bool,
    ) -> Result<(), Failure> {
        let Some(file) = self.recovery_key_file.as_ref().filter(|_| self.recover) else {
            return Ok(());
        };
        let key = main_server::read_key(file).map_err(|error| explain(dir, &error))?;
        let (from, until) = (self.from.clone(), self.until);
        let recovery = Recovery { from, key, until, insecure_plaintext };
        let recovered = main_server::recover(dir, address, &recovery);
        let recovered = recovered.map_err(|error| explain(dir, &error))?;
        eprint!("{}", account_of(dir, &recovered));
        Ok(())
    }

    /// Gives a new recovery key to whoever starts the main server for the first time.
    pub(super) fn show(&self, key: &RecoveryKey) -> io::Result<()> {
        if let Some(file) = &self.recovery_key_file {
            main_server::write_key(file, key)?;
            log::info!("the recovery key is in {}: keep it elsewhere", file.display());
            return Ok(());
        }
        let mut out = io::stdout();
        writeln!(out, "{KEY_LINE}{}", key.to_text())?;
        out.flush()?;
        eprint!(
            "\n\
             The line above holds the recovery key. It is shown this once: write it down, and keep it\n\
             away from this machine. With it and one node's address the catalog can be built anew when\n\
             this disk is gone (--recover). Without it, it cannot. Whoever has it can read all names\n\
             and become administrator.\n\n"
        );
        Ok(())
    }
}

/// What was recovered, for people.
fn account_of(dir: &Path, recovered: &Recovered) -> String {
    let mut text = String::new();
    let age = Clock::system().wall().0.saturating_sub(recovered.time.0) / 1000;
    let mut line = |args: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{args}");
    };
    line(format_args!(
        "recovered the catalog as of {} ({age} s ago): {} files, {} chunks",
        utc(recovered.time),
        recovered.files,
        recovered.chunks
    ));
    line(format_args!(
        "  journal         generation {}, up to piece {}",
        recovered.generation, recovered.sequence
    ));
    match &recovered.head {
        Some(head) => line(format_args!(
            "  last heard      piece {} of generation {} was on two nodes at {}; changes were then \
             at most {} ms behind",
            head.sequence,
            head.generation,
            utc(head.time),
            head.lag_ms
        )),
        None => line(format_args!("  last heard      no node has heard how far the journal was")),
    }
    for (place, why) in &recovered.silent {
        line(format_args!("  did not answer  {place}: {why}"));
    }
    for mended in &recovered.mended {
        line(format_args!("  damaged         {mended}; another node had it whole"));
    }
    line(format_args!(
        "  account {}      a new key is in {}; old keys are good still",
        recovered.account,
        dir.join("client.toml").display()
    ));
    text
}

/// A time as people read it.
fn utc(time: WallTime) -> String {
    // Civil from days (H. Hinnant, chrono-compatible low-level date algorithms).
    let (seconds, days) = (time.0 / 1000 % 86_400, time.0 / 86_400_000 + 719_468);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hours:02}:{minutes:02}:{:02} UTC", seconds % 60)
}

fn explain(dir: &Path, error: &RecoverError) -> Failure {
    let what = format!("cannot recover the catalog in {}", dir.display());
    let places = |asked: &[(String, String)]| -> Vec<String> {
        asked.iter().map(|(place, why)| format!("  {place}: {why}")).collect()
    };
    let (exit, hint, details) = match error {
        RecoverError::Catalog(error) => {
            let (exit, hint) = of_catalog(error, dir);
            (exit, hint, Vec::new())
        }
        RecoverError::Nothing { asked } => {
            let hint = "start the nodes, or name others with --from; a node lets its journal be read \
                        with the recovery key of its own cluster alone";
            (Exit::Unavailable, Some(hint.to_string()), places(asked))
        }
        RecoverError::Missing { asked, usable, .. } => {
            let hint = match usable {
                Some(usable) => format!(
                    "start the nodes that did not answer and try again, or go without the rest: \
                     --until {usable}"
                ),
                None => "start the nodes that did not answer and try again".to_string(),
            };
            (Exit::Damaged, Some(hint), places(asked))
        }
        RecoverError::MayBeMore { usable, silent, .. } => {
            let hint = format!(
                "start them and try again, or go without what they alone may have: --until {usable}"
            );
            (Exit::Damaged, Some(hint), places(silent))
        }
        RecoverError::Wrong(_) => (Exit::Damaged, None, Vec::new()),
        RecoverError::Directory(DirectoryError::Settings { .. }) => {
            let hint = "the file holds the 64 hexadecimal digits that the first start printed";
            (Exit::Usage, Some(hint.to_string()), Vec::new())
        }
        RecoverError::Directory(_) | RecoverError::Io { .. } => (Exit::Failed, None, Vec::new()),
    };
    Failure { hint, details, ..Failure::because(exit, what, error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_dates() {
        assert_eq!(utc(WallTime(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(WallTime(1_800_000_000_999)), "2027-01-15 08:00:00 UTC");
        assert_eq!(utc(WallTime(1_709_164_800_000)), "2024-02-29 00:00:00 UTC");
    }
}
