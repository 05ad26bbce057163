//! The client's threads: a bounded number, started when there is work for them.
//!
//! A job never waits for another job, so however few threads there are, all jobs come to an end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

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
