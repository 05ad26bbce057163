//! The store against a map: whatever is done in whatever order, it holds what the map says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::clock::{Clock, WallTime};
use crate::ids::Serial;

use super::tests::{ALL, bytes_of, chunk, close_and_check, directory, get, put, store_id};
use super::tests_compact::compact_all;
use super::tests_scrub::scrub_all;
use super::tests_trash::{open_at, restore};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Remove(u64, bool),
    Restore(u64),
    Compact,
    CompactInPart,
    Scrub,
    Reopen { without_hints: bool },
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    let serial = 1..24u64;
    prop_oneof![
        8 => serial.clone().prop_map(Step::Append),
        8 => (serial.clone(), any::<bool>()).prop_map(|(serial, purge)| Step::Remove(serial, purge)),
        3 => serial.prop_map(Step::Restore),
        3 => Just(Step::Compact),
        1 => Just(Step::CompactInPart),
        1 => Just(Step::Scrub),
        2 => any::<bool>().prop_map(|without_hints| Step::Reopen { without_hints }),
        1 => Just(Step::Pass),
    ]
}

/// What must be, and what may be.
#[derive(Default)]
struct Model {
    live: BTreeSet<u64>,
    /// Removed and not purged: true while it is held for sure.
    trash: BTreeMap<u64, bool>,
}

const SEGMENT: u64 = 20_000;

struct Run {
    directory: TempDir,
    clock: Clock,
    store: Option<Store>,
    model: Model,
}

impl Run {
    fn store(&self) -> &Store {
        self.store.as_ref().expect("open between steps")
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(serial) => {
                put(self.store(), &[chunk(*serial, &content(*serial))]);
                self.model.live.insert(*serial);
                self.model.trash.remove(serial);
            }
            Step::Remove(serial, purge) => self.remove(*serial, *purge),
            Step::Restore(serial) => {
                let restored = restore(self.store(), *serial);
                let is_live = self.model.live.contains(serial);
                match self.model.trash.remove(serial) {
                    Some(true) => assert!(restored),
                    Some(false) => {}
                    None => assert_eq!(restored, is_live),
                }
                if restored {
                    self.model.live.insert(*serial);
                }
            }
            Step::Compact => drop(compact_all(self.store())),
            Step::CompactInPart => drop(self.store().compact_one(&mut |_| false).unwrap()),
            Step::Scrub => assert_eq!(scrub_all(self.store(), 5000), (Vec::new(), 0)),
            Step::Reopen { without_hints } => self.reopen(*without_hints),
            Step::Pass => {
                self.clock.advance(Duration::from_secs(4000));
                self.model.trash.values_mut().for_each(|is_held| *is_held = false);
            }
        }
    }

    fn remove(&mut self, serial: u64, purge: bool) {
        let removed = self.store().remove(Serial(serial), purge).unwrap();
        let was_live = self.model.live.remove(&serial);
        assert!(removed.is_some() || !was_live);
        if let Some(ticket) = removed {
            self.store().wait_durable(ticket).unwrap();
        }
        if purge {
            self.model.trash.remove(&serial);
        } else if was_live {
            self.model.trash.insert(serial, true);
        }
    }

    fn reopen(&mut self, without_hints: bool) {
        let store = self.store.take().expect("open between steps");
        let report = close_and_check(store, &self.directory);
        assert!(report.is_sound() && report.findings.is_empty(), "{report:?}");
        let standing: BTreeSet<u64> = report.trash.iter().map(|chunk| chunk.serial.0).collect();
        if without_hints {
            for segment in &report.segments {
                let hint = format!("segments/{:08}.hint", segment.number);
                let _ = std::fs::remove_file(self.directory.path().join(hint));
            }
        }
        self.store = Some(open_at(&self.directory, SEGMENT, 1 << 30, &self.clock));
        // Held anew, what still stands.
        self.model.trash.iter_mut().for_each(|(serial, is_held)| {
            *is_held = standing.contains(serial);
        });
    }

    fn compare(&self) {
        let held: Vec<u64> = self.store().holdings(ALL, 99).iter().map(|h| h.serial.0).collect();
        assert_eq!(held, self.model.live.iter().copied().collect::<Vec<_>>());
        for serial in &self.model.live {
            let bytes = content(*serial);
            assert_eq!(get(self.store(), &chunk(*serial, &bytes)).unwrap(), bytes);
        }
        let trash: BTreeSet<u64> = self.store().trash(ALL, 99).iter().map(|h| h.serial.0).collect();
        for (serial, is_held) in &self.model.trash {
            assert!(!is_held || trash.contains(serial), "{serial} is gone from the trash");
        }
        assert!(trash.iter().all(|serial| self.model.trash.contains_key(serial)), "{trash:?}");
    }
}

fn content(serial: u64) -> Vec<u8> {
    bytes_of(serial, (serial as usize * 977) % 6000)
}

fn run(steps: &[Step]) {
    let directory = directory();
    let clock = Clock::manual(WallTime(5));
    Store::create(directory.path(), store_id(), WallTime(5), &[]).unwrap();
    let store = Some(open_at(&directory, SEGMENT, 1 << 30, &clock));
    let mut run = Run { directory, clock, store, model: Model::default() };
    for step in steps {
        run.apply(step);
        run.compare();
    }
    run.reopen(true);
    run.compare();
}

#[test]
fn what_is_purged_stays_so_where_only_a_superseded_record_of_it_is_left() {
    use Step::*;
    run(&[
        Append(7),
        Append(3),
        Append(4),
        Append(1),
        Append(23),
        Remove(7, false),
        Restore(7),
        Remove(7, false),
        Append(11),
        Remove(11, true),
        Pass,
        Append(5),
        Remove(23, true),
        Compact,
        Remove(7, true),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_store_holds_what_a_plain_map_holds(steps in prop::collection::vec(step(), 1..120)) {
        run(&steps);
    }
}
