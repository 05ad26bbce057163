//! Telling the main server what is durable here, duplicated elsewhere, or lost: one thread, on a
//! connection of its own. Whatever waits while one exchange is under way travels in the next, so
//! under load many confirmations share a message, and nobody waits on a timer.
//!
//! What waits is sent in the order in which it came, as far as that matters: a `lost` is never sent
//! before or together with what was said before it.
//!
//! A copy is told of only if it is held when its exchange begins: one that was removed or dropped
//! while its confirmation waited is left out. And a drop is told of in a later exchange than the one
//! that is under way, and a removal acknowledged only after that (`settle`). So whichever came first,
//! the main server's books end with what is here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::causes::with_causes;
use crate::ids::{Incarnation, Serial};
use crate::wire::node_to_main::DuplicatedChunk;
use crate::wire::{Connection, MAX_CONFIRMATIONS, MAX_ITEMS};

use super::answer::pending;
use super::batch::{Answers, Batch, Job, StoredCopy, What, unheard};
use super::exchange::tell;
use super::shared::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the main server may think about an exchange.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long something is worth sending for which nobody waits.
const NOTE_PATIENCE: Duration = Duration::from_secs(60);
/// How many times as long as somebody waits for its answer something is told: it counts late, too, and
/// what is not told at all costs a comparison.
const LATE: u32 = 6;

/// The queue of what is to be told.
#[derive(Debug, Default)]
pub(super) struct Confirmer {
    /// Held for memory only, never during an exchange.
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The number of the connection by which it is told now, or will be next.
    dial: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// The number of `Paused` about.
    pauses: usize,
    exchanging: bool,
    stopping: bool,
    /// Nothing can be told any more.
    over: bool,
    /// The main server was just reached by another thread.
    nudged: bool,
    /// The main server at which the node was added last.
    main: Option<Incarnation>,
    /// Copies were given up of which the main server may not have heard.
    are_unheard: bool,
}

/// Nothing is told to the main server while this is held.
pub(super) struct Paused<'a>(&'a Confirmer);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.lock().pauses -= 1;
        self.0.changed.notify_all();
    }
}

impl Confirmer {
    /// Confirms durable copies by the tokens with which they came. Waits for the answers, for at
    /// most `patience`: copies without one are `busy`, though they are durable, and so are those that
    /// are not here any more.
    pub fn confirm(&self, copies: Vec<StoredCopy>, patience: Duration) -> Answers {
        self.ask(copies.into_iter().map(Some).collect(), What::Stored, patience)
    }

    /// Reports how duplication went, and waits for further targets.
    pub fn report(&self, chunks: Vec<DuplicatedChunk>, patience: Duration) -> Answers {
        self.ask(chunks, What::Duplicated, patience)
    }

    /// Reports how duplication went, where there is nothing more to do about it.
    pub fn note(&self, mut chunks: Vec<DuplicatedChunk>) {
        let until = Some(Instant::now() + NOTE_PATIENCE);
        while !chunks.is_empty() {
            let rest = chunks.split_off(chunks.len().min(MAX_CONFIRMATIONS));
            let what = What::Duplicated(std::mem::replace(&mut chunks, rest));
            self.push(Job { what, answer: None, until });
        }
    }

    /// Reports a copy that is no longer here. It is told however long that takes.
    pub fn lost(&self, serial: Serial) {
        self.push(Job { what: What::Lost(serial), answer: None, until: None });
    }

    /// Keeps the main server from being told anything until the value is dropped; returns once no
    /// exchange is under way. So a list of what is held, taken and answered meanwhile, cannot be
    /// overtaken by a confirmation.
    pub fn pause(&self) -> Paused<'_> {
        let mut queue = self.lock();
        queue.pauses += 1;
        let _free = self
            .changed
            .wait_while(queue, |queue| queue.exchanging)
            .unwrap_or_else(PoisonError::into_inner);
        Paused(self)
    }

    /// Returns once the exchange that is under way, if there is one, is over. What is not held any
    /// more is told of in none that begins after the call.
    ///
    /// Whoever waits here holds no lock, and an exchange waits for the main server alone, and not for
    /// long: so nobody who waits here is waited for.
    pub fn settle(&self) {
        drop(self.pause());
    }

    /// From now on nothing is told to any other main server: two may take turns at one address.
    pub fn tell_only(&self, main: Incarnation) {
        self.lock().main = Some(main);
    }

    /// True for a connection to the main server at which the node was added last.
    pub fn may_tell_by(&self, connection: &Connection) -> bool {
        let main = self.lock().main;
        main.is_none() || main == connection.hello().incarnation
    }

    /// True once after copies were not told of in time that are held: they count after a comparison
    /// only.
    pub fn take_unheard(&self) -> bool {
        std::mem::take(&mut self.lock().are_unheard)
    }

    /// Says that the main server can be reached, to a thread that pauses because it could not.
    pub fn nudge(&self) {
        self.lock().nudged = true;
        self.changed.notify_all();
    }

    /// Lets `run` end after one more try to tell what is waiting.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Gives up what waits, and all that comes from now on: the main server cannot be reached, and
    /// the node stops.
    pub fn abandon(&self) {
        let mut queue = self.lock();
        (queue.stopping, queue.over) = (true, true);
        queue.jobs.clear();
        drop(queue);
        self.changed.notify_all();
    }

    /// The number of the connection by which the main server is told, or will be next. What was said on
    /// those before, and not answered, is not to be heard any more.
    pub fn dial(&self) -> u64 {
        self.dial.load(Ordering::SeqCst)
    }

    /// The connection is given up: the next has another number. Before the exchange is over, so that
    /// whoever has settled sees it.
    pub fn give_up_connection(&self) {
        self.dial.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until `run` has ended, for at most `patience`.
    pub fn wait_over(&self, patience: Duration) -> bool {
        let queue = self.lock();
        let (queue, _) = self
            .changed
            .wait_timeout_while(queue, patience, |queue| !queue.over)
            .unwrap_or_else(PoisonError::into_inner);
        queue.over
    }

    /// The body of the confirmer's thread.
    pub fn run(&self, shared: &Shared) {
        let mut connection = None;
        let mut pause = FIRST_PAUSE;
        while let Some(mut batch) = self.next_batch() {
            let told = tell(shared, &mut connection, &mut batch);
            let stopping = self.end_exchange(batch);
            match told {
                Ok(()) => pause = FIRST_PAUSE,
                Err(_) if stopping => break,
                Err(error) => {
                    log::debug!("confirmations wait error={}", with_causes(&error));
                    self.back_off(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        // Whoever still waits for an answer gets none.
        self.abandon();
    }

    fn ask<T>(
        &self,
        mut items: Vec<T>,
        what: impl Fn(Vec<T>) -> What,
        patience: Duration,
    ) -> Answers {
        let until = Instant::now() + patience;
        let mut waiting = Vec::new();
        while !items.is_empty() {
            let rest = items.split_off(items.len().min(MAX_CONFIRMATIONS));
            let part = std::mem::replace(&mut items, rest);
            let (answer, answers) = pending();
            waiting.push((part.len(), answers));
            let told_until = Some(until + patience * (LATE - 1));
            self.push(Job { what: what(part), answer: Some(answer), until: told_until });
        }
        let mut all = Vec::new();
        for (count, answers) in waiting {
            all.extend(answers.wait_until(until).unwrap_or_else(|| vec![Err(unheard()); count]));
        }
        all
    }

    fn push(&self, job: Job) {
        let mut queue = self.lock();
        // Nobody would ever tell it; dropped, it tells whoever waits that there is no answer.
        if !queue.over {
            queue.jobs.push_back(job);
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// Waits for something to tell, and begins an exchange. `None` at the end.
    fn next_batch(&self) -> Option<Batch> {
        let mut queue = self.lock();
        loop {
            queue = self
                .changed
                .wait_while(queue, |queue| !queue.may_tell())
                .unwrap_or_else(PoisonError::into_inner);
            let batch = queue.take_batch();
            if !batch.is_empty() {
                queue.exchanging = true;
                return Some(batch);
            }
            if queue.stopping {
                return None;
            }
        }
    }

    /// Ends an exchange; what is left of the batch is tried again. True when the node stops.
    fn end_exchange(&self, batch: Batch) -> bool {
        let mut guard = self.lock();
        let queue = &mut *guard;
        let left = batch.lost.into_iter().chain(batch.stored).chain(batch.duplicated);
        for job in left.rev().filter(|_| !queue.over) {
            queue.jobs.push_front(job);
        }
        queue.exchanging = false;
        self.changed.notify_all();
        queue.stopping
    }

    fn back_off(&self, pause: Duration) {
        let queue = self.lock();
        let (mut queue, _) = self
            .changed
            .wait_timeout_while(queue, pause, |queue| !queue.nudged && !queue.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        queue.nudged = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// True when the next exchange may begin, or there is to be none any more.
    fn may_tell(&self) -> bool {
        self.stopping || (self.pauses == 0 && !self.jobs.is_empty())
    }

    /// Takes the longest run of jobs from the front that may travel together.
    fn take_batch(&mut self) -> Batch {
        let now = Instant::now();
        let mut batch = Batch::default();
        let (mut stored, mut duplicated) = (0, 0);
        while let Some(job) = self.jobs.front() {
            let (list, fits) = match &job.what {
                What::Lost(_) => {
                    let is_first = batch.stored.is_empty() && batch.duplicated.is_empty();
                    let fits = is_first && batch.lost.len() < MAX_ITEMS;
                    (&mut batch.lost, fits)
                }
                What::Stored(copies) => {
                    stored += copies.len();
                    (&mut batch.stored, stored <= MAX_CONFIRMATIONS && batch.lost.is_empty())
                }
                What::Duplicated(chunks) => {
                    duplicated += chunks.len();
                    let fits = duplicated <= MAX_CONFIRMATIONS && batch.lost.is_empty();
                    (&mut batch.duplicated, fits)
                }
            };
            let is_over = job.until.is_some_and(|until| until <= now);
            if !fits && !is_over {
                break;
            }
            let job = self.jobs.pop_front().expect("it was just looked at");
            if !is_over {
                list.push(job);
            } else {
                self.are_unheard |= matches!(job.what, What::Stored(_));
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ids::{ChunkId, HashAlgorithm};
    use crate::storage_node::batch::gone;
    use crate::token::Token;

    fn copy(serial: u64) -> StoredCopy {
        let id = ChunkId::of(HashAlgorithm::Blake3, &serial.to_be_bytes());
        StoredCopy { serial: Serial(serial), id, token: Token::from_text(serial.to_string()) }
    }

    fn stored(confirmer: &Confirmer, copies: usize) {
        let copies = (0..copies).map(|n| Some(copy(n as u64)));
        let what = What::Stored(copies.collect());
        confirmer.push(Job { what, answer: None, until: None });
    }

    /// How many lost copies, stored ones and duplicated ones travel together next.
    fn next(confirmer: &Confirmer) -> (usize, usize, usize) {
        let batch = confirmer.next_batch().unwrap();
        let count = |jobs: &[Job]| jobs.iter().map(|job| job.what.len()).sum();
        let counts = (count(&batch.lost), count(&batch.stored), count(&batch.duplicated));
        confirmer.end_exchange(Batch::default());
        counts
    }

    #[test]
    fn what_waits_travels_together_but_nothing_overtakes_a_lost_copy() {
        let confirmer = Confirmer::default();
        stored(&confirmer, 10);
        stored(&confirmer, MAX_CONFIRMATIONS - 10);
        stored(&confirmer, 1);
        confirmer.lost(Serial(1));
        confirmer.lost(Serial(2));
        stored(&confirmer, 3);
        confirmer.note(vec![DuplicatedChunk {
            token: Token::from_text("a token".to_string()),
            done: Vec::new(),
            failed: Vec::new(),
        }]);
        assert_eq!(next(&confirmer), (0, MAX_CONFIRMATIONS, 0));
        assert_eq!(next(&confirmer), (0, 1, 0));
        assert_eq!(next(&confirmer), (2, 0, 0));
        assert_eq!(next(&confirmer), (0, 3, 1));
    }

    #[test]
    fn what_could_not_be_told_is_told_first_and_what_nobody_waits_for_any_more_is_not() {
        let confirmer = Confirmer::default();
        stored(&confirmer, 2);
        let batch = confirmer.next_batch().unwrap();
        confirmer.lost(Serial(1));
        confirmer.end_exchange(batch);
        let until = Some(Instant::now());
        confirmer.push(Job { what: What::Stored(Vec::new()), answer: None, until });
        assert_eq!(next(&confirmer), (0, 2, 0));
        assert_eq!(next(&confirmer), (1, 0, 0));
        confirmer.stop();
        assert!(confirmer.next_batch().is_none());
    }

    #[test]
    fn a_copy_that_is_gone_before_it_was_told_of_is_left_out_and_its_place_answered() {
        let confirmer = Confirmer::default();
        thread::scope(|scope| {
            let asked = |serials: std::ops::Range<u64>| {
                let copies: Vec<_> = serials.map(copy).collect();
                scope.spawn(|| confirmer.confirm(copies, Duration::from_secs(60)))
            };
            let (some, none) = (asked(0..4), asked(4..6));
            while confirmer.lock().jobs.len() < 2 {
                thread::yield_now();
            }
            let mut batch = confirmer.next_batch().unwrap();
            batch.leave_out(|copy| copy.serial != Serial(1) && copy.serial < Serial(4));
            // It could not be told, and another one goes meanwhile.
            confirmer.end_exchange(batch);
            let mut batch = confirmer.next_batch().unwrap();
            batch.leave_out(|copy| copy.serial != Serial(0));
            let job = batch.stored.pop().unwrap();
            assert_eq!((job.what.len(), batch.is_empty()), (2, true));
            job.deliver(vec![Ok(Vec::new()), Err(unheard())]);
            confirmer.end_exchange(batch);
            let messages = |answers: Answers| {
                answers
                    .into_iter()
                    .map(|one| one.err().map(|fault| fault.message))
                    .collect::<Vec<_>>()
            };
            let (gone, unheard) = (Some(gone().message), Some(unheard().message));
            let answers = messages(some.join().unwrap());
            assert_eq!(answers, [gone.clone(), gone.clone(), None, unheard]);
            assert_eq!(messages(none.join().unwrap()), [gone.clone(), gone]);
        });
    }

    #[test]
    fn a_pause_begins_after_the_exchange_under_way_and_holds_the_next_one_up() {
        let confirmer = Confirmer::default();
        stored(&confirmer, 1);
        let batch = confirmer.next_batch().unwrap();
        thread::scope(|scope| {
            let confirmer = &confirmer;
            let pauser = scope.spawn(move || {
                let paused = confirmer.pause();
                assert!(!confirmer.lock().exchanging);
                paused
            });
            while confirmer.lock().pauses == 0 {
                thread::yield_now();
            }
            // A pause that does not wait for the exchange is over by now, or as good as.
            (0..1000).for_each(|_| thread::yield_now());
            confirmer.end_exchange(batch);
            let paused = pauser.join().unwrap();
            assert!(!confirmer.lock().may_tell());
            drop(paused);
            assert_eq!(next(confirmer), (0, 1, 0));
        });
    }
}
