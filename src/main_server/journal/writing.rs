//! The thread that writes the journal: at a boundary a few times a second, when anything changed,
//! and in between a piece of the snapshot while there is one to write. So changes are never behind
//! a snapshot, however long that is.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use super::generation::{Generation, PIECE_BYTES, WriteError};
use super::{Journal, Kept, keepers};
use crate::catalog::sqlite::Boundary;
use crate::causes::with_causes;
use crate::durable;
use crate::ids::{NodeId, Secret};
use crate::journal::{Header, Kind, number_of, path_of};
use crate::main_server::Main;
use crate::policy::liveness::State;

/// How long changes are gathered: half of what they may be behind is for their way to the nodes.
const GATHER: Duration = Duration::from_millis(200);
/// How often the keepers are looked at when nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The start of 2020, from which generations are numbered, as serials are.
const EPOCH_MS: u64 = 1_577_836_800_000;

/// The thread. Dropping it stops it.
pub struct Writing {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writing {
    /// Starts it, for a main server that keeps a journal.
    pub fn start(main: Arc<Main>) -> io::Result<Writing> {
        if main.journal.kept.is_none() {
            return Ok(Writing { stop: None, thread: None });
        }
        let (stop, stopped) = bounded(0);
        let body = move || run(&main, &stopped);
        let thread = thread::Builder::new().name("journal".to_string()).spawn(body)?;
        Ok(Writing { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the journal's thread ended in a panic");
        }
    }
}

fn run(main: &Main, stop: &Receiver<()>) {
    let journal = &main.journal;
    let kept = journal.kept.as_ref().expect("started only with one");
    let changed = match kept.catalog.begin_changes() {
        Ok(changed) => changed,
        Err(error) => {
            log::error!("no journal of the catalog error={error}");
            journal.lock().trouble = Some(error.to_string());
            return;
        }
    };
    loop {
        let mut desk = Desk {
            main,
            journal,
            kept,
            changed: changed.clone(),
            generations: Vec::new(),
            has_changes: false,
            last_boundary: Instant::now(),
            last_look: None,
            told: 0,
        };
        let Err(error) = desk.work(stop) else { return };
        let why = with_causes(&error);
        log::error!("the journal of the catalog is interrupted error={why:?}");
        let mut state = journal.lock();
        state.progress.end_all();
        state.trouble = Some(why);
        drop(state);
        // What was begun and is of no use may be what fills the disk.
        for generation in &desk.generations {
            remove(&path_of(&kept.directory, generation.number));
        }
        if stop.recv_timeout(RETRY) != Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            return;
        }
    }
}

struct Desk<'a> {
    main: &'a Main,
    journal: &'a Journal,
    kept: &'a Kept,
    changed: Receiver<()>,
    /// The one that is written, and behind it the one that is to replace it.
    generations: Vec<Generation>,
    has_changes: bool,
    last_boundary: Instant,
    last_look: Option<Instant>,
    /// The generation of which the nodes were told that it is on two of them.
    told: u64,
}

impl Desk<'_> {
    fn work(&mut self, stop: &Receiver<()>) -> Result<(), WriteError> {
        let directory = &self.kept.directory;
        durable::make_directories(directory).map_err(|source| WriteError::Io {
            doing: "make the directory",
            path: directory.clone(),
            source,
        })?;
        self.begin_generation()?;
        self.journal.lock().trouble = None;
        let mut pause = Duration::ZERO;
        loop {
            let silent = never();
            let changed = if self.has_changes { &silent } else { &self.changed };
            select! {
                recv(stop) -> _ => return Ok(()),
                recv(changed) -> _ => self.has_changes = true,
                recv(self.journal.wake.1) -> _ => self.last_look = None,
                default(pause) => {}
            }
            if self.has_changes && self.last_boundary.elapsed() >= GATHER {
                self.write_changes()?;
            }
            let begun = Instant::now();
            self.write_snapshot_piece()?;
            let took = begun.elapsed();
            self.look();
            if self.must_begin_anew() {
                self.begin_generation()?;
            }
            pause = self.pause(took);
        }
    }

    /// A snapshot takes no more than half of the time: the rest of the program has work, too.
    fn pause(&self, took: Duration) -> Duration {
        let mut pause = LOOK;
        if self.has_changes {
            pause = GATHER.saturating_sub(self.last_boundary.elapsed());
        }
        if self.generations.iter().any(Generation::has_snapshot_to_write) {
            pause = pause.min(took);
        }
        pause
    }

    fn must_begin_anew(&self) -> bool {
        let Some(last) = self.generations.last() else { return true };
        last.has_outgrown_its_snapshot() || self.journal.lock().floor >= last.number
    }

    fn boundary(&mut self) -> Result<Boundary, WriteError> {
        // Before: what changes from here on is told of anew.
        self.has_changes = false;
        self.last_boundary = Instant::now();
        // What the boundary takes from the catalog is in no piece yet, and must not look safe.
        let since = self.kept.catalog.changed_since().unwrap_or(self.last_boundary);
        self.journal.lock().taking = Some(since);
        Ok(self.kept.catalog.boundary()?)
    }

    fn write_changes(&mut self) -> Result<(), WriteError> {
        let mut boundary = self.boundary()?;
        if !boundary.is_whole() {
            log::warn!("more was changed at once than is noted, the journal begins anew");
            return self.begin_at(boundary);
        }
        self.append(&mut boundary)
    }

    /// Appends what changed up to a boundary to all generations.
    fn append(&mut self, boundary: &mut Boundary) -> Result<(), WriteError> {
        let time = self.main.clock.wall();
        let generations = &mut self.generations;
        let touched = boundary.changes(PIECE_BYTES, |body, is_last| {
            let (last, others) = generations.split_last_mut().expect("changes follow a beginning");
            for generation in others {
                generation.append(Kind::Changes, is_last, time, body.clone())?;
            }
            last.append(Kind::Changes, is_last, time, body)
        })?;
        if touched > 0 {
            let since = boundary.since().unwrap_or_else(Instant::now);
            let mut state = self.journal.lock();
            for generation in &self.generations {
                let (number, bytes) = (generation.number, generation.bytes);
                state.progress.grew(number, bytes, generation.sequence, false);
            }
            state.progress.bounded(since, time);
            state.taking = None;
            drop(state);
            self.journal.ring();
        } else {
            self.journal.lock().taking = None;
            self.journal.further.notify_all();
        }
        Ok(())
    }

    fn begin_generation(&mut self) -> Result<(), WriteError> {
        let boundary = self.boundary()?;
        self.begin_at(boundary)
    }

    /// Begins a generation with the tables as they are at a boundary.
    fn begin_at(&mut self, mut boundary: Boundary) -> Result<(), WriteError> {
        if !boundary.is_whole() {
            // What is written already cannot be gone on with.
            self.generations.clear();
            self.journal.lock().progress.end_all();
        }
        if !self.generations.is_empty() {
            self.append(&mut boundary)?;
        }
        let since = boundary.since().unwrap_or_else(Instant::now);
        let number = self.next_number();
        let header = Header::new(number, self.main.cluster, self.kept.reader);
        let directory = &self.kept.directory;
        let snapshot = boundary.into_snapshot();
        let begun = Generation::begin(directory, &header, &self.kept.sealing, snapshot)?;
        log::info!("the catalog's journal begins a generation generation={number}");
        // Two are enough: the one before may be needed until this one is on the nodes.
        if self.generations.len() > 1 {
            self.generations.remove(0);
        }
        let mut state = self.journal.lock();
        if let Some(first) = self.generations.first() {
            state.progress.end_before(first.number);
        }
        state.progress.begin(number, begun.bytes, since, self.main.clock.wall());
        state.taking = None;
        self.generations.push(begun);
        Ok(())
    }

    /// A number that no generation of this catalog, or of a copy of it, ever had.
    fn next_number(&self) -> u64 {
        let seconds = self.main.clock.wall().0.saturating_sub(EPOCH_MS) / 1000;
        let bytes = *Secret::random().as_bytes();
        let random = u64::from(u32::from_be_bytes([0, bytes[0] & 0xf, bytes[1], bytes[2]]));
        let there = numbers_in(&self.kept.directory).into_iter().max().unwrap_or(0);
        ((seconds << 20) + random).max(there + 1).max(self.journal.lock().floor + 1)
    }

    fn write_snapshot_piece(&mut self) -> Result<(), WriteError> {
        let time = self.main.clock.wall();
        let unfinished = self.generations.iter_mut().find(|one| one.has_snapshot_to_write());
        let Some(generation) = unfinished else { return Ok(()) };
        let is_last = generation.write_snapshot_piece(time)?;
        let (number, bytes, sequence) = (generation.number, generation.bytes, generation.sequence);
        if is_last {
            log::info!("snapshot written generation={number} bytes={bytes} pieces={sequence}");
        }
        self.journal.lock().progress.grew(number, bytes, sequence, is_last);
        self.journal.ring();
        Ok(())
    }

    /// Looks who keeps the journal, and what they have.
    fn look(&mut self) {
        if self.last_look.is_some_and(|last| last.elapsed() < LOOK) {
            return;
        }
        let now = Instant::now();
        self.last_look = Some(now);
        let nodes = self.main.nodes.candidates();
        let not_dead = nodes.iter().filter(|node| node.state != State::Dead).count();
        let mut state = self.journal.lock();
        let cannot: BTreeSet<NodeId> = state.progress.cannot(now);
        let chosen = keepers::choose(&nodes, &state.keepers, &cannot);
        let is_change = chosen != state.keepers;
        if is_change {
            log::info!("the catalog's journal is kept by nodes={chosen:?}");
            state.progress.retain(&chosen);
            state.keepers = chosen;
            state.choices += 1;
        }
        let safe = state.progress.safe().0;
        let is_news = std::mem::replace(&mut self.told, safe) != safe;
        let settled = state.progress.settle(not_dead.clamp(1, 2));
        if let Some(number) = settled {
            state.progress.end_before(number);
        }
        drop(state);
        if is_change || is_news {
            self.main.ring_all();
        }
        if let Some(number) = settled {
            self.generations.retain(|generation| generation.number >= number);
            let old = numbers_in(&self.kept.directory).into_iter().filter(|n| *n < number);
            old.for_each(|old| remove(&path_of(&self.kept.directory, old)));
            self.journal.ring();
        }
    }
}

impl Main {
    /// Wakes every heartbeat that is held back, so that the nodes hear what is new of the journal.
    fn ring_all(&self) {
        let table = self.nodes.lock();
        for control in table.nodes.values().filter_map(|node| node.control.as_ref()) {
            control.bell.ring();
        }
    }
}

/// The generations of which there are files in a directory.
fn numbers_in(directory: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| number_of(entry.file_name().to_str()?)).collect()
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("an old part of the journal stays path={} error={error}", path.display());
        }
        _ => {}
    }
}
