//! The one thread that writes, and how operations get to it.
//!
//! It runs as many operations as wait in one transaction, each under a savepoint of its own, and
//! commits as soon as nothing more waits: so the operations of many callers share one sync. What
//! may be answered early is answered when it is applied, and its transaction may stay open for
//! `EARLY_WAIT` until something durable comes along to share its sync.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
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

struct Job {
    kind: Kind,
    run: Box<dyn FnOnce(&mut Books) -> Answer + Send>,
}

/// Gives the caller its answer. Dropped instead, it tells the caller that the catalog failed.
type Answer = Box<dyn FnOnce() + Send>;

/// What the writer shares with its callers.
#[derive(Default)]
struct Shared {
    /// True from before the first early answer of a transaction until after its commit: while it
    /// is false, a reader's own connection sees all that anybody was ever answered.
    has_early: AtomicBool,
    commits: AtomicU64,
    /// When the last of them was.
    last_commit: Mutex<Option<Instant>>,
    /// Set before any caller can see the failure.
    failure: OnceLock<String>,
}

/// The callers' end.
pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    failures: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(books: Books) -> std::io::Result<Writer> {
        let (jobs, waiting) = unbounded();
        let (failed, failures) = bounded(1);
        let (shared, feed) = (Arc::new(Shared::default()), Arc::new(Feed::default()));
        let desk = Desk {
            stored: books.sums,
            changes: books.conn.total_changes(),
            books,
            shared: shared.clone(),
            feed: feed.clone(),
            in_transaction: false,
            early_since: None,
            to_answer: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("catalog-writer".into())
            .spawn(move || desk.work(&waiting, &failed))?;
        Ok(Writer { jobs: Some(jobs), shared, feed, failures, thread: Some(thread) })
    }

    /// Runs `operation` on the writer's thread and waits for its answer. A panic in it is taken
    /// back like a refusal, and goes on in the caller.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        kind: Kind,
        doing: &'static str,
        operation: impl FnOnce(&mut Books) -> Done<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (reply, answer) = bounded(1);
        let run = Box::new(move |books: &mut Books| -> Answer {
            let result = catch_unwind(AssertUnwindSafe(|| match kind {
                Kind::Read => operation(books),
                Kind::Early | Kind::Durable => books.whole(operation),
            }));
            Box::new(move || {
                // A caller that is gone needs no answer.
                let _ = reply.send(result);
            })
        });
        let jobs = self.jobs.as_ref().expect("taken only by `drop`");
        if jobs.send(Job { kind, run }).is_err() {
            return Err(self.failed());
        }
        match answer.recv() {
            Ok(Ok(result)) => result.map_err(|stop| stop.during(doing)),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(self.failed()),
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

    /// When the last of them was made durable.
    pub(super) fn last_commit(&self) -> Option<Instant> {
        *self.shared.last_commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations wait in the queue.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.jobs.as_ref().map_or(0, Sender::len)
    }

    /// What the journal is told of changes.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.feed
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
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It catches the panics of operations; one of its own was logged by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Why the writer stops.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("a transaction cannot be made durable: {0}")]
    Sql(#[from] rusqlite::Error),
    /// As on a full disk; what others were told already went with it.
    #[error("the engine gave a whole transaction up, because a write failed")]
    GivenUp,
}

/// The thread's end.
struct Desk {
    books: Books,
    /// The sums as the table has them.
    stored: Sums,
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    in_transaction: bool,
    /// The rows written up to the last commit.
    changes: u64,
    /// When the oldest early answer of this transaction was given.
    early_since: Option<Instant>,
    to_answer: Vec<Answer>,
}

impl Desk {
    fn work(mut self, waiting: &Receiver<Job>, failed: &Sender<String>) {
        let result = catch_unwind(AssertUnwindSafe(|| self.serve(waiting)));
        let why = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its writer had a panic".to_string(),
        };
        log::error!("catalog failed, the process must stop why={why:?}");
        // Before the answers and the queue are dropped, which is how callers learn of it.
        let _ = self.shared.failure.set(why.clone());
        let _ = failed.send(why);
    }

    /// Serves until all callers are gone, or a write fails.
    fn serve(&mut self, waiting: &Receiver<Job>) -> Result<(), Failure> {
        loop {
            let first = match self.early_since {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => waiting.recv_deadline(since + EARLY_WAIT),
            };
            match first {
                Ok(job) => self.serve_batch(job, waiting)?,
                Err(RecvTimeoutError::Timeout) => self.commit()?,
                Err(RecvTimeoutError::Disconnected) => return self.commit(),
            }
        }
    }

    fn serve_batch(&mut self, first: Job, waiting: &Receiver<Job>) -> Result<(), Failure> {
        let mut served = 1;
        self.serve_one(first)?;
        while served < MAX_BATCH && !self.has_many_loose_numbers() {
            let Ok(job) = waiting.try_recv() else { break };
            self.serve_one(job)?;
            served += 1;
        }
        let is_overdue = self.early_since.is_some_and(|since| since.elapsed() >= EARLY_WAIT);
        if !self.to_answer.is_empty() || is_overdue || self.has_many_loose_numbers() {
            self.commit()?;
        }
        Ok(())
    }

    fn serve_one(&mut self, job: Job) -> Result<(), Failure> {
        if job.kind != Kind::Read && !self.in_transaction {
            self.books.execute("BEGIN IMMEDIATE")?;
            self.in_transaction = true;
        }
        let answer = (job.run)(&mut self.books);
        if self.in_transaction && self.books.conn.is_autocommit() {
            // Its caller, too, learns of it only when the failure is written down.
            self.to_answer.push(answer);
            return Err(Failure::GivenUp);
        }
        match job.kind {
            Kind::Read => answer(),
            Kind::Early => {
                self.shared.has_early.store(true, Ordering::SeqCst);
                self.early_since.get_or_insert_with(Instant::now);
                answer();
            }
            // Refusals wait too: they may rest on what is not durable yet.
            Kind::Durable => self.to_answer.push(answer),
        }
        Ok(())
    }

    fn has_many_loose_numbers(&self) -> bool {
        self.books.sums.next.saturating_sub(self.stored.next) >= MAX_LOOSE_NUMBERS
    }

    /// Makes everything so far durable and gives the answers that waited for it.
    fn commit(&mut self) -> Result<(), Failure> {
        if self.in_transaction {
            self.store_sums()?;
            self.books.execute("COMMIT")?;
            self.in_transaction = false;
            // The engine syncs nothing for a transaction that wrote nothing.
            let changes = self.books.conn.total_changes();
            if changes != self.changes {
                self.changes = changes;
                self.shared.commits.fetch_add(1, Ordering::SeqCst);
                let last = self.shared.last_commit.lock();
                *last.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
        }
        self.feed.committed(&self.books.sums);
        self.early_since = None;
        self.shared.has_early.store(false, Ordering::SeqCst);
        for answer in self.to_answer.drain(..) {
            answer();
        }
        Ok(())
    }

    fn store_sums(&mut self) -> rusqlite::Result<()> {
        let sums = self.books.sums;
        if sums == self.stored {
            return Ok(());
        }
        let sql = "UPDATE catalog SET next_number = ?, files = ?, chunks = ?, copies = ?,
                   condemned = ?, unknown = ?";
        self.books.conn.prepare_cached(sql)?.execute((
            signed(sums.next),
            signed(sums.files),
            signed(sums.chunks),
            signed(sums.copies),
            signed(sums.condemned),
            signed(sums.unknown),
        ))?;
        self.stored = sums;
        Ok(())
    }
}
