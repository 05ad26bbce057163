//! The workloads on SeaweedFS, as `p2pdfs bench` has them on p2pdfs: the same contents, threads and
//! clocks. Only what stands between `watch` and its end is measured.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use p2pdfs::cli::bench::content::{Comparison, Content, Look};
use p2pdfs::cli::bench::interrupt::Interrupt;
use p2pdfs::cli::bench::measure::{Run, in_threads};
use p2pdfs::cli::bench::usage::{Process, Usage, Watch};
use p2pdfs::cli::bench::workloads::{COMPARERS, Compared, Sizes, WARM_UP, Workload};
use p2pdfs::cli::bench::{machine, tree};
use p2pdfs::cli::exit::{Exit, Failure};
use p2pdfs::cli::output::shown;

use crate::http::Body;
use crate::native::{Native, Place};
use crate::upload;
use crate::way::Way;
use crate::weed::{SeaweedFs, refused};

/// Files of the tree on their way at the same time, and those that are assigned together.
const TREE_THREADS: usize = 16;
const ASSIGNED: u64 = 32;

/// One way of one workload.
pub struct Figures {
    pub way: Way,
    pub run: Run,
    pub usage: Usage,
}

/// One round of workloads.
pub struct Round<'a> {
    pub cluster: &'a SeaweedFs,
    pub interrupt: &'a Interrupt,
    /// A directory for sources.
    pub sources: &'a Path,
    pub sizes: &'a Sizes,
    pub processes: &'a [Process],
    pub content: Content,
    pub compared: Compared,
    pub has_large: bool,
    /// Where the files of the tree are.
    pub tree: Vec<Place>,
}

impl Round<'_> {
    /// Measures a workload in each way that there is.
    pub fn measure(&mut self, workload: Workload) -> Result<Vec<Figures>, Failure> {
        self.interrupt.check()?;
        let ways = Way::all_of(workload);
        match workload {
            Workload::PutLarge => self.put_large(ways),
            Workload::GetLarge => self.get_large(),
            Workload::PutTree => self.put_tree(ways),
            Workload::PutSmall1 | Workload::PutSmall16 => {
                ways.iter().map(|way| self.put_small(workload, *way)).collect()
            }
            Workload::GetSmall1 | Workload::GetSmall16 => self.get_small(workload),
        }
    }

    fn watch(
        &self,
        way: Way,
        work: impl FnOnce() -> Result<Run, Failure>,
    ) -> Result<Figures, Failure> {
        // What the way before left to be written is not charged to this one.
        machine::settle(self.sources)?;
        let watch = Watch::begin(self.processes)?;
        let run = work()?;
        let usage = watch.end()?;
        self.interrupt.check()?;
        Ok(Figures { way, run, usage })
    }

    fn large_content(&self) -> Content {
        self.content.derived(1)
    }

    fn tree_content(&self) -> Content {
        self.content.derived(2)
    }

    fn put_large(&mut self, ways: &[Way]) -> Result<Vec<Figures>, Failure> {
        let source = self.write_source()?;
        let mut figures = Vec::new();
        for way in ways {
            figures.push(match way {
                Way::Upload => self.upload(&source)?,
                way => {
                    let measured = self.watch(*way, || self.filer_put(*way, &source))?;
                    self.filer_get(&filer_path(*way), Look::AtAll)?;
                    self.cluster.check_copies_of(&filer_path(*way))?;
                    measured
                }
            });
        }
        fs::remove_file(&source).map_err(|error| not_removed(&source, &error))?;
        self.has_large = true;
        Ok(figures)
    }

    fn write_source(&self) -> Result<PathBuf, Failure> {
        let path = self.sources.join("large");
        let size = self.sizes.size_bytes;
        let written =
            File::create(&path).and_then(|mut file| self.large_content().write_to(size, &mut file));
        let what = format!("cannot write the source file {}", shown(&path));
        written.map(|()| path).map_err(|error| Failure::because(Exit::Failed, what, &error))
    }

    fn filer_put(&self, way: Way, source: &Path) -> Result<Run, Failure> {
        let file = File::open(source);
        let file =
            file.map_err(|e| Failure::because(Exit::Failed, "cannot read the source", &e))?;
        let mut filer = self.cluster.http(&self.cluster.filer)?;
        let query = if way.is_synced() { "?fsync=true" } else { "" };
        let begun = Instant::now();
        let body = Body::File(&file, self.sizes.size_bytes);
        let put = filer.put(&format!("{}{query}", filer_path(way)), &body);
        let run = Run::bulk(1, self.sizes.size_bytes, begun);
        put.map_err(|error| refused(&error))?;
        Ok(run)
    }

    fn filer_get(&self, path: &str, look: Look) -> Result<Run, Failure> {
        let mut filer = self.cluster.http(&self.cluster.filer)?;
        let mut comparison = Comparison::new(self.large_content(), look);
        let begun = Instant::now();
        let got = filer.get(path, &mut comparison);
        let run = Run::bulk(1, comparison.bytes, begun);
        got.map_err(|error| refused(&error))?;
        self.count(path, &comparison, self.sizes.size_bytes)?;
        Ok(run)
    }

    /// Puts a file with SeaweedFS's own program, and reads it back.
    fn upload(&self, source: &Path) -> Result<Figures, Failure> {
        let mut place = None;
        let mut child_seconds = 0.0;
        let mut figures = self.watch(Way::Upload, || {
            let before = upload::children_cpu_seconds();
            let begun = Instant::now();
            place = Some(upload::upload(self.cluster, source, self.interrupt)?);
            let run = Run::bulk(1, self.sizes.size_bytes, begun);
            child_seconds = upload::children_cpu_seconds() - before;
            Ok(run)
        })?;
        upload::charge_client(&mut figures.usage, child_seconds, figures.run.seconds);
        let place = place.expect("it was measured without a failure");
        let mut comparison = Comparison::new(self.large_content(), Look::AtAll);
        Native::new(self.cluster, false)?.get(&place, &mut comparison)?;
        self.count(&place.fid, &comparison, self.sizes.size_bytes)?;
        self.cluster.check_copies(place.volume())?;
        Ok(figures)
    }

    fn get_large(&mut self) -> Result<Vec<Figures>, Failure> {
        let way = Way::Filer;
        let path = filer_path(way);
        if !self.has_large {
            let source = self.write_source()?;
            self.filer_put(way, &source)?;
            fs::remove_file(&source).map_err(|error| not_removed(&source, &error))?;
            self.filer_get(&path, Look::AtAll)?;
            self.has_large = true;
        }
        self.watch(way, || self.filer_get(&path, Look::AtEnds)).map(|figures| vec![figures])
    }

    fn put_tree(&mut self, ways: &[Way]) -> Result<Vec<Figures>, Failure> {
        let source = self.sources.join("tree");
        tree::write(&source, self.tree_content(), self.sizes.files, self.interrupt)?;
        let mut all = Vec::new();
        for way in ways {
            let mut places = Vec::new();
            let figures = self.watch(*way, || {
                let begun = Instant::now();
                places = self.store_tree(&source, way.is_synced())?;
                let bytes = self.sizes.files * tree::FILE_BYTES as u64;
                Ok(Run::bulk(self.sizes.files, bytes, begun))
            })?;
            self.compare(&places, self.tree_content())?;
            self.tree = places;
            all.push(figures);
        }
        fs::remove_dir_all(&source).map_err(|error| not_removed(&source, &error))?;
        Ok(all)
    }

    /// Reads the files of a tree and puts them; returns where they are, in their order.
    fn store_tree(&self, source: &Path, is_synced: bool) -> Result<Vec<Place>, Failure> {
        let next = AtomicU64::new(0);
        let files = self.sizes.files;
        let work = |mut native: Native<'_>| -> Result<Vec<(u64, Place)>, Failure> {
            let mut places = Vec::new();
            loop {
                self.interrupt.check()?;
                let first = next.fetch_add(ASSIGNED, Ordering::Relaxed);
                if first >= files {
                    return Ok(places);
                }
                let count = ASSIGNED.min(files - first);
                let several = native.assign(count)?;
                for number in 0..count {
                    let (directory, name) = tree::name(first + number);
                    let bytes = fs::read(source.join(directory).join(name));
                    let bytes = bytes.map_err(|error| not_read(source, &error))?;
                    let place = several.of_several(number);
                    native.put(&place, &bytes)?;
                    places.push((first + number, place));
                }
            }
        };
        let threads = (0..TREE_THREADS).map(|_| Native::new(self.cluster, is_synced));
        let mut places: Vec<(u64, Place)> =
            in_threads(threads.collect::<Result<_, _>>()?, work)?.into_iter().flatten().collect();
        places.sort_unstable_by_key(|(number, _)| *number);
        Ok(places.into_iter().map(|(_, place)| place).collect())
    }

    fn put_small(&self, workload: Workload, way: Way) -> Result<Figures, Failure> {
        let content = self.content.derived(100 + workload.at_once() as u64 + way as u64 * 1000);
        let places = Mutex::new(Vec::new());
        let put = |native: &mut Native<'_>, content: Content, number: u64| {
            let bytes = content.derived(number).bytes(tree::FILE_BYTES);
            let begun = Instant::now();
            let place = native.assign(1)?;
            native.put(&place, &bytes)?;
            Ok((begun.elapsed(), place))
        };
        let prepare = || Native::new(self.cluster, way.is_synced());
        let warm = content.derived(u64::MAX);
        self.sizes.repeated(workload, WARM_UP).run(self.interrupt, prepare, |native, number| {
            put(native, warm, number).map(|(took, _)| took)
        })?;
        let figures = self.watch(way, || {
            let repeated = self.sizes.repeated(workload, 1);
            repeated.run(self.interrupt, prepare, |native, number| {
                let (took, place) = put(native, content, number)?;
                places.lock().unwrap_or_else(PoisonError::into_inner).push((number, place));
                Ok(took)
            })
        })?;
        let mut places = places.into_inner().unwrap_or_else(PoisonError::into_inner);
        places.sort_unstable_by_key(|(number, _)| *number);
        let places: Vec<Place> = places.into_iter().map(|(_, place)| place).collect();
        self.compare(&places, content)?;
        Ok(figures)
    }

    fn get_small(&mut self, workload: Workload) -> Result<Vec<Figures>, Failure> {
        if self.tree.is_empty() {
            self.put_tree(&[Way::Native])?;
        }
        let content = self.tree_content();
        let prepare = || Native::new(self.cluster, false);
        let get = |native: &mut Native<'_>, number: u64| {
            // As p2pdfs's are got: all over the tree.
            let number = number.wrapping_mul(7919) % self.sizes.files;
            let place = &self.tree[number as usize];
            let mut bytes = Vec::with_capacity(tree::FILE_BYTES);
            let begun = Instant::now();
            native.get(place, &mut bytes)?;
            let took = begun.elapsed();
            self.compare_one(place, &bytes, content.derived(number))?;
            Ok(took)
        };
        self.sizes.repeated(workload, WARM_UP).run(self.interrupt, prepare, get)?;
        let figures = self.watch(Way::Native, || {
            self.sizes.repeated(workload, 1).run(self.interrupt, prepare, get)
        })?;
        Ok(vec![figures])
    }

    /// Reads files back, whose contents are derived by their numbers.
    fn compare(&self, places: &[Place], content: Content) -> Result<(), Failure> {
        let next = AtomicU64::new(0);
        let work = |mut native: Native<'_>| {
            loop {
                self.interrupt.check()?;
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(place) = places.get(number as usize) else { return Ok(()) };
                let mut bytes = Vec::with_capacity(tree::FILE_BYTES);
                native.get(place, &mut bytes)?;
                self.compare_one(place, &bytes, content.derived(number))?;
            }
        };
        let threads = (0..COMPARERS).map(|_| Native::new(self.cluster, false));
        in_threads(threads.collect::<Result<_, _>>()?, work)?;
        let volumes: BTreeSet<&str> = places.iter().map(Place::volume).collect();
        volumes.into_iter().try_for_each(|volume| self.cluster.check_copies(volume))
    }

    fn compare_one(&self, place: &Place, bytes: &[u8], content: Content) -> Result<(), Failure> {
        let mut comparison = Comparison::new(content, Look::AtAll);
        comparison.take(bytes);
        self.count(&place.fid, &comparison, tree::FILE_BYTES as u64)
    }

    fn count(&self, name: &str, comparison: &Comparison, bytes: u64) -> Result<(), Failure> {
        let counted = self.compared.count(&format!("SeaweedFS's {name}"), comparison, bytes);
        counted.map_err(|failure| Failure { hint: None, ..failure })
    }
}

fn filer_path(way: Way) -> String {
    let of = if way.is_synced() { "synced" } else { "plain" };
    format!("/bench/large-{of}")
}

fn not_removed(path: &Path, error: &io::Error) -> Failure {
    Failure::because(Exit::Failed, format!("cannot remove {}", shown(path)), error)
}

fn not_read(path: &Path, error: &io::Error) -> Failure {
    Failure::because(Exit::Failed, format!("cannot read a file of {}", shown(path)), error)
}
