//! The list of the segments that compaction took away: of a number that is not there it tells
//! whether a segment was lost. Nothing else rests on it.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable;

/// The name of the list, beside the segments.
const NAME: &str = "compacted.json";

#[derive(Default, Serialize, Deserialize)]
struct List {
    /// First and last number of each range, ascending.
    ranges: Vec<(u32, u32)>,
}

/// The numbers in the list of this directory of segments; none if there is no list that can be read,
/// so that too much is said to be missing rather than too little.
pub(super) fn read(directory: &Path) -> Vec<RangeInclusive<u32>> {
    load(directory).ranges.into_iter().map(|(first, last)| first..=last).collect()
}

/// Adds a number. Durable when this returns.
pub(super) fn add(directory: &Path, number: u32) -> io::Result<()> {
    let mut list = load(directory);
    list.ranges.push((number, number));
    list.ranges.sort_unstable();
    list.ranges.dedup_by(|next, range| {
        let joins = next.0 <= range.1.saturating_add(1);
        if joins {
            range.1 = range.1.max(next.1);
        }
        joins
    });
    let text = serde_json::to_vec(&list).expect("a list of numbers is plain data");
    durable::replace_file(&directory.join(NAME), &text)
}

fn load(directory: &Path) -> List {
    let path = directory.join(NAME);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return List::default(),
        text => text,
    };
    let list = text.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
    list.unwrap_or_else(|error| {
        log::warn!("list of compacted segments unreadable path={} error={error}", path.display());
        List::default()
    })
}

/// The parts of `range` that none of `ranges` covers, which ascend.
pub(super) fn without(
    range: RangeInclusive<u32>,
    ranges: &[RangeInclusive<u32>],
) -> Vec<RangeInclusive<u32>> {
    let (mut next, last) = range.into_inner();
    let mut parts = Vec::new();
    for covered in ranges {
        if *covered.end() < next || *covered.start() > last {
            continue;
        }
        if *covered.start() > next {
            parts.push(next..=covered.start() - 1);
        }
        if *covered.end() >= last {
            return parts;
        }
        next = covered.end() + 1;
    }
    parts.push(next..=last);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_joins_neighbours_and_says_what_is_not_in_it() {
        let directory = tempfile::tempdir().unwrap();
        for number in [5, 2, 3, 9, 2, 4] {
            add(directory.path(), number).unwrap();
        }
        let ranges = read(directory.path());
        assert_eq!(ranges, [2..=5, 9..=9]);
        assert_eq!(without(1..=12, &ranges), [1..=1, 6..=8, 10..=12]);
        assert!(without(2..=4, &ranges).is_empty() && without(9..=9, &ranges).is_empty());
        assert_eq!(without(6..=6, &ranges), [6..=6]);
        std::fs::write(directory.path().join(NAME), "nonsense").unwrap();
        assert!(read(directory.path()).is_empty());
    }
}
