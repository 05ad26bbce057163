//! Where a scrub was when the node stopped: a small file, written now and then and not synced, since
//! the worst that comes of an old one is that something is read once more than needed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;

const FILE: &str = "scrub.json";
/// The least time between two writings.
const PAUSE: Duration = Duration::from_secs(60);

/// A place in a pass, as it stands in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The segment that is being read.
    pub segment: u32,
    /// The bytes that were read in this pass before it.
    pub done_bytes: u64,
}

/// The file.
#[derive(Debug)]
pub(super) struct Bookmark {
    path: PathBuf,
    noted: Place,
    since: Moment,
}

impl Bookmark {
    /// Of the node with this directory.
    pub fn new(directory: &Path, now: Moment) -> Bookmark {
        Bookmark { path: directory.join(FILE), noted: Place::default(), since: now }
    }

    /// Where to begin: at the beginning, if the file says nothing better.
    pub fn find(&mut self) -> Place {
        let text = std::fs::read(&self.path).ok();
        self.noted = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        self.noted
    }

    /// The pass has come to this place.
    pub fn note(&mut self, place: Place, now: Moment) {
        if place.segment == self.noted.segment || now.since(self.since) < PAUSE {
            return;
        }
        (self.noted, self.since) = (place, now);
        let text = serde_json::to_vec(&place).expect("a place is plain data");
        let fresh = self.path.with_extension("json.new");
        let written =
            std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &self.path));
        self.tell(written);
    }

    /// The pass is over.
    pub fn clear(&mut self) {
        self.noted = Place::default();
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => self.tell(removed),
        }
    }

    fn tell(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            log::debug!("place of the scrub not kept path={} error={error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_written_at_most_once_a_minute_and_only_when_it_is_another_segment() {
        let directory = tempfile::tempdir().unwrap();
        let found = || Bookmark::new(directory.path(), Moment(0)).find();
        let place = |segment| Place { segment, done_bytes: 1000 * u64::from(segment) };
        let mut bookmark = Bookmark::new(directory.path(), Moment(0));
        assert_eq!(bookmark.find(), Place::default());
        bookmark.note(place(3), Moment(0) + PAUSE / 2);
        assert_eq!(found(), Place::default());
        bookmark.note(place(4), Moment(0) + PAUSE);
        assert_eq!(found(), place(4));
        bookmark.note(place(5), Moment(0) + PAUSE);
        bookmark.note(Place { done_bytes: 7, ..place(4) }, Moment(0) + 2 * PAUSE);
        assert_eq!(found(), place(4));
        bookmark.clear();
        bookmark.clear();
        assert_eq!(found(), Place::default());
        std::fs::write(directory.path().join(FILE), "what?").unwrap();
        assert_eq!(found(), Place::default());
    }
}
