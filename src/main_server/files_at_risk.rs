//! Which files depend on chunks that have few copies, or on one node: a walk through all of them.

use std::collections::HashSet;

use super::Main;
use super::census::{Census, Trouble};
use crate::catalog::{CatalogError, SeenFile};
use crate::clock::Moment;
use crate::ids::Serial;

/// How many files are looked at together, and how many chunks of one.
const PAGE: usize = 512;
const CHUNKS: usize = 4096;
/// The share of its time that this may take: after each walk, a pause of so many times its length.
const PAUSE: u32 = 10;

/// How many files have a chunk with at most one copy that counts, though more are wanted. Found by
/// a walk, when enough has changed since the last one.
#[derive(Debug, Default)]
pub struct FilesAtRisk {
    files: u64,
    /// How many chunks were at risk when the last walk began.
    chunks: u64,
    began: Option<Moment>,
    not_before: Option<Moment>,
}

impl FilesAtRisk {
    /// How many there are, as far as is known.
    pub fn files(&self, census: &Census) -> u64 {
        match chunks_at_risk(census) {
            0 => 0,
            // Each of them is in one file at least, but for those that other versions refer to.
            _ => self.files,
        }
    }

    /// When a walk is due; `None` when there is nothing new to find.
    pub fn is_due(&self, census: &Census, is_idle: bool) -> Option<Moment> {
        let chunks = chunks_at_risk(census);
        let is_other = chunks > self.chunks || chunks <= self.chunks / 2 || is_idle;
        (chunks > 0 && chunks != self.chunks && is_other)
            .then(|| self.not_before.unwrap_or(Moment(0)))
    }

    /// A walk begins. Returns the chunks that are at risk.
    pub fn begin(&mut self, census: &Census, now: Moment) -> HashSet<Serial> {
        self.chunks = chunks_at_risk(census);
        self.began = Some(now);
        census.at_risk().collect()
    }

    /// It has found this many files; nothing, when it was cut off.
    pub fn end(&mut self, files: Option<u64>, now: Moment) {
        let took = self.began.take().map_or(std::time::Duration::ZERO, |began| now.since(began));
        self.not_before = Some(now + took * PAUSE);
        self.files = files.unwrap_or(self.files);
    }
}

fn chunks_at_risk(census: &Census) -> u64 {
    let troubles = [Trouble::Single, Trouble::Unreadable, Trouble::Lost];
    troubles.into_iter().map(|trouble| census.tally(trouble).chunks).sum()
}

impl Main {
    /// How many files have one of these chunks; `None` when it was cut off.
    pub(super) fn count_files(
        &self,
        serials: &HashSet<Serial>,
        is_cut_off: &dyn Fn() -> bool,
    ) -> Result<Option<u64>, CatalogError> {
        let (mut after, mut count) = (None, 0);
        loop {
            let page = self.catalog.seen_files(after, PAGE)?;
            for file in &page {
                if is_cut_off() {
                    return Ok(None);
                }
                count += u64::from(self.has_one_of(file, serials)?);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.position),
                Some(_) | None => return Ok(Some(count)),
            }
        }
    }

    /// Paths of files that have one of these chunks: at most `most`, found among the first
    /// `looked_at` files.
    pub(super) fn name_files(
        &self,
        serials: &HashSet<Serial>,
        most: usize,
        looked_at: usize,
    ) -> Result<Vec<String>, CatalogError> {
        let (mut after, mut names, mut seen) = (None, Vec::new(), 0);
        while !serials.is_empty() && seen < looked_at {
            let page = self.catalog.seen_files(after, PAGE)?;
            seen += page.len();
            for file in &page {
                if names.len() >= most {
                    return Ok(names);
                }
                if self.has_one_of(file, serials)? {
                    names.push(file.path.to_string());
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.position),
                Some(_) | None => break,
            }
        }
        Ok(names)
    }

    fn has_one_of(&self, file: &SeenFile, serials: &HashSet<Serial>) -> Result<bool, CatalogError> {
        let mut from = 0;
        while from < file.chunk_count {
            let page = self.catalog.serials_of(file.version, from, CHUNKS)?;
            if page.iter().any(|serial| serials.contains(serial)) {
                return Ok(true);
            }
            if page.len() < CHUNKS {
                break;
            }
            from += page.len() as u64;
        }
        Ok(false)
    }
}
