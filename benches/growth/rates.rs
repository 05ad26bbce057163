//! The rates of the catalog's operations when it is full, beside those when it is next to empty: the
//! same operations on both in turn, so that what else the machine does falls on both.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use p2pdfs::catalog::{
    Catalog, Condition, Confirmation, LiveNodes, Manifest, NewFile, SqliteCatalog,
};
use p2pdfs::clock::Clock;
use p2pdfs::ids::{ChunkId, NodeId, RequestId};

use crate::fill::{BATCH, FillArgs, fill};
use crate::plan::{ACCOUNT, CHUNK_BYTES, Plan, Random, directory_of, id_of, path_of};
use crate::process::Usage;
use crate::{Outcome, Place};

#[derive(Debug, Args)]
pub struct RatesArgs {
    /// A cluster that `fill` has made; what is measured adds some files to it
    dir: PathBuf,
    /// How often each catalog is measured
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// How long each operation is repeated
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// What is measured: its name, and what does some of it and says how much.
type Work = (&'static str, fn(&Subject) -> Outcome<u64>);

const WORKS: [Work; 7] = [
    ("put files, one at a time", |subject| subject.put(1, 1)),
    ("put files, 16 at a time", |subject| subject.put(16, 1)),
    ("put files, 1,000 together", |subject| subject.put(1, BATCH)),
    ("open a file", Subject::open),
    ("list 1,000 entries", Subject::list),
    ("locate a chunk", |subject| subject.locate(1)),
    ("locate 1,000 chunks", |subject| subject.locate(BATCH)),
];

/// Measures everything.
pub fn rates(args: &RatesArgs) -> Outcome<()> {
    let (full, small) = (Place(args.dir.clone()), Place(args.dir.join("small")));
    let plan = full.plan()?;
    if !small.0.exists() {
        fill(&FillArgs::small(small.0.clone(), &plan))?;
    }
    let mut subjects = [Subject::open_at(&small)?, Subject::open_at(&full)?];
    println!(
        "{:28}{:>12}{:>12}{:>8}{:>12}{:>12}",
        "a second", "small", "full", "ratio", "small µs", "full µs"
    );
    for (name, work) in WORKS {
        let mut rates = [Vec::new(), Vec::new()];
        let mut costs = [Vec::new(), Vec::new()];
        for _ in 0..args.times {
            for (n, subject) in subjects.iter_mut().enumerate() {
                let (rate, cpu) = measure(work, subject, Duration::from_secs_f64(args.seconds))?;
                rates[n].push(rate);
                costs[n].push(cpu);
            }
        }
        let [small, full] = rates.map(median);
        let [small_cpu, full_cpu] = costs.map(median);
        let ratio = full / small;
        println!("{name:28}{small:>12.0}{full:>12.0}{ratio:>8.2}{small_cpu:>12.1}{full_cpu:>12.1}");
    }
    println!("µs are of this process's CPU time; now {}", Usage::own()?);
    Ok(())
}

/// How many a second, and the microseconds of CPU time that each takes.
fn measure(
    work: fn(&Subject) -> Outcome<u64>,
    subject: &Subject,
    at_least: Duration,
) -> Outcome<(f64, f64)> {
    let (begun, cpu) = (Instant::now(), Usage::own()?.cpu);
    let mut count = 0;
    while begun.elapsed() < at_least {
        count += work(subject)?;
    }
    let (took, cpu) = (begun.elapsed().as_secs_f64(), (Usage::own()?.cpu - cpu).as_secs_f64());
    Ok((count as f64 / took, cpu * 1e6 / count as f64))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A catalog that is measured.
struct Subject {
    plan: Plan,
    catalog: SqliteCatalog,
    live: LiveNodes,
    /// For chunks and names that nobody has used.
    next: AtomicU64,
}

impl Subject {
    fn open_at(place: &Place) -> Outcome<Subject> {
        let plan = place.plan()?;
        // Beyond all chunks of the plan, and those of earlier runs.
        let next = AtomicU64::new(Clock::system().wall().0 << 20);
        let live = (1..=plan.nodes).map(NodeId).collect();
        Ok(Subject { plan, catalog: SqliteCatalog::open(&place.main())?, live, next })
    }

    /// So many threads put files of one chunk of their own, so many together.
    fn put(&self, threads: usize, together: usize) -> Outcome<u64> {
        let rounds = 100_usize.div_ceil(threads * together);
        thread::scope(|scope| {
            let put = || {
                (0..rounds).try_for_each(|_| self.put_files(together)).map_err(|e| e.to_string())
            };
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(put)).collect();
            put()?;
            for other in others {
                other.join().map_err(|_| "a thread panicked")??;
            }
            Ok((threads * rounds * together) as u64)
        })
    }

    fn put_files(&self, together: usize) -> Outcome<()> {
        let first = self.next.fetch_add(together as u64, Ordering::Relaxed);
        let ids: Vec<ChunkId> = (first..first + together as u64).map(id_of).collect();
        let now = Clock::system().wall();
        let lease = now + Duration::from_secs(24 * 3600);
        let length = CHUNK_BYTES as u32;
        let asked: Vec<(ChunkId, u32)> = ids.iter().map(|id| (*id, length)).collect();
        let wanted = self.plan.copies;
        let reserved = self.catalog.reserve(ACCOUNT, wanted, lease, &asked)?;
        for node in self.plan.holders(first) {
            let said = reserved.iter().flatten().map(|record| Confirmation {
                account: ACCOUNT,
                id: record.id,
                serial: record.serial,
                length,
                wanted,
                node,
                reason: 1,
            });
            let said: Vec<Confirmation> = said.collect();
            self.catalog
                .confirm_copies(&said, lease)?
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
        }
        let file = |(n, id): (usize, &ChunkId)| NewFile {
            path: format!("/put/{first}-{n}").parse().expect("a path"),
            manifest: Manifest::Inline(vec![*id]),
            copies: wanted,
            mtime_ms: 0,
            executable: false,
            condition: Condition::Any,
            parents: true,
        };
        let files: Vec<NewFile> = ids.iter().enumerate().map(file).collect();
        let request = RequestId::random();
        let done = self.catalog.commit_files(ACCOUNT, request, now, &self.live, &files)?;
        done.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    }

    fn random(&self) -> Random {
        Random(self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn open(&self) -> Outcome<u64> {
        let mut random = self.random();
        for _ in 0..100 {
            let path = path_of(random.below(self.plan.files()));
            let entry = self.catalog.look_up(ACCOUNT, &path)?;
            let p2pdfs::catalog::EntryKind::File(info) = entry.kind else {
                return Err(format!("{path} is no file").into());
            };
            self.catalog.manifest(ACCOUNT, info.version, 0, BATCH)?;
        }
        Ok(100)
    }

    fn list(&self) -> Outcome<u64> {
        let directory = directory_of(self.random().below(self.plan.groups));
        Ok(self.catalog.list(ACCOUNT, &directory, None, BATCH)?.len() as u64)
    }

    fn locate(&self, together: usize) -> Outcome<u64> {
        let mut random = self.random();
        for _ in 0..100_usize.div_ceil(together) {
            let ids = (0..together).map(|_| id_of(random.below(self.plan.chunks())));
            let ids: Vec<ChunkId> = ids.collect();
            let found = self.catalog.locate(ACCOUNT, &ids)?;
            if found.iter().any(Option::is_none) {
                return Err("a chunk of the plan is not in the catalog".into());
            }
        }
        Ok((100_usize.div_ceil(together) * together) as u64)
    }
}
