//! What goes through all chunks, each pass alone, as the main server's threads do it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use p2pdfs::catalog::{Catalog, SqliteCatalog};
use p2pdfs::clock::Clock;
use p2pdfs::ids::{NodeId, Serial};
use p2pdfs::policy::inventory::digest;

use crate::process::Usage;
use crate::{Outcome, Place};

/// As many chunks as the survey and the collector look at together.
const PAGE: usize = 1024;
/// As many as an inventory looks at together.
const INVENTORY_PAGE: usize = 8192;
/// A piece of the journal.
const PIECE_BYTES: usize = 1 << 20;

/// Measures each pass.
pub fn passes(dir: &Path) -> Outcome<()> {
    let place = Place(dir.to_path_buf());
    let catalog = SqliteCatalog::open(&place.main())?;
    timed("survey", || survey(&catalog))?;
    timed("collect", || collect(&catalog))?;
    timed("inventory of one node", || inventory(&catalog))?;
    timed("files", || files(&catalog))?;
    let waits = timed("snapshot, with commits beside it", || snapshot(&catalog))?;
    println!("{waits}");
    Ok(())
}

/// Says how long it took, and what CPU time and memory, and how many it went through.
fn timed<T>(name: &str, pass: impl FnOnce() -> Outcome<(u64, T)>) -> Outcome<T> {
    let (begun, before) = (Instant::now(), Usage::own()?.cpu);
    let (count, result) = pass()?;
    let took = begun.elapsed().as_secs_f64();
    let usage = Usage::own()?;
    let cpu = (usage.cpu - before).as_secs_f64();
    println!("{name:34}{count:>12} in {took:6.2} s, cpu {cpu:6.2} s, peak {} KiB", usage.peak_kib);
    Ok(result)
}

fn survey(catalog: &SqliteCatalog) -> Outcome<(u64, ())> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = catalog.survey(after, PAGE)?;
        count += page.len() as u64;
        match page.last() {
            Some(last) => after = Some(last.record.serial),
            None => return Ok((count, ())),
        }
    }
}

fn collect(catalog: &SqliteCatalog) -> Outcome<(u64, ())> {
    let (mut after, mut pages) = (None, 0);
    loop {
        pages += 1;
        match catalog.collect(after, Clock::system().wall(), PAGE)?.next {
            Some(next) => after = Some(next),
            None => return Ok((pages * PAGE as u64, ())),
        }
    }
}

fn inventory(catalog: &SqliteCatalog) -> Outcome<(u64, ())> {
    let (mut from, mut count) = (Serial(0), 0);
    loop {
        let page = catalog.copies_on(NodeId(1), from, Serial(u64::MAX), INVENTORY_PAGE)?;
        std::hint::black_box(digest(page.iter().map(|h| (h.serial, h.length, h.fingerprint))));
        count += page.len() as u64;
        match page.last() {
            Some(last) if page.len() == INVENTORY_PAGE => from = Serial(last.serial.0 + 1),
            _ => return Ok((count, ())),
        }
    }
}

fn files(catalog: &SqliteCatalog) -> Outcome<(u64, ())> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = catalog.seen_files(after, 512)?;
        for file in &page {
            std::hint::black_box(catalog.serials_of(file.version, 0, 4096)?);
        }
        count += page.len() as u64;
        match page.last() {
            Some(last) => after = Some(last.position),
            None => return Ok((count, ())),
        }
    }
}

/// Reads a snapshot to its end, for at most half of the time, as the journal's thread does; another
/// thread commits meanwhile. Says how long its commits took.
fn snapshot(catalog: &SqliteCatalog) -> Outcome<(u64, String)> {
    catalog.begin_changes()?;
    let alone = commit_until(catalog, &AtomicBool::new(false), 200)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let beside =
            scope.spawn(|| commit_until(catalog, &is_over, u64::MAX).map_err(|e| e.to_string()));
        let written = write_snapshot(catalog);
        is_over.store(true, Ordering::Relaxed);
        let beside = beside.join().map_err(|_| "the thread that commits panicked")??;
        Ok((written?, format!("a commit takes: alone {alone}; beside the snapshot {beside}")))
    })
}

fn write_snapshot(catalog: &SqliteCatalog) -> Outcome<u64> {
    let mut snapshot = catalog.boundary()?.into_snapshot();
    let mut bytes = 0;
    let (_never, rest) = crossbeam_channel::bounded::<()>(0);
    loop {
        let begun = Instant::now();
        let Some(body) = snapshot.next(PIECE_BYTES)? else { return Ok(bytes) };
        bytes += body.len() as u64;
        // Nobody ever sends: a rest as long as the work.
        let _ = rest.recv_timeout(begun.elapsed());
    }
}

/// Commits as fast as it can; the median, the 99th percentile and the longest that one took.
fn commit_until(catalog: &SqliteCatalog, is_over: &AtomicBool, most: u64) -> Outcome<String> {
    let mut waits = Vec::new();
    while !is_over.load(Ordering::Relaxed) && (waits.len() as u64) < most {
        let begun = Instant::now();
        let expires = Clock::system().wall() + Duration::from_secs(1);
        catalog.create_invite(p2pdfs::ids::Secret::random().as_bytes(), 1, expires)?;
        waits.push(begun.elapsed());
    }
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    Ok(format!("p50 {:.2?}, p99 {:.2?}, max {:.2?} of {}", at(0.5), at(0.99), at(1.0), waits.len()))
}
