//! Placement: nodes for each chunk of a request.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use p2pdfs::ids::NodeId;
use p2pdfs::policy::liveness::State;
use p2pdfs::policy::pace::Hands;
use p2pdfs::policy::placement::{Candidate, Placement, Placer, Wish};

/// Chunks in one request.
const CHUNKS: u64 = 256;

fn candidate(number: u32) -> Candidate {
    Candidate {
        node: NodeId(number),
        zone: number % 5,
        state: State::Alive,
        silent: Some(Duration::from_secs(1)),
        is_slow: false,
        has_failed: false,
        is_leaving: false,
        offered_bytes: 1 << 40,
        used_bytes: u64::from(number) << 28,
        reserved_bytes: 0,
        free_bytes: (1 << 40) - (u64::from(number) << 28),
        condemned_bytes: 0,
        hands: Hands::new(0, 0, 0),
    }
}

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement");
    group.throughput(Throughput::Elements(CHUNKS));
    for nodes in [3, 50, 1000] {
        let candidates: Vec<Candidate> = (1..=nodes).map(candidate).collect();
        let benchmark = BenchmarkId::new("256 chunks, 2 copies", format!("{nodes} nodes"));
        group.bench_function(benchmark, |bencher| {
            bencher.iter_batched(
                || candidates.clone(),
                |candidates| {
                    let mut placer = Placer::new(Placement::Balanced, candidates, 7, 0);
                    let wish = Wish { length: 4 << 20, copies: 2, holders: &[], apart_from: &[] };
                    (0..CHUNKS).map(|_| placer.place(&wish).len()).sum::<usize>()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
