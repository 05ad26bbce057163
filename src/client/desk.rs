//! Exchanges that are shared: small requests which several threads have for one server at the same
//! time travel in one message.
//!
//! Whatever waits while exchanges are under way goes into the next, so a thread that is alone waits
//! for nobody, and no one waits on a timer. There is no thread for it: whoever finds a free place
//! leads an exchange, and at its end hands the place to the first of those that wait.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::wire::MAX_ITEMS;

/// One desk for each `K`; what is asked of different ones never shares an exchange.
pub(super) struct Desks<K, Q, A, E> {
    lines: Mutex<HashMap<K, Line<Q, A, E>>>,
    /// Exchanges at the same time, at each desk.
    exchanges: usize,
    /// What the items of one exchange weigh at most, unless a single asker has more.
    max_weight: usize,
}

/// Those at one desk.
struct Line<Q, A, E> {
    under_way: usize,
    waiting: VecDeque<Asker<Q, A, E>>,
}

/// A thread that waits.
struct Asker<Q, A, E> {
    items: Vec<Q>,
    weight: usize,
    turn: Sender<Turn<Q, A, E>>,
}

enum Turn<Q, A, E> {
    /// Another thread has asked.
    Answered(Result<A, Arc<E>>),
    /// A place is free: this thread asks its own items and those of others, in this order.
    Lead(Vec<Q>, Vec<Asker<Q, A, E>>),
}

/// Its drop gives the place away, whatever happened meanwhile.
struct Place<'a, K: Eq + Hash + Clone, Q, A, E> {
    desks: &'a Desks<K, Q, A, E>,
    key: K,
}

impl<K: Eq + Hash + Clone, Q, A, E> Desks<K, Q, A, E> {
    pub fn new(exchanges: usize, max_weight: usize) -> Self {
        Desks { lines: Mutex::default(), exchanges, max_weight }
    }

    /// Has `items` asked, which together weigh `weight`, alone or with those of others. `exchange`
    /// gets all items, and returns for each asker, of whom it is told how many items each has, its
    /// part of the answer.
    ///
    /// `None` where the thread that asked for this one failed to: nothing is known of the items then.
    pub fn ask(
        &self,
        key: &K,
        items: Vec<Q>,
        weight: usize,
        exchange: impl FnOnce(Vec<Q>, &[usize]) -> Result<Vec<A>, E>,
    ) -> Option<Result<A, Arc<E>>> {
        let (items, others) = match self.line_up(key, items, weight) {
            Ok(items) => (items, Vec::new()),
            Err(turn) => match turn.recv() {
                Ok(Turn::Lead(items, others)) => (items, others),
                Ok(Turn::Answered(answer)) => return Some(answer),
                Err(_) => return None,
            },
        };
        let place = Place { desks: self, key: key.clone() };
        let mut counts = vec![items.len()];
        let mut all = items;
        let mut turns = Vec::with_capacity(others.len());
        for other in others {
            counts.push(other.items.len());
            all.extend(other.items);
            turns.push(other.turn);
        }
        let answers = exchange(all, &counts);
        // The next one begins before these are read.
        drop(place);
        hand_out(answers, turns)
    }

    /// The items, if there is a free place; otherwise where to wait for a turn.
    fn line_up(
        &self,
        key: &K,
        items: Vec<Q>,
        weight: usize,
    ) -> Result<Vec<Q>, Receiver<Turn<Q, A, E>>> {
        let mut lines = self.lines();
        let line = lines
            .entry(key.clone())
            .or_insert_with(|| Line { under_way: 0, waiting: VecDeque::new() });
        if line.under_way < self.exchanges {
            line.under_way += 1;
            return Ok(items);
        }
        let (turn, waiting) = bounded(1);
        line.waiting.push_back(Asker { items, weight, turn });
        Err(waiting)
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<K, Line<Q, A, E>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, Q, A, E> Drop for Place<'_, K, Q, A, E> {
    fn drop(&mut self) {
        let mut lines = self.desks.lines();
        let Some(line) = lines.get_mut(&self.key) else { return };
        let Some(first) = line.waiting.pop_front() else {
            line.under_way -= 1;
            if line.under_way == 0 {
                lines.remove(&self.key);
            }
            return;
        };
        let (mut count, mut weight) = (first.items.len(), first.weight);
        let mut others = Vec::new();
        while let Some(next) = line.waiting.front() {
            count += next.items.len();
            weight += next.weight;
            if count > MAX_ITEMS || weight > self.desks.max_weight {
                break;
            }
            others.extend(line.waiting.pop_front());
        }
        drop(lines);
        // It waits for nothing else, so it takes the turn.
        let _ = first.turn.send(Turn::Lead(first.items, others));
    }
}

/// Gives each of the others its part, and returns the leader's.
fn hand_out<Q, A, E>(
    answers: Result<Vec<A>, E>,
    turns: Vec<Sender<Turn<Q, A, E>>>,
) -> Option<Result<A, Arc<E>>> {
    // Whoever waits does so until it is told, so each send succeeds.
    match answers {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            let own = answers.next();
            for (turn, answer) in turns.into_iter().zip(answers) {
                let _ = turn.send(Turn::Answered(Ok(answer)));
            }
            own.map(Ok)
        }
        Err(error) => {
            let error = Arc::new(error);
            for turn in turns {
                let _ = turn.send(Turn::Answered(Err(error.clone())));
            }
            Some(Err(error))
        }
    }
}

/// Cuts a list into the parts of the askers, of whom the last may get less or nothing.
pub(super) fn parts<T>(all: Vec<T>, counts: &[usize]) -> Vec<Vec<T>> {
    let mut rest = all.into_iter();
    counts.iter().map(|&count| rest.by_ref().take(count).collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    type Numbers = Desks<(), u32, Vec<u32>, String>;

    /// Asks for each number's double.
    fn double(desks: &Numbers, items: Vec<u32>) -> Option<Result<Vec<u32>, Arc<String>>> {
        let weight = items.len();
        desks.ask(&(), items, weight, |all, counts| {
            Ok(parts(all.into_iter().map(|n| n * 2).collect(), counts))
        })
    }

    fn wait_for_askers(desks: &Numbers, count: usize) {
        while desks.lines().get(&()).map_or(0, |line| line.waiting.len()) < count {
            thread::yield_now();
        }
    }

    /// Keeps all places taken while `meanwhile` runs.
    fn while_taken(desks: &Numbers, meanwhile: impl FnOnce()) {
        let take = |_: usize| {
            assert!(desks.line_up(&(), vec![0], 1).is_ok());
            Place { desks, key: () }
        };
        let places: Vec<_> = (0..desks.exchanges).map(take).collect();
        meanwhile();
        // The first that is free takes all who wait, as far as they fit together.
        places.into_iter().for_each(drop);
    }

    #[test]
    fn those_who_wait_share_the_next_exchange_and_each_gets_its_own_answers() {
        let desks = Numbers::new(2, 100);
        thread::scope(|scope| {
            let mut askers = Vec::new();
            while_taken(&desks, || {
                for n in 0..10 {
                    let items: Vec<u32> = (n..n + 1 + n % 3).collect();
                    let desks = &desks;
                    let asker = scope.spawn(move || {
                        desks.ask(&(), items, 1, |all, counts| {
                            let answers = all.iter().map(|n| n * 2).collect();
                            // Who leads also tells how many asked.
                            let mut answers = parts(answers, counts);
                            answers.iter_mut().for_each(|own| own.push(counts.len() as u32));
                            Ok(answers)
                        })
                    });
                    askers.push((n, asker));
                    wait_for_askers(desks, askers.len());
                }
            });
            for (n, asker) in askers {
                let mut wanted: Vec<u32> = (n..n + 1 + n % 3).map(|n| n * 2).collect();
                wanted.push(10);
                assert_eq!(asker.join().expect("it ended"), Some(Ok(wanted)));
            }
        });
        assert!(desks.lines().is_empty(), "nobody is left at a desk");
    }

    #[test]
    fn an_exchange_takes_no_more_than_its_weight_unless_one_asker_has_it() {
        let desks = Numbers::new(2, 4);
        let seen = Mutex::new(Vec::new());
        thread::scope(|scope| {
            while_taken(&desks, || {
                for (number, weight) in [9, 1, 2, 2, 1].into_iter().enumerate() {
                    let (desks, seen) = (&desks, &seen);
                    scope.spawn(move || {
                        desks.ask(&(), vec![number as u32], weight, |all, counts| {
                            seen.lock().expect("no thread panics").push(all.clone());
                            Ok(parts(all, counts))
                        })
                    });
                    wait_for_askers(desks, number + 1);
                }
            });
        });
        let mut seen = seen.into_inner().expect("no thread panics");
        seen.sort();
        assert_eq!(seen, [vec![0], vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn an_error_is_told_to_all_who_shared_the_exchange_and_a_panic_leaves_nobody_waiting() {
        let desks = Numbers::new(2, 100);
        thread::scope(|scope| {
            let mut askers = Vec::new();
            while_taken(&desks, || {
                for n in 0..3 {
                    let desks = &desks;
                    let fails = |_: Vec<u32>, _: &[usize]| Err("no".to_string());
                    askers.push(scope.spawn(move || desks.ask(&(), vec![n], 1, fails)));
                    wait_for_askers(desks, askers.len());
                }
            });
            for asker in askers {
                let answer = asker.join().expect("it ended");
                assert_eq!(answer, Some(Err(Arc::new("no".to_string()))));
            }

            let mut askers = Vec::new();
            while_taken(&desks, || {
                for n in 0..3 {
                    let desks = &desks;
                    let panics = |_: Vec<u32>, _: &[usize]| panic!("the exchange");
                    askers.push(scope.spawn(move || desks.ask(&(), vec![n], 1, panics)));
                    wait_for_askers(desks, askers.len());
                }
            });
            let mut ends = askers.into_iter().map(thread::ScopedJoinHandle::join);
            ends.next().expect("it led").expect_err("it panicked");
            assert!(ends.all(|end| end.expect("it only waited").is_none()));
        });
        assert_eq!(double(&desks, vec![1, 2]), Some(Ok(vec![2, 4])));
    }
}
