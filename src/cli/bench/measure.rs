//! How long work took: runs of single operations by some threads for a bounded time, and their
//! latencies.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::interrupt::Interrupt;
use crate::cli::exit::{Exit, Failure};

/// What was done in which time.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub operations: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// Of single operations; a bulk transfer has none.
    pub latency: Option<Latency>,
}

impl Run {
    /// A transfer as one whole, begun then and over now.
    pub fn bulk(operations: u64, bytes: u64, begun: Instant) -> Run {
        Run { operations, bytes, seconds: begun.elapsed().as_secs_f64(), latency: None }
    }
}

/// How long single operations took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Latency {
    fn of(mut nanoseconds: Vec<u64>) -> Option<Latency> {
        nanoseconds.sort_unstable();
        let last = nanoseconds.len().checked_sub(1)?;
        // The nearest rank: the smallest time that so many percent of all did not exceed.
        let rank = |percent: usize| nanoseconds[(nanoseconds.len() * percent).div_ceil(100) - 1];
        let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
        Some(Latency { p50_us: us(rank(50)), p99_us: us(rank(99)), max_us: us(nanoseconds[last]) })
    }
}

/// Single operations of some size, made by `threads` threads, each one after the other, for `time`.
pub struct Repeated {
    pub threads: usize,
    pub time: Duration,
    pub bytes_each: u64,
}

impl Repeated {
    /// Runs them. `prepare` makes a thread's own state; `operation` gets it with the number of the
    /// operation, counted from 0 over all threads without a gap, and returns how long it took:
    /// what it does beside, such as to make and to compare content, it leaves out.
    pub fn run<S: Send>(
        &self,
        interrupt: &Interrupt,
        prepare: impl Fn() -> Result<S, Failure> + Sync,
        operation: impl Fn(&mut S, u64) -> Result<Duration, Failure> + Sync,
    ) -> Result<Run, Failure> {
        let numbers = AtomicU64::new(0);
        let mut states = Vec::new();
        for _ in 0..self.threads {
            states.push(prepare()?);
        }
        let begun = Instant::now();
        let one = |mut state: S| -> Result<Vec<u64>, Failure> {
            let mut took = Vec::new();
            while begun.elapsed() < self.time {
                interrupt.check()?;
                let time = operation(&mut state, numbers.fetch_add(1, Ordering::Relaxed))?;
                took.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
            Ok(took)
        };
        let all = in_threads(states, one)?;
        let seconds = begun.elapsed().as_secs_f64();
        let took: Vec<u64> = all.into_iter().flatten().collect();
        let operations = took.len() as u64;
        let bytes = operations * self.bytes_each;
        Ok(Run { operations, bytes, seconds, latency: Latency::of(took) })
    }
}

/// Lets a thread work on each of `states`; the first failure is that of all.
pub fn in_threads<S: Send, T: Send>(
    states: Vec<S>,
    work: impl Fn(S) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let work = &work;
    let results = thread::scope(|scope| {
        let threads: Vec<_> =
            states.into_iter().map(|state| scope.spawn(move || work(state))).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let ended = |result: thread::Result<Result<T, Failure>>| {
        let panicked =
            |_| Failure::new(Exit::Failed, "a thread of the bench failed: this is a bug");
        result.map_err(panicked).flatten()
    };
    results.into_iter().map(ended).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latency = Latency::of((1..=200).rev().map(|us| us * 1000).collect());
        assert_eq!(latency, Some(Latency { p50_us: 100.0, p99_us: 198.0, max_us: 200.0 }));
        let one = Latency::of(vec![1_550]);
        assert_eq!(one, Some(Latency { p50_us: 1.6, p99_us: 1.6, max_us: 1.6 }));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn operations_are_numbered_without_a_gap_and_a_failure_ends_all() {
        let repeated = Repeated { threads: 4, time: Duration::from_millis(20), bytes_each: 10 };
        let seen = std::sync::Mutex::new(Vec::new());
        let interrupt = Interrupt::default();
        let run = repeated.run(
            &interrupt,
            || Ok(()),
            |(), number| {
                seen.lock().expect("no panic").push(number);
                Ok(Duration::from_nanos(number))
            },
        );
        let run = run.expect("nothing fails");
        let mut seen = seen.into_inner().expect("no panic");
        seen.sort_unstable();
        assert_eq!(seen, (0..run.operations).collect::<Vec<_>>());
        assert_eq!(run.bytes, run.operations * 10);
        assert!(run.seconds >= 0.02);
        let failing = |(): &mut (), number| match number {
            7 => Err(Failure::new(Exit::Damaged, "it is damaged")),
            _ => Ok(Duration::ZERO),
        };
        let failed = repeated.run(&interrupt, || Ok(()), failing).expect_err("number 7 fails");
        assert_eq!(failed.exit, Exit::Damaged);
    }
}
