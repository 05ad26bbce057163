//! The hot pieces by themselves: what each costs a chunk, a file or a request.
//!
//! `cargo bench` runs all of them, `cargo bench -- token` those with that word in their name; the
//! change since the run before is shown beside each. Directories are made where temporary files are
//! (`TMPDIR=/dev/shm` leaves the disk out).

mod catalog;
mod frame;
mod placement;
mod segments;
mod token;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

criterion_group! {
    name = hot;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    targets = frame::all, token::all, segments::all, placement::all, catalog::all
}
criterion_main!(hot);

/// Bytes of a full chunk, and of a small file.
const LARGE: usize = 4 << 20;
const SMALL: usize = 4 << 10;

/// Bytes that are not all the same.
fn content(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
