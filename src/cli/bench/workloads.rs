//! The workloads, each with the machine's own limit for it measured just before. Only what stands
//! between `watch` and its end is measured; what is stored and read is compared outside of it.

use std::fmt::Display;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use super::content::{Comparison, Content, Look};
use super::interrupt::Interrupt;
use super::machine;
use super::measure::{Repeated, Run, in_threads};
use super::stored::Outcome;
use super::tree;
use super::usage::{Process, Usage, Watch};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, shown};
use crate::client::{Client, LocalKind, PutOptions, Quiet, Source, Upload, walk_local};
use crate::remote_path::RemotePath;

/// Threads that read back what was stored, to compare it.
pub const COMPARERS: usize = 8;
/// Part of the time that single operations run before they are measured: connections are made.
pub const WARM_UP: u32 = 10;

/// What can be measured, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Put one large file (--size) from the page cache
    PutLarge,
    /// Get it, warm, and discard it
    GetLarge,
    /// Put a tree of 4 KiB files (--files)
    PutTree,
    /// Put single files of 4 KiB, one at a time
    #[value(name = "put-small-1")]
    #[serde(rename = "put-small-1")]
    PutSmall1,
    /// The same, 16 at a time
    #[value(name = "put-small-16")]
    #[serde(rename = "put-small-16")]
    PutSmall16,
    /// Get single files of 4 KiB, one at a time
    #[value(name = "get-small-1")]
    #[serde(rename = "get-small-1")]
    GetSmall1,
    /// The same, 16 at a time
    #[value(name = "get-small-16")]
    #[serde(rename = "get-small-16")]
    GetSmall16,
}

impl Workload {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Operations at the same time.
    pub fn at_once(self) -> usize {
        match self {
            Workload::PutSmall16 | Workload::GetSmall16 => 16,
            _ => 1,
        }
    }

    /// True where bytes a second are what counts, and not operations.
    pub fn is_bulk(self) -> bool {
        matches!(self, Workload::PutLarge | Workload::GetLarge)
    }
}

/// How large the workloads are.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    pub size_bytes: u64,
    pub files: u64,
    /// How long single operations run.
    pub seconds: f64,
    pub copies: u8,
}

impl Sizes {
    /// The single operations of a workload, for one part in `part` of their time.
    pub fn repeated(&self, workload: Workload, part: u32) -> Repeated {
        Repeated {
            threads: workload.at_once(),
            time: Duration::from_secs_f64(self.seconds) / part,
            bytes_each: tree::FILE_BYTES as u64,
        }
    }
}

/// One workload of one round.
#[derive(Debug, Clone)]
pub struct Measured {
    pub limit: Run,
    pub run: Run,
    pub usage: Usage,
}

/// One round of workloads: all that they share.
pub struct Round<'a> {
    pub client: &'a Client,
    pub interrupt: &'a Interrupt,
    /// A directory of the store that is this round's alone.
    pub store: RemotePath,
    /// A directory on this machine, for sources.
    pub sources: &'a Path,
    /// A directory on the disk whose limits are measured.
    pub disk: &'a Path,
    pub sizes: &'a Sizes,
    pub processes: &'a [Process],
    /// Fresh in each round, so that nothing of it is stored already.
    pub content: Content,
    /// Files that were read back and found to be what was stored, and the bytes in them.
    pub compared: Compared,
    pub has_large: bool,
    pub has_tree: bool,
}

/// What was compared with its input.
#[derive(Debug, Default)]
pub struct Compared {
    pub files: AtomicU64,
    pub bytes: AtomicU64,
}

impl Compared {
    /// Counts what was read of a file; fails unless it is, in its full length, what was put.
    pub fn count(
        &self,
        path: &impl Display,
        comparison: &Comparison,
        bytes: u64,
    ) -> Result<(), Failure> {
        let wrong = match comparison.first_wrong {
            Some(at) => format!("byte {at} is the first that differs"),
            None if comparison.bytes != bytes => {
                format!("{} bytes came back of {bytes}", comparison.bytes)
            }
            None => {
                self.files.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                return Ok(());
            }
        };
        let what = format!("what was got of {path} is not what was put: {wrong}");
        Err(Failure::new(Exit::Damaged, what)
            .hint("`p2pdfs admin status` shows the state of the cluster"))
    }
}

impl Round<'_> {
    /// Measures a workload and its limit. `said` hears of what is done at the moment.
    pub fn measure(
        &mut self,
        workload: Workload,
        said: &dyn Fn(&str),
    ) -> Result<Measured, Failure> {
        self.interrupt.check()?;
        match workload {
            Workload::PutLarge => self.put_large(said),
            Workload::GetLarge => self.get_large(said),
            Workload::PutTree => self.put_tree(said),
            Workload::PutSmall1 | Workload::PutSmall16 => self.put_small(workload, said),
            Workload::GetSmall1 | Workload::GetSmall16 => self.get_small(workload, said),
        }
    }

    /// Runs what is measured.
    fn watch(&self, work: impl FnOnce() -> Result<Run, Failure>) -> Result<(Run, Usage), Failure> {
        let watch = Watch::begin(self.processes)?;
        let run = work()?;
        let usage = watch.end()?;
        self.interrupt.check()?;
        Ok((run, usage))
    }

    fn options(&self) -> PutOptions {
        PutOptions { copies: self.sizes.copies, ..PutOptions::default() }
    }

    fn in_store(&self, name: &str) -> RemotePath {
        format!("{}/{name}", self.store).parse().expect("the bench's own names are plain")
    }

    fn make_directory(&self, path: &RemotePath) -> Result<(), Failure> {
        let made = self.client.make_directory(path, true);
        made.map_err(|error| failure(&format!("cannot make the directory {path}"), &error))
    }

    fn large_content(&self) -> Content {
        self.content.derived(1)
    }

    fn tree_content(&self) -> Content {
        self.content.derived(2)
    }

    fn put_large(&mut self, said: &dyn Fn(&str)) -> Result<Measured, Failure> {
        said("writing the source file");
        let source = self.write_source()?;
        said("measuring synced writes of the disk");
        let limit = machine::disk_write(self.disk, self.sizes.size_bytes, self.interrupt)?;
        machine::settle(self.disk)?;
        said("measuring");
        let (run, usage) = self.watch(|| self.store_large(&source))?;
        std::fs::remove_file(&source).map_err(|e| not_removed(&source, &e))?;
        said("comparing");
        self.read_large(Look::AtAll)?;
        self.has_large = true;
        Ok(Measured { limit, run, usage })
    }

    /// A local file with the content of this round, on the disk and in the page cache.
    fn write_source(&self) -> Result<PathBuf, Failure> {
        let path = self.sources.join("large");
        let size = self.sizes.size_bytes;
        let written = std::fs::File::create(&path)
            .and_then(|mut file| self.large_content().write_to(size, &mut file));
        written.map_err(|error| {
            let what = format!("cannot write the source file {}", shown(&path));
            Failure::because(Exit::Failed, what, &error).hint("choose another place with --dir")
        })?;
        machine::settle(self.sources)?;
        self.interrupt.check()?;
        Ok(path)
    }

    fn store_large(&self, source: &Path) -> Result<Run, Failure> {
        let (outcome, begun) = (Outcome::default(), Instant::now());
        let upload = Upload { from: Source::Path(source.into()), to: self.in_store("large") };
        let result = self.client.put([upload], &self.options(), &outcome);
        let run = Run::bulk(1, self.sizes.size_bytes, begun);
        outcome.check(result, 1, self.sizes.size_bytes)?;
        Ok(run)
    }

    fn read_large(&self, look: Look) -> Result<Run, Failure> {
        let path = self.in_store("large");
        let mut comparison = Comparison::new(self.large_content(), look);
        let begun = Instant::now();
        let read = self.client.read(&path, None, 0..u64::MAX, &mut comparison, &Quiet);
        let run = Run::bulk(1, comparison.bytes, begun);
        read.map_err(|error| failure(&format!("cannot get {path}"), &error))?;
        self.compared.count(&path, &comparison, self.sizes.size_bytes)?;
        Ok(run)
    }

    fn get_large(&mut self, said: &dyn Fn(&str)) -> Result<Measured, Failure> {
        if !self.has_large {
            said("storing what is to be got");
            let source = self.write_source()?;
            self.store_large(&source)?;
            std::fs::remove_file(&source).map_err(|e| not_removed(&source, &e))?;
            said("comparing");
            self.read_large(Look::AtAll)?;
            self.has_large = true;
        }
        machine::settle(self.disk)?;
        said("measuring raw TCP");
        let limit = machine::tcp_stream(self.sizes.size_bytes, self.interrupt)?;
        said("measuring");
        let (run, usage) = self.watch(|| self.read_large(Look::AtEnds))?;
        Ok(Measured { limit, run, usage })
    }

    fn put_tree(&mut self, said: &dyn Fn(&str)) -> Result<Measured, Failure> {
        let source = self.write_tree(said)?;
        said("measuring creation of files");
        let limit = machine::create_tree(self.disk, self.sizes.files, self.interrupt)?;
        machine::settle(self.disk)?;
        said("measuring");
        let (run, usage) = self.watch(|| self.store_tree(&source))?;
        std::fs::remove_dir_all(&source).map_err(|e| not_removed(&source, &e))?;
        self.compare_tree(said)?;
        Ok(Measured { limit, run, usage })
    }

    fn write_tree(&self, said: &dyn Fn(&str)) -> Result<PathBuf, Failure> {
        said("writing the source tree");
        let source = self.sources.join("tree");
        tree::write(&source, self.tree_content(), self.sizes.files, self.interrupt)?;
        // Made before: a put that is cut off can then leave nothing at a path that was removed.
        for directory in tree::directories(self.sizes.files) {
            self.make_directory(&self.in_store(&format!("tree/{directory}")))?;
        }
        machine::settle(self.sources)?;
        Ok(source)
    }

    fn store_tree(&self, source: &Path) -> Result<Run, Failure> {
        let (outcome, begun) = (Outcome::default(), Instant::now());
        let entries = walk_local(source, &self.in_store("tree"));
        let uploads = entries.into_iter().filter_map(|entry| match entry.kind {
            LocalKind::File { to, .. } => Some(Upload { from: Source::Path(entry.path), to }),
            _ => None,
        });
        let result = self.client.put(uploads, &self.options(), &outcome);
        let bytes = self.sizes.files * tree::FILE_BYTES as u64;
        let run = Run::bulk(self.sizes.files, bytes, begun);
        outcome.check(result, self.sizes.files, bytes)?;
        Ok(run)
    }

    fn compare_tree(&mut self, said: &dyn Fn(&str)) -> Result<(), Failure> {
        said("comparing");
        self.compare_small(self.sizes.files, self.tree_content(), |n| self.in_tree(n))?;
        self.has_tree = true;
        Ok(())
    }

    fn in_tree(&self, number: u64) -> RemotePath {
        let (directory, file) = tree::name(number);
        self.in_store(&format!("tree/{directory}/{file}"))
    }

    fn put_small(&mut self, workload: Workload, said: &dyn Fn(&str)) -> Result<Measured, Failure> {
        let name = workload.name();
        let content = self.content.derived(100 + workload.at_once() as u64);
        self.make_directory(&self.in_store(&name))?;
        said("measuring creation of synced files");
        let repeated = self.sizes.repeated(workload, 1);
        let limit = machine::create_and_sync(self.disk, &repeated, self.interrupt)?;
        machine::settle(self.disk)?;
        let put = |of: &str, content: Content, number: u64| {
            let bytes = content.derived(number).bytes(tree::FILE_BYTES);
            self.put_one(self.in_store(&format!("{name}/{of}{number}")), bytes)
        };
        said("warming up");
        let warm = content.derived(u64::MAX);
        let prepare = || Ok(());
        self.sizes
            .repeated(workload, WARM_UP)
            .run(self.interrupt, prepare, |(), number| put("warm", warm, number))?;
        said("measuring");
        let (run, usage) = self.watch(|| {
            repeated.run(self.interrupt, prepare, |(), number| put("f", content, number))
        })?;
        said("comparing");
        self.compare_small(run.operations, content, |n| self.in_store(&format!("{name}/f{n}")))?;
        Ok(Measured { limit, run, usage })
    }

    fn put_one(&self, to: RemotePath, bytes: Vec<u8>) -> Result<Duration, Failure> {
        let (outcome, count) = (Outcome::default(), bytes.len() as u64);
        let begun = Instant::now();
        let upload = Upload { from: Source::Stream(Box::new(Cursor::new(bytes))), to };
        let result = self.client.put([upload], &self.options(), &outcome);
        let took = begun.elapsed();
        outcome.check(result, 1, count)?;
        Ok(took)
    }

    fn get_small(&mut self, workload: Workload, said: &dyn Fn(&str)) -> Result<Measured, Failure> {
        if !self.has_tree {
            let source = self.write_tree(said)?;
            said("storing what is to be got");
            self.store_tree(&source)?;
            std::fs::remove_dir_all(&source).map_err(|e| not_removed(&source, &e))?;
            self.compare_tree(said)?;
        }
        machine::settle(self.disk)?;
        said("measuring raw round trips");
        let repeated = self.sizes.repeated(workload, 1);
        let limit = machine::round_trips(&repeated, self.interrupt)?;
        let content = self.tree_content();
        let get = |(): &mut (), number: u64| {
            // All over the tree, and not in the order in which it was stored.
            let number = number.wrapping_mul(7919) % self.sizes.files;
            self.get_one(&self.in_tree(number), content.derived(number))
        };
        said("warming up");
        self.sizes.repeated(workload, WARM_UP).run(self.interrupt, || Ok(()), get)?;
        said("measuring");
        let (run, usage) = self.watch(|| repeated.run(self.interrupt, || Ok(()), get))?;
        Ok(Measured { limit, run, usage })
    }

    /// Gets a small file; what came is compared after the time was taken.
    fn get_one(&self, path: &RemotePath, content: Content) -> Result<Duration, Failure> {
        let mut bytes = Vec::with_capacity(tree::FILE_BYTES);
        let begun = Instant::now();
        let read = self.client.read(path, None, 0..u64::MAX, &mut bytes, &Quiet);
        let took = begun.elapsed();
        read.map_err(|error| failure(&format!("cannot get {path}"), &error))?;
        let mut comparison = Comparison::new(content, Look::AtAll);
        comparison.take(&bytes);
        self.compared.count(path, &comparison, tree::FILE_BYTES as u64)?;
        Ok(took)
    }

    fn compare_small(
        &self,
        files: u64,
        content: Content,
        path: impl Fn(u64) -> RemotePath + Sync,
    ) -> Result<(), Failure> {
        let next = AtomicU64::new(0);
        let read = |()| {
            loop {
                self.interrupt.check()?;
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= files {
                    return Ok(());
                }
                self.get_one(&path(number), content.derived(number))?;
            }
        };
        in_threads(vec![(); COMPARERS], read).map(drop)
    }
}

fn not_removed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::because(Exit::Failed, format!("cannot remove {}", shown(path)), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_what_was_put_ends_the_bench_as_damaged() {
        let content = Content::random().expect("random numbers");
        let path: RemotePath = "/bench/f".parse().expect("a good path");
        let compared = Compared::default();
        let read = |bytes: &[u8]| {
            let mut comparison = Comparison::new(content, Look::AtAll);
            comparison.take(bytes);
            compared.count(&path, &comparison, 4096)
        };
        let mut bytes = content.bytes(4096);
        read(&bytes).expect("it is the same");
        let short = read(&bytes[..4000]).expect_err("it is too short");
        assert!(short.message.contains("4000 bytes"), "{}", short.message);
        bytes[17] ^= 1;
        let wrong = read(&bytes).expect_err("it is another one");
        assert!(wrong.message.contains("/bench/f") && wrong.message.contains("byte 17"));
        assert_eq!((short.exit, wrong.exit), (Exit::Damaged, Exit::Damaged));
        assert_eq!(compared.bytes.into_inner(), 4096);
    }
}
