//! The desk at which all that is written passes, one caller after the other, and how callers share
//! its syncs.
//!
//! A caller applies its operation itself, under the desk's lock and a savepoint of its own, inside the
//! transaction that is open there. What may be answered early returns then. For the rest somebody must
//! commit: whoever applied an operation that is to be durable while nobody else is at the door does it,
//! for all that was applied since the last commit; the others wait for that. So a caller that is alone
//! waits for nothing but its own sync, and under load the callers that arrive during one sync share the
//! next. No other thread is woken to do the work, which would cost more than most operations.
//!
//! The transaction of an early answer may stay open for `EARLY_WAIT` until something durable comes
//! along to share its sync; a thread of its own sees to it that it does not stay longer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::Connection;

use super::changes::Feed;
use super::rows::{Done, signed};
use crate::catalog::CatalogError;

/// The most operations of one transaction; callers that are waiting should not wait for ever.
const MAX_BATCH: usize = 512;
/// How long something that was answered early may wait for company.
const EARLY_WAIT: Duration = Duration::from_millis(50);
/// How many numbers may have been given out and not be durable. A catalog that is opened skips
/// `NUMBERS_SKIPPED`, which is more, so that none of those can ever be given out again.
const MAX_LOOSE_NUMBERS: u64 = 1 << 19;
/// See `MAX_LOOSE_NUMBERS`; one operation can take numbers beyond that, but never as many as this.
pub(super) const NUMBERS_SKIPPED: u64 = 1 << 20;

/// What is kept in the one row of `catalog` and changes with most operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    /// The number that the next serial, version or entry gets.
    pub next: u64,
    pub files: u64,
    pub chunks: u64,
    pub copies: u64,
    /// Copies that are condemned, and of these those whose serial was unknown.
    pub condemned: u64,
    pub unknown: u64,
}

/// What an operation works on: the writer's connection, inside its transaction.
pub(super) struct Books {
    pub conn: Connection,
    pub sums: Sums,
    /// How far the books are: one more for each transaction that counts.
    pub mark: u64,
    /// Rows written that do not count for the mark, since the start.
    pub unmarked: u64,
}

impl Books {
    /// Draws a number that was never used and never will be again.
    pub(super) fn draw(&mut self) -> u64 {
        self.sums.next += 1;
        self.sums.next - 1
    }

    /// Runs a part of an operation whole or not at all.
    pub(super) fn whole<T>(&mut self, part: impl FnOnce(&mut Books) -> Done<T>) -> Done<T> {
        let before = self.sums;
        self.execute("SAVEPOINT whole")?;
        let result = catch_unwind(AssertUnwindSafe(|| part(self)));
        if !matches!(result, Ok(Ok(_))) {
            self.sums = before;
            self.execute("ROLLBACK TO whole")?;
        }
        self.execute("RELEASE whole")?;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute(())?;
        Ok(())
    }
}

/// When an operation may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing.
    Read,
    /// It changes something, and is answered when it is applied.
    Early,
    /// It is answered when it, and all before it, is durable.
    Durable,
}

/// What callers share.
struct Shared {
    desk: Mutex<Desk>,
    /// Callers that wait for `desk`.
    at_door: AtomicUsize,
    /// A commit is over, or there may be nobody left at the door to make one.
    changed: Condvar,
    /// There is an early answer while `Desk::is_watched` is false, or no more are to come.
    watch: Condvar,
    /// True from before the first early answer of a transaction until after its commit: while it
    /// is false, a reader's own connection sees all that anybody was ever answered.
    has_early: AtomicBool,
    commits: AtomicU64,
    /// One more with each early answer and each commit, before anybody is told of it.
    epoch: AtomicU64,
    /// As of the last commit.
    mark: AtomicU64,
    /// When the last of them was.
    last_commit: Mutex<Option<Instant>>,
    /// Set before any caller can see the failure.
    failure: OnceLock<String>,
    failed: Sender<String>,
    feed: Arc<Feed>,
}

/// The callers' end.
pub(super) struct Writer {
    shared: Arc<Shared>,
    failures: Receiver<String>,
    watching: Option<JoinHandle<()>>,
}

/// Why the writer stops.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("a transaction cannot be made durable: {0}")]
    Sql(#[from] rusqlite::Error),
    /// As on a full disk; what others were told already went with it.
    #[error("the engine gave a whole transaction up, because a write failed")]
    GivenUp,
    #[error("its writer had a panic")]
    Panic,
}

/// What is guarded by the desk's lock.
struct Desk {
    books: Books,
    /// The sums as the table has them.
    stored: Sums,
    in_transaction: bool,
    /// The rows written up to the last commit, and those of them that count for the mark.
    changes: u64,
    counted: u64,
    /// When the oldest early answer of this transaction was given.
    early_since: Option<Instant>,
    /// The number of the transaction that is open, or is begun next.
    round: u64,
    /// The operations applied in it.
    applied: usize,
    /// Callers that wait for its commit.
    waiting: usize,
    /// The thread that ends early transactions will look by itself.
    is_watched: bool,
    is_closing: bool,
}

impl Writer {
    /// Starts on the books.
    pub(super) fn start(books: Books) -> std::io::Result<Writer> {
        let (failed, failures) = bounded(1);
        let (changes, mark) = (books.conn.total_changes(), books.mark);
        let desk = Desk {
            stored: books.sums,
            changes,
            counted: changes,
            books,
            in_transaction: false,
            early_since: None,
            round: 0,
            applied: 0,
            waiting: 0,
            is_watched: false,
            is_closing: false,
        };
        let shared = Arc::new(Shared {
            desk: Mutex::new(desk),
            at_door: AtomicUsize::new(0),
            changed: Condvar::new(),
            watch: Condvar::new(),
            has_early: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            mark: AtomicU64::new(mark),
            last_commit: Mutex::new(None),
            failure: OnceLock::new(),
            failed,
            feed: Arc::new(Feed::default()),
        });
        let watched = shared.clone();
        let watching = thread::Builder::new()
            .name("catalog-writer".into())
            .spawn(move || watched.end_early_transactions())?;
        Ok(Writer { shared, failures, watching: Some(watching) })
    }

    /// Runs `operation` at the desk and returns when it may be answered. A panic in it is taken
    /// back like a refusal, and goes on in the caller.
    pub(super) fn submit<T>(
        &self,
        kind: Kind,
        doing: &'static str,
        operation: impl FnOnce(&mut Books) -> Done<T>,
    ) -> Result<T, CatalogError> {
        match self.shared.submit(kind, operation) {
            Some(Ok(result)) => result.map_err(|stop| stop.during(doing)),
            Some(Err(panic)) => resume_unwind(panic),
            None => Err(self.failed()),
        }
    }

    /// Refuses when the catalog has failed.
    pub(super) fn check(&self) -> Result<(), CatalogError> {
        if self.shared.failure.get().is_some() { Err(self.failed()) } else { Ok(()) }
    }

    /// True when there may be answers that only the writer's connection can see.
    pub(super) fn has_early(&self) -> bool {
        self.shared.has_early.load(Ordering::SeqCst)
    }

    /// How many transactions were made durable that wrote something.
    pub(super) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::SeqCst)
    }

    /// As long as this stays the same, nothing that can be read has changed.
    pub(super) fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::SeqCst)
    }

    /// How far the books are, durably.
    pub(super) fn mark(&self) -> u64 {
        self.shared.mark.load(Ordering::SeqCst)
    }

    /// When the last of them was made durable.
    pub(super) fn last_commit(&self) -> Option<Instant> {
        *self.shared.last_commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations wait for their turn.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.shared.at_door.load(Ordering::SeqCst)
    }

    /// What the journal is told of changes.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.shared.feed
    }

    pub(super) fn failures(&self) -> Receiver<String> {
        self.failures.clone()
    }

    fn failed(&self) -> CatalogError {
        let why = self.shared.failure.get().map_or("its writer has stopped", String::as_str);
        CatalogError::Failed(why.to_string())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut desk = self.shared.lock();
        desk.is_closing = true;
        self.shared.watch.notify_all();
        // What was answered early is made durable; a failure was logged, and nobody is left to tell.
        let _ = self.shared.commit(&mut desk);
        drop(desk);
        if let Some(thread) = self.watching.take() {
            // It catches panics; one of its own was logged by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// After a panic at the desk the catalog has failed, and nobody works on what it left there.
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when the catalog has failed.
    fn submit<T>(
        &self,
        kind: Kind,
        operation: impl FnOnce(&mut Books) -> Done<T>,
    ) -> Option<thread::Result<Done<T>>> {
        self.at_door.fetch_add(1, Ordering::SeqCst);
        let mut desk = self.lock();
        self.at_door.fetch_sub(1, Ordering::SeqCst);
        if self.failure.get().is_some() {
            return None;
        }
        let result = match desk.apply(kind, operation) {
            Ok(result) => result,
            Err(failure) => {
                self.fail(&failure);
                return None;
            }
        };
        match kind {
            Kind::Read => {}
            Kind::Early => self.note_early(&mut desk)?,
            // Refusals wait too: they may rest on what is not durable yet.
            Kind::Durable => return self.wait_durable(desk).map(|()| result),
        }
        if desk.waiting > 0 && self.is_door_free() {
            // Nobody else would commit for those who wait.
            self.changed.notify_one();
        }
        Some(result)
    }

    fn is_door_free(&self) -> bool {
        self.at_door.load(Ordering::SeqCst) == 0
    }

    /// Commits for all, unless somebody comes who will: each caller that leaves the door looks whether
    /// it was the last. `None` when the catalog has failed.
    fn wait_durable(&self, mut desk: MutexGuard<'_, Desk>) -> Option<()> {
        let round = desk.round;
        while desk.round == round {
            if self.failure.get().is_some() {
                return None;
            }
            if self.is_door_free() || desk.is_due() {
                return self.commit(&mut desk);
            }
            desk.waiting += 1;
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
            desk.waiting -= 1;
        }
        Some(())
    }

    /// An answer is about to be given early. `None` when the catalog has failed.
    fn note_early(&self, desk: &mut Desk) -> Option<()> {
        self.has_early.store(true, Ordering::SeqCst);
        // Whoever has read without that, just before, has not seen it.
        self.epoch.fetch_add(1, Ordering::SeqCst);
        desk.early_since.get_or_insert_with(Instant::now);
        if desk.is_due() {
            return self.commit(desk);
        }
        if !desk.is_watched {
            desk.is_watched = true;
            self.watch.notify_all();
        }
        Some(())
    }

    /// Makes everything so far durable and wakes those who wait for it. `None` when that failed.
    fn commit(&self, desk: &mut Desk) -> Option<()> {
        if self.failure.get().is_some() {
            return None;
        }
        match catch_unwind(AssertUnwindSafe(|| self.try_commit(desk))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.fail(&error.into()),
            Err(_) => return self.fail(&Failure::Panic),
        }
        (desk.round, desk.applied, desk.early_since) = (desk.round + 1, 0, None);
        self.has_early.store(false, Ordering::SeqCst);
        if desk.waiting > 0 {
            self.changed.notify_all();
        }
        Some(())
    }

    fn try_commit(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        if desk.in_transaction {
            desk.store_sums()?;
            desk.books.execute("COMMIT")?;
            desk.in_transaction = false;
            // Readers see it from now on.
            self.epoch.fetch_add(1, Ordering::SeqCst);
            // Whoever is told of it may rely on it.
            self.mark.store(desk.books.mark, Ordering::SeqCst);
            // The engine syncs nothing for a transaction that wrote nothing.
            let changes = desk.books.conn.total_changes();
            if changes != desk.changes {
                (desk.changes, desk.counted) = (changes, changes - desk.books.unmarked);
                self.commits.fetch_add(1, Ordering::SeqCst);
                let last = self.last_commit.lock();
                *last.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
        }
        self.feed.committed(&desk.books.sums);
        Ok(())
    }

    /// Notes for all callers that the catalog has failed.
    fn fail(&self, failure: &Failure) -> Option<()> {
        let why = failure.to_string();
        log::error!("catalog failed, the process must stop why={why:?}");
        let _ = self.failure.set(why.clone());
        let _ = self.failed.try_send(why);
        self.changed.notify_all();
        self.watch.notify_all();
        None
    }

    /// The body of the thread that ends transactions which nobody else ends in time.
    fn end_early_transactions(&self) {
        let mut desk = self.lock();
        while !desk.is_closing && self.failure.get().is_none() {
            let Some(since) = desk.early_since else {
                desk.is_watched = false;
                desk = self.watch.wait(desk).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = EARLY_WAIT.saturating_sub(since.elapsed());
            if left.is_zero() {
                self.commit(&mut desk);
                continue;
            }
            let waited = self.watch.wait_timeout(desk, left);
            (desk, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Desk {
    /// Runs the operation, in the open transaction if it writes.
    fn apply<T>(
        &mut self,
        kind: Kind,
        operation: impl FnOnce(&mut Books) -> Done<T>,
    ) -> Result<thread::Result<Done<T>>, Failure> {
        let writes = kind != Kind::Read;
        if writes && !self.in_transaction {
            self.books.execute("BEGIN IMMEDIATE")?;
            self.in_transaction = true;
        }
        self.applied += usize::from(writes);
        let books = &mut self.books;
        let result = catch_unwind(AssertUnwindSafe(|| match writes {
            true => books.whole(operation),
            false => operation(books),
        }));
        let is_given_up = self.in_transaction && self.books.conn.is_autocommit();
        if is_given_up { Err(Failure::GivenUp) } else { Ok(result) }
    }

    /// True when the transaction should be committed whoever else waits.
    fn is_due(&self) -> bool {
        let loose = self.books.sums.next.saturating_sub(self.stored.next);
        self.applied >= MAX_BATCH
            || loose >= MAX_LOOSE_NUMBERS
            || self.early_since.is_some_and(|since| since.elapsed() >= EARLY_WAIT)
    }

    fn store_sums(&mut self) -> rusqlite::Result<()> {
        let sums = self.books.sums;
        let counted = self.books.conn.total_changes() - self.books.unmarked;
        if sums == self.stored && counted == self.counted {
            return Ok(());
        }
        self.books.mark += 1;
        let sql = "UPDATE catalog SET next_number = ?, files = ?, chunks = ?, copies = ?,
                   condemned = ?, unknown = ?, mark = ?";
        self.books.conn.prepare_cached(sql)?.execute((
            signed(sums.next),
            signed(sums.files),
            signed(sums.chunks),
            signed(sums.copies),
            signed(sums.condemned),
            signed(sums.unknown),
            signed(self.books.mark),
        ))?;
        self.stored = sums;
        Ok(())
    }
}
