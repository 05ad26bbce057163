//! The queue of chunks whose copies are to be seen to, the most urgent first. Its memory is bounded:
//! what does not fit gives way to what is more urgent, and is counted, so that a survey of the
//! books finds it again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::{NodeId, Serial};
use crate::policy::repair::Urgency;

/// How many chunks are handed out together.
pub const BATCH: usize = 256;
/// How many chunks are kept.
pub const MAX_KNOWN: usize = 16_384;
/// How long a chunk waits for hands to come free, when nothing says that they did.
pub const BLOCKED: Duration = Duration::from_secs(5);
/// The pause after an order that did not bring all copies, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How many blocked chunks are tried for each hand that comes free: the first may have to wait for
/// something else by then.
const TRIED_A_HAND: usize = 4;

/// A chunk of the queue, in the hands of whoever judges it or has an order for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    pub serial: Serial,
    /// Orders that did not bring all copies.
    pub attempts: u32,
    /// No further order before this.
    pub not_before: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To be judged now.
    Ready,
    /// Until a node can take a copy, or one that holds one is back or given up.
    Waiting,
    /// Until a source has a hand free, or at the latest until `blocked_until`.
    Blocked,
    Later(Moment),
    /// Like `Waiting`, but at the latest until a moment.
    WaitingUntil(Moment),
    /// It is being judged, or has an order.
    InHand,
}

#[derive(Debug, Clone)]
struct Known {
    task: Task,
    urgency: Urgency,
    place: Place,
    /// There was news of the chunk since its record was last read: a verdict that rests on that
    /// record is not the last word.
    has_news: bool,
    /// The sources that it is blocked by.
    sources: Vec<NodeId>,
}

/// The queue. Each chunk that `next_batch` hands out is in the hands of the caller until it is put
/// back by one of `forget`, `wait`, `wait_until`, `block`, `put_back`, `later` and `close`.
#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    known: HashMap<Serial, Known>,
    ready: BTreeSet<(Urgency, Serial)>,
    waiting: BTreeSet<(Urgency, Serial)>,
    blocked: BTreeSet<(Urgency, Serial)>,
    blocked_by: BTreeMap<NodeId, BTreeSet<(Urgency, Serial)>>,
    blocked_until: Option<Moment>,
    later: BTreeSet<(Moment, Serial)>,
    /// The same by urgency.
    later_by_urgency: BTreeSet<(Urgency, Serial)>,
    /// There were more chunks than are kept: they are to be found again.
    has_overflowed: bool,
    /// Chunks that waited for a node gave way to others: they are to be found again when there is
    /// one.
    has_passed_over: bool,
    displaced: u64,
    /// How often there was news of nodes, and how often before the batch that is being judged.
    news: u64,
    news_before_batch: u64,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue::new(MAX_KNOWN)
    }
}

impl Queue {
    /// An empty queue for so many chunks, and at least one.
    pub fn new(capacity: usize) -> Queue {
        Queue {
            capacity: capacity.max(1),
            known: HashMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            blocked: BTreeSet::new(),
            blocked_by: BTreeMap::new(),
            blocked_until: None,
            later: BTreeSet::new(),
            later_by_urgency: BTreeSet::new(),
            has_overflowed: false,
            has_passed_over: false,
            displaced: 0,
            news: 0,
            news_before_batch: 0,
        }
    }

    /// The chunk was found in the books: it is to be judged. One that is there already takes the new
    /// urgency, and is judged at once if that is greater, or if it waits for a node. `false` when
    /// there is no room for it.
    pub fn add(&mut self, serial: Serial, urgency: Urgency) -> bool {
        if let Some(known) = self.known.get_mut(&serial) {
            known.has_news = true;
            let since = known.urgency.since.min(urgency.since);
            let (was, place) = (known.urgency, known.place);
            let urgency = Urgency { since, ..urgency };
            let is_at_once = match place {
                Place::Waiting | Place::WaitingUntil(_) => true,
                Place::Later(_) => urgency.risk < was.risk,
                Place::Ready | Place::Blocked | Place::InHand => false,
            };
            self.take_out(serial);
            if let Some(known) = self.known.get_mut(&serial) {
                known.urgency = urgency;
            }
            self.put(serial, if is_at_once { Place::Ready } else { place });
            return true;
        }
        if self.known.len() >= self.capacity && !self.make_room(urgency) {
            self.has_overflowed = true;
            self.displaced += 1;
            return false;
        }
        let task = Task { serial, attempts: 0, not_before: Moment(0) };
        let (place, sources) = (Place::InHand, Vec::new());
        self.known.insert(serial, Known { task, urgency, place, has_news: false, sources });
        self.put(serial, Place::Ready);
        true
    }

    /// Something has happened to the chunk: it is judged anew even in a pause, since a commit may have
    /// made it count. Its next order waits for the end of the pause all the same.
    pub fn add_news(&mut self, serial: Serial, urgency: Urgency) {
        self.add(serial, urgency);
        if let Some(Known { place: Place::Later(_), .. }) = self.known.get(&serial) {
            self.put(serial, Place::Ready);
        }
    }

    /// True while there are chunks to be judged now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The chunks to be judged now, the most urgent first; none when there is nothing to do before
    /// the next look.
    pub fn next_batch(&mut self, now: Moment) -> Vec<Task> {
        if self.blocked_until.is_some_and(|at| at <= now) {
            self.unblock_all();
        }
        while let Some(&(at, serial)) = self.later.first().filter(|(at, _)| *at <= now) {
            debug_assert!(at <= now);
            self.put(serial, Place::Ready);
        }
        let batch: Vec<Serial> = self.ready.iter().take(BATCH).map(|(_, serial)| *serial).collect();
        self.news_before_batch = self.news;
        let take = |serial| {
            self.put(serial, Place::InHand);
            let known = self.known.get_mut(&serial)?;
            known.has_news = false;
            Some(known.task)
        };
        batch.into_iter().filter_map(take).collect()
    }

    /// Nothing is left to do about the chunk, unless there was news while it was judged.
    pub fn forget(&mut self, task: Task) {
        let Some(known) = self.known.get(&task.serial) else { return };
        if known.has_news {
            return self.put_task(task, Place::Ready);
        }
        self.take_out(task.serial);
        self.known.remove(&task.serial);
    }

    /// Until there is news of nodes; at once again, if there was news while the chunk was judged.
    pub fn wait(&mut self, task: Task) {
        self.wait_in(task, Place::Waiting);
    }

    /// The same, but at the latest until a moment.
    pub fn wait_until(&mut self, task: Task, at: Moment) {
        self.wait_in(task, Place::WaitingUntil(at));
    }

    fn wait_in(&mut self, task: Task, place: Place) {
        let has_news = self.known.get(&task.serial).is_some_and(|known| known.has_news);
        let is_over = has_news || self.news != self.news_before_batch;
        self.put_task(task, if is_over { Place::Ready } else { place });
    }

    /// Until one of these sources has a hand free.
    pub fn block(&mut self, task: Task, sources: &[NodeId], now: Moment) {
        self.blocked_until.get_or_insert(now + BLOCKED);
        if let Some(known) = self.known.get_mut(&task.serial) {
            known.sources = sources.to_vec();
        }
        self.put_unless_news(task, Place::Blocked);
    }

    /// It was not judged after all: there is no time or no bandwidth for it now.
    pub fn put_back(&mut self, task: Task) {
        self.put_task(task, Place::Ready);
    }

    /// Until a moment, unless there was news of it.
    pub fn later(&mut self, task: Task, at: Moment) {
        self.put_unless_news(task, Place::Later(at));
    }

    fn put_unless_news(&mut self, task: Task, place: Place) {
        let has_news = self.known.get(&task.serial).is_some_and(|known| known.has_news);
        self.put_task(task, if has_news { Place::Ready } else { place });
    }

    /// Its order is over, well or not: the chunk is judged anew, and has no further order before a
    /// pause.
    pub fn close(&mut self, mut task: Task, now: Moment) {
        let pause = FIRST_PAUSE.saturating_mul(1 << task.attempts.min(16)).min(LONGEST_PAUSE);
        task.attempts = task.attempts.saturating_add(1);
        task.not_before = now + pause;
        self.put_task(task, Place::Ready);
    }

    /// The node has a hand free.
    pub fn unblock(&mut self, node: NodeId, now: Moment) {
        let blocked = self.blocked_by.get(&node).into_iter().flatten();
        let freed: Vec<Serial> = blocked.take(TRIED_A_HAND).map(|(_, serial)| *serial).collect();
        for serial in &freed {
            self.put(*serial, Place::Ready);
        }
        if !freed.is_empty() {
            self.blocked_until = (!self.blocked.is_empty()).then_some(now + BLOCKED);
        }
    }

    /// Something has changed about the nodes: chunks that wait for one are looked at again, and may
    /// have an order at once.
    pub fn retry_waiting(&mut self) {
        self.news += 1;
        self.has_overflowed |= std::mem::take(&mut self.has_passed_over);
        while let Some(&(_, serial)) = self.waiting.first() {
            if let Some(known) = self.known.get_mut(&serial) {
                known.task.not_before = Moment(0);
            }
            self.put(serial, Place::Ready);
        }
    }

    /// There may be chunks in the books that are to be seen to and are not known here.
    pub fn survey_again(&mut self) {
        self.has_overflowed = true;
    }

    /// True, once, when chunks are missing here that should be found again in the books, and there
    /// is room for them.
    pub fn wants_survey(&mut self) -> bool {
        self.has_room() && std::mem::take(&mut self.has_overflowed)
    }

    /// True when what a survey finds can be taken in. Chunks about which nothing can be done now
    /// leave room, since they give way.
    pub fn has_room(&self) -> bool {
        self.known.len() - self.waiting.len() < self.capacity.div_ceil(2)
    }

    /// When to look again, if nothing happens before; the past when there is something to do now.
    pub fn next_look(&self) -> Option<Moment> {
        if !self.ready.is_empty() {
            return Some(Moment(0));
        }
        let later = self.later.first().map(|(at, _)| *at);
        later.into_iter().chain(self.blocked_until).min()
    }

    /// How many chunks are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// True when no chunk is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// True when this chunk is known.
    pub fn contains(&self, serial: Serial) -> bool {
        self.known.contains_key(&serial)
    }

    /// How many chunks are in hand: they are being judged, or have an order.
    pub fn in_hand(&self) -> usize {
        let waiting = self.waiting.len() + self.blocked.len() + self.later_by_urgency.len();
        self.known.len() - self.ready.len() - waiting
    }

    /// How many chunks wait for a node.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many chunks found no room or gave way, so far.
    pub fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Has one chunk give way to one of this urgency: first one about which nothing can be done
    /// now, then the least urgent of those that nobody has in hand, if it is less urgent.
    fn make_room(&mut self, urgency: Urgency) -> bool {
        let given_up = if let Some(&(_, serial)) = self.waiting.last() {
            self.has_passed_over = true;
            serial
        } else {
            let places = [&self.ready, &self.blocked, &self.later_by_urgency];
            let least = places.into_iter().filter_map(BTreeSet::last).max().copied();
            let Some((_, serial)) = least.filter(|(least, _)| urgency < *least) else {
                return false;
            };
            self.has_overflowed = true;
            serial
        };
        self.displaced += 1;
        self.take_out(given_up);
        self.known.remove(&given_up);
        true
    }

    fn unblock_all(&mut self) {
        self.blocked_until = None;
        while let Some(&(_, serial)) = self.blocked.first() {
            self.put(serial, Place::Ready);
        }
    }

    fn put_task(&mut self, task: Task, place: Place) {
        if let Some(known) = self.known.get_mut(&task.serial) {
            known.task = task;
            self.put(task.serial, place);
        }
    }

    /// Moves a chunk to another place. Each chunk stands in the sets of its own place alone.
    fn put(&mut self, serial: Serial, place: Place) {
        self.take_out(serial);
        let Some(known) = self.known.get_mut(&serial) else { return };
        known.place = place;
        let key = (known.urgency, serial);
        match place {
            Place::Ready => drop(self.ready.insert(key)),
            Place::Waiting => drop(self.waiting.insert(key)),
            Place::Blocked => {
                self.blocked.insert(key);
                for source in &known.sources {
                    self.blocked_by.entry(*source).or_default().insert(key);
                }
            }
            Place::Later(at) => {
                self.later.insert((at, serial));
                self.later_by_urgency.insert(key);
            }
            Place::WaitingUntil(at) => {
                self.later.insert((at, serial));
                self.waiting.insert(key);
            }
            Place::InHand => {}
        }
    }

    fn take_out(&mut self, serial: Serial) {
        let Some(known) = self.known.get(&serial) else { return };
        let key = (known.urgency, serial);
        match known.place {
            Place::Ready => drop(self.ready.remove(&key)),
            Place::Waiting => drop(self.waiting.remove(&key)),
            Place::Blocked => {
                self.blocked.remove(&key);
                for source in &known.sources {
                    if let Some(blocked) = self.blocked_by.get_mut(source) {
                        blocked.remove(&key);
                        if blocked.is_empty() {
                            self.blocked_by.remove(source);
                        }
                    }
                }
            }
            Place::Later(at) => {
                self.later.remove(&(at, serial));
                self.later_by_urgency.remove(&key);
            }
            Place::WaitingUntil(at) => {
                self.later.remove(&(at, serial));
                self.waiting.remove(&key);
            }
            Place::InHand => {}
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
