//! The client's threads: a bounded number, started when there is work for them.
//!
//! A job never waits for another job, so however few threads there are, all jobs come to an end.
//! Where an operation has just one job to wait for, its own thread does it: to hand it on and be woken
//! for its result costs as much as a small exchange.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, unbounded};

use super::{ClientError, Inner};

type Job = Box<dyn FnOnce() + Send>;

/// Its threads end after the jobs that they are at when it is dropped.
pub(super) struct Workers {
    /// Its length is bounded by those who submit: each operation has few jobs under way.
    queue: Sender<Job>,
    shared: Arc<Shared>,
    max_threads: usize,
}

struct Shared {
    jobs: Receiver<Job>,
    count: Mutex<Count>,
}

/// `queued` counts jobs that no thread has taken yet, `idle` threads that wait for one; under one
/// lock, so that a thread is started exactly when there are more of the former than of the latter.
#[derive(Default)]
struct Count {
    threads: usize,
    idle: usize,
    queued: usize,
}

impl Shared {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The jobs of one operation, and their results in the order in which they come.
pub(super) struct Jobs<T> {
    results: Sender<Option<T>>,
    events: Receiver<Option<T>>,
    /// Jobs whose results have not come yet.
    under_way: usize,
    /// The one that was started last, if no thread was given it yet.
    held: Option<Box<dyn FnOnce() -> T + Send>>,
}

impl<T: Send + 'static> Jobs<T> {
    pub fn new() -> Jobs<T> {
        let (results, events) = unbounded();
        Jobs { results, events, under_way: 0, held: None }
    }

    /// True when there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.under_way == 0
    }

    /// Jobs whose results have not come yet.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Has a job done, which ends soon when everything is cancelled.
    pub fn start(&mut self, workers: &Workers, job: impl FnOnce() -> T + Send + 'static) {
        self.under_way += 1;
        if let Some(earlier) = self.held.replace(Box::new(job)) {
            workers.submit(&self.results, earlier);
        }
    }

    /// Has a job done that can take as long as it likes.
    pub fn start_aside(&mut self, workers: &Workers, job: impl FnOnce() -> T + Send + 'static) {
        self.under_way += 1;
        workers.submit(&self.results, job);
    }

    /// The next result; `None` when `wake` is over before there is one.
    pub fn next(
        &mut self,
        inner: &Inner,
        wake: Option<Duration>,
    ) -> Result<Option<T>, ClientError> {
        if let Some(job) = self.held.take() {
            if self.under_way == 1 && wake.is_none() {
                self.under_way = 0;
                let result = catch_unwind(AssertUnwindSafe(job));
                let is_cancelled = inner.cancel.is_cancelled();
                return match result {
                    Ok(_) if is_cancelled => Err(ClientError::Cancelled),
                    Ok(result) => Ok(Some(result)),
                    Err(_) => Err(ClientError::Worker),
                };
            }
            inner.workers.submit(&self.results, job);
        }
        let result = select! {
            recv(self.events) -> result => result.expect("`self.results` keeps it open"),
            recv(inner.cancel.receiver()) -> _ => return Err(ClientError::Cancelled),
            default(wake.unwrap_or(Duration::from_secs(3600))) => return Ok(None),
        };
        self.under_way -= 1;
        result.map(Some).ok_or(ClientError::Worker)
    }
}

impl Workers {
    pub fn new(max_threads: usize) -> Workers {
        let (queue, jobs) = unbounded();
        let shared = Arc::new(Shared { jobs, count: Mutex::new(Count::default()) });
        Workers { queue, shared, max_threads: max_threads.max(1) }
    }

    /// Runs `job` in a thread and sends what it returns; `None` if it panicked.
    pub fn submit<T: Send + 'static>(
        &self,
        results: &Sender<Option<T>>,
        job: impl FnOnce() -> T + Send + 'static,
    ) {
        let results = results.clone();
        self.run(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(job)).ok();
            // An operation that has ended does not care any more.
            let _ = results.send(result);
        }));
    }

    fn run(&self, job: Job) {
        let needs_thread = {
            let mut count = self.shared.count();
            count.queued += 1;
            let needed = count.queued > count.idle && count.threads < self.max_threads;
            count.threads += usize::from(needed);
            needed
        };
        self.queue.send(job).expect("`shared` keeps the receiver open");
        if needs_thread {
            self.start_thread();
        }
    }

    fn start_thread(&self) {
        let shared = self.shared.clone();
        let started =
            thread::Builder::new().name("p2pdfs-client".to_string()).spawn(move || work(&shared));
        if let Err(error) = started {
            log::warn!("a thread of the client cannot be started: {error}");
            let mut count = self.shared.count();
            count.threads -= 1;
            if count.threads > 0 {
                return;
            }
            drop(count);
            // With no thread at all, the caller does the work itself.
            while let Ok(job) = self.shared.jobs.try_recv() {
                self.shared.count().queued -= 1;
                job();
            }
        }
    }
}

fn work(shared: &Shared) {
    loop {
        shared.count().idle += 1;
        let job = shared.jobs.recv();
        {
            let mut count = shared.count();
            count.idle -= 1;
            count.queued = count.queued.saturating_sub(1);
        }
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
