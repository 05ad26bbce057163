//! The keeper: copies the catalog's journal from the main server, if it is asked to, and lets it be
//! read by whoever shows the secret that comes from the recovery key.
//!
//! What it has of a generation is a copy of the start of the main server's own file, byte for byte.
//! It is durable before the main server is told of it. What is wrong in a file is found at a start,
//! and had anew from there on, as long as the main server has that generation; until then it stays,
//! since what is behind a damaged piece may be whole.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::causes::with_causes;
use crate::durable::{self, SyncPoint};
use crate::ids::Fingerprint;
use crate::journal::{HEADER_BYTES, Header, number_of, path_of, scan};
use crate::wire::frame::PayloadBuffer;
use crate::wire::node_to_main::{
    Follow, FollowReply, JournalHead, KeptGeneration, MAX_GENERATIONS,
};
use crate::wire::{CallError, Connection, Fault, FaultCode};

use super::shared::Shared;

/// Below the node's own directory.
pub(super) const DIRECTORY: &str = "journal";
const HEAD_FILE: &str = "head.json";
const UNREADABLE: &str = "what is kept of the journal cannot be read";
/// How often at most it is kept what the main server says of the same generation and the same
/// keepers: that costs two syncs.
const SAVE_HEAD_EVERY: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How much longer than it said the main server may hold a reply back.
const GRACE: Duration = Duration::from_secs(15);

/// What a node keeps of the journal.
pub(super) struct Keeper {
    directory: PathBuf,
    state: Mutex<State>,
    /// What there is was read, or cannot be.
    opened: Condvar,
    wake: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct State {
    /// What the main server said last.
    head: Option<JournalHead>,
    /// What of that was kept last, and when.
    saved: Option<(JournalHead, Instant)>,
    /// The main server wants this node to keep it.
    is_wanted: bool,
    interval: Duration,
    /// How the reading of what there is ended; `None` until then. The error is for people.
    opened: Option<Result<(), String>>,
    /// By generation: the bytes that are whole and durable, and those of the file.
    kept: BTreeMap<u64, Extent>,
    /// Why it cannot be kept.
    failed: Option<Failure>,
}

/// What went wrong with the files.
#[derive(Debug)]
struct Failure {
    why: String,
    /// It was not a want of space, say, that may pass: what the disk has is not known any more.
    is_final: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    good: u64,
    file: u64,
}

impl Keeper {
    /// Of the node in this directory. Nothing is read yet.
    pub fn new(node_directory: &Path) -> Keeper {
        let directory = node_directory.join(DIRECTORY);
        Keeper { directory, state: Mutex::default(), opened: Condvar::new(), wake: bounded(1) }
    }

    /// What is in it holds no invariant across its lock that a panic could break.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the journal takes.
    pub fn bytes(&self) -> u64 {
        self.lock().kept.values().map(|extent| extent.file).sum()
    }

    /// Takes note of what the main server says with a heartbeat. One that this node has not adopted
    /// may be an old or a blank one: it must not have what is kept replaced.
    pub fn take_head(&self, head: Option<JournalHead>, interval: Duration, is_adopted: bool) {
        let Some(head) = head else { return };
        let mut state = self.lock();
        state.interval = interval;
        let was_wanted = std::mem::replace(&mut state.is_wanted, head.follow);
        if state.is_wanted && !was_wanted {
            state.failed.take_if(|failure| !failure.is_final);
            // One that was taken note of already is enough.
            let _ = self.wake.0.try_send(());
        }
        // Until there is a generation on two nodes, the one before is what counts.
        let is_more = head.generation > 0 || state.head.as_ref().is_none_or(|h| h.generation == 0);
        if !is_adopted || !is_more {
            return;
        }
        state.head = Some(head.clone());
        let is_kept = state.saved.as_ref().is_some_and(|(saved, at)| {
            let is_alike = saved.generation == head.generation && saved.keepers == head.keepers;
            *saved == head || (is_alike && at.elapsed() < SAVE_HEAD_EVERY)
        });
        if is_kept {
            return;
        }
        state.saved = Some((head.clone(), Instant::now()));
        let outdated: Vec<u64> = match head.follow {
            true => Vec::new(),
            false => state.kept.range(..head.generation).map(|(number, _)| *number).collect(),
        };
        drop(state);
        self.remove(&outdated);
        if let Err(error) = self.save_head(&head) {
            log::debug!("what was said of the journal was not noted error={error}");
        }
    }

    /// As good as it goes, but durable: by it whoever recovers after a power cut finds the other
    /// keepers, and knows what there was that no node that answers has.
    fn save_head(&self, head: &JournalHead) -> io::Result<()> {
        durable::make_directories(&self.directory)?;
        let text = serde_json::to_vec(head).expect("plain data");
        durable::replace_file(&self.directory.join(HEAD_FILE), &text)
    }

    /// Reads what there is, and how far it is whole.
    fn open(&self) {
        let read = self.read_all();
        if let Err(error) = &read {
            self.fail(UNREADABLE, error, true);
        }
        self.lock().opened = Some(read.map_err(|error| format!("{UNREADABLE}: {error}")));
        self.opened.notify_all();
    }

    /// Waits until it is known what there is. Before, a node would say that it keeps nothing, and
    /// whoever recovers would take that for an answer. Refused: `Busy`, `Damaged`.
    pub fn wait_opened(&self, patience: Duration) -> Result<(), Fault> {
        let state = self.lock();
        let waited = self.opened.wait_timeout_while(state, patience, |s| s.opened.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.opened {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => Err(Fault::new(FaultCode::Damaged, why.clone())),
            None => {
                let why = "the node has not read yet what it keeps of the journal";
                Err(Fault::new(FaultCode::Busy, why))
            }
        }
    }

    fn read_all(&self) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(number_of) else { continue };
            let file = File::open(entry.path())?;
            // A sync that failed may have left in the cache what is not on the disk.
            durable::drop_cached(&file, SyncPoint::JournalData)?;
            let found = scan(&file)?;
            if found.good_bytes < found.bytes {
                log::warn!(
                    "the journal has a torn tail or damage generation={number} good_bytes={} bytes={}",
                    found.good_bytes,
                    found.bytes
                );
            }
            let extent = Extent { good: found.good_bytes, file: found.bytes };
            self.lock().kept.insert(number, extent);
        }
        let head = std::fs::read(self.directory.join(HEAD_FILE)).unwrap_or_default();
        if let Ok(head) = serde_json::from_slice(&head) {
            self.lock().head.get_or_insert(head);
        }
        Ok(())
    }

    fn request(&self) -> Follow {
        let state = self.lock();
        let newest = state.kept.iter().rev().take(MAX_GENERATIONS);
        let kept = newest
            .map(|(number, extent)| KeptGeneration { generation: *number, bytes: extent.good });
        Follow {
            kept: kept.collect(),
            failed: state.failed.as_ref().map(|failure| failure.why.clone()),
        }
    }

    /// Puts the payload of a reply into its file, durable. True with the error when it is final.
    fn take(&self, reply: &FollowReply, payload: &[u8]) -> Result<(), (bool, io::Error)> {
        let is_new = !self.lock().kept.contains_key(&reply.generation);
        let file = self.write(reply, payload).map_err(|error| (false, error))?;
        durable::sync_file(&file, SyncPoint::JournalData).map_err(|error| (true, error))?;
        if is_new {
            durable::sync_directory(&self.directory, SyncPoint::StateDirectory)
                .map_err(|error| (true, error))?;
        }
        let end = reply.offset + payload.len() as u64;
        self.lock().kept.insert(reply.generation, Extent { good: end, file: end });
        Ok(())
    }

    fn write(&self, reply: &FollowReply, payload: &[u8]) -> io::Result<File> {
        let there = self.lock().kept.get(&reply.generation).copied();
        if reply.offset > there.unwrap_or_default().good {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there would be a gap"));
        }
        let path = path_of(&self.directory, reply.generation);
        durable::make_directories(&self.directory)?;
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path)?;
        if there.is_none() {
            durable::entry_created(&path);
        }
        // Told of as shorter first: a failure must not leave it counted as it was.
        let shorter = Extent { good: reply.offset, file: there.unwrap_or_default().file };
        self.lock().kept.insert(reply.generation, shorter);
        file.set_len(reply.offset)?;
        file.write_all_at(payload, reply.offset)?;
        Ok(file)
    }

    fn remove_before(&self, generation: u64) {
        let state = self.lock();
        let old: Vec<u64> = state.kept.range(..generation).map(|(number, _)| *number).collect();
        drop(state);
        self.remove(&old);
    }

    fn remove(&self, generations: &[u64]) {
        for &generation in generations {
            match std::fs::remove_file(path_of(&self.directory, generation)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::warn!("an old journal stays generation={generation} error={error}");
                }
                _ => drop(self.lock().kept.remove(&generation)),
            }
        }
    }

    /// What there is, as its files are.
    pub fn kept(&self) -> (Vec<KeptGeneration>, Option<JournalHead>) {
        let state = self.lock();
        let kept = state
            .kept
            .iter()
            .map(|(number, extent)| KeptGeneration { generation: *number, bytes: extent.file });
        (kept.collect(), state.head.clone())
    }

    /// The fingerprints of the secrets by which what is here may be read.
    pub fn readers(&self) -> Vec<Fingerprint> {
        let (kept, head) = self.kept();
        let of_file = |kept: &KeptGeneration| {
            let mut header = [0; HEADER_BYTES];
            let file = File::open(path_of(&self.directory, kept.generation)).ok()?;
            file.read_exact_at(&mut header, 0).ok()?;
            Some(Header::from_bytes(&header)?.reader)
        };
        let of_head = head.map(|head| head.reader);
        kept.iter().rev().filter_map(of_file).chain(of_head).collect()
    }

    /// Fills the buffer from a generation's file, as far as that goes.
    pub fn read(&self, generation: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = File::open(path_of(&self.directory, generation))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }
}

/// The body of the keeper's thread.
pub(super) fn run(shared: &Shared) {
    let keeper = &shared.journal;
    keeper.open();
    let mut pause = FIRST_PAUSE;
    loop {
        if !keeper.lock().is_wanted {
            pause = FIRST_PAUSE;
            select! {
                recv(shared.stop) -> _ => return,
                recv(keeper.wake.1) -> _ => {}
            }
            continue;
        }
        let ended = follow(shared);
        match ended {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => log::debug!("the journal is not followed error={}", with_causes(&error)),
        }
        if shared.stops_within(pause) {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Follows on one connection, for as long as it is wanted.
fn follow(shared: &Shared) -> Result<(), CallError> {
    let keeper = &shared.journal;
    let mut connection = shared.dial_journal()?;
    let mut buffer = PayloadBuffer::default();
    loop {
        let (is_wanted, interval) = {
            let state = keeper.lock();
            (state.is_wanted, state.interval)
        };
        let mut request = keeper.request();
        if !shared.is_adopted() {
            request.failed = Some("the node has not adopted this main server".to_string());
        }
        if !is_wanted {
            return Ok(());
        }
        connection.set_answer_timeout(interval + GRACE);
        let reply = connection.call(&request)?;
        if request.failed.is_some() {
            // It was said, and somebody else is asked from now on.
            keeper.lock().is_wanted = false;
            return Ok(());
        }
        keep(keeper, &mut connection, &reply, &mut buffer)?;
    }
}

/// Takes in what a reply brings.
fn keep(
    keeper: &Keeper,
    connection: &mut Connection,
    reply: &FollowReply,
    buffer: &mut PayloadBuffer,
) -> Result<(), CallError> {
    if reply.generation > 0 {
        connection.read_payload(buffer, |_| {})?;
        if let Err((is_final, error)) = keeper.take(reply, buffer.as_slice()) {
            keeper.fail("the journal cannot be kept", &error, is_final);
            return Ok(());
        }
    }
    keeper.remove_before(reply.keep_from);
    Ok(())
}

impl Keeper {
    fn fail(&self, what: &str, error: &io::Error, is_final: bool) {
        log::error!("{what} directory={} error={error}", self.directory.display());
        let why = format!("{what}: {error}");
        self.lock().failed = Some(Failure { why, is_final });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_not_told_before_it_was_read() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let keeper = Keeper::new(directory.path());
        let early = keeper.wait_opened(Duration::ZERO).expect_err("nothing was read");
        assert_eq!(early.code, FaultCode::Busy);
        keeper.open();
        assert!(keeper.wait_opened(Duration::ZERO).is_ok(), "there is nothing");

        let keeper = Keeper::new(directory.path());
        std::fs::write(directory.path().join(DIRECTORY), "no directory").expect("a file");
        keeper.open();
        let failed = keeper.wait_opened(Duration::ZERO).expect_err("it cannot be read");
        assert_eq!(failed.code, FaultCode::Damaged);
    }
}
