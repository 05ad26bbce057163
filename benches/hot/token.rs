//! Tokens: one is made for each chunk and node, and checked before a byte of it is read.

use criterion::{BatchSize, Criterion};
use p2pdfs::clock::WallTime;
use p2pdfs::ids::{AccountId, ChunkId, HashAlgorithm, KeyId, NodeId, Secret, Serial};
use p2pdfs::token::{Claims, Operation, Token};

pub fn all(criterion: &mut Criterion) {
    let key = Secret::random();
    let claims = Claims {
        key: KeyId(3),
        operation: Operation::Store,
        node: NodeId(2),
        id: ChunkId::of(HashAlgorithm::Blake3, b"a chunk"),
        serial: Serial(1 << 40),
        length: 4 << 20,
        account: AccountId(1),
        wanted: 3,
        reason: 4,
        expires: WallTime(1_800_000_000_000),
    };
    let now = WallTime(claims.expires.0 - 1);
    let token = claims.mint(&key);
    let mut group = criterion.benchmark_group("token");
    group.bench_function("mint", |bencher| bencher.iter(|| claims.mint(&key)));
    group.bench_function("check", |bencher| {
        bencher.iter(|| {
            token.check(NodeId(2), |_| Some(key), |claims| claims.length > 0, now).expect("good")
        });
    });
    // As long as a good one, so that all of it is looked at.
    let mut text = token.as_str().to_string();
    let last = if text.ends_with('A') { "E" } else { "A" };
    text.replace_range(text.len() - 1.., last);
    group.bench_function("refuse", |bencher| {
        bencher.iter_batched(
            || Token::from_text(text.clone()),
            |token| token.check(NodeId(2), |_| Some(key), |_| true, now).expect_err("changed"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}
