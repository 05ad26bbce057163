//! Condemning, expiry, collection, and what a node that left loses.

use std::time::Duration;

use super::*;

/// After every lease that a test takes.
const PAST: WallTime = WallTime(LATER.0 + 1);
const EVER: WallTime = WallTime(i64::MAX as u64);

fn superseded(record: &ChunkRecord) -> Refusal {
    Refusal::Superseded { id: record.id, serial: record.serial }
}

fn holding(record: &ChunkRecord) -> Holding {
    let fingerprint = Holding::fingerprint_of(&record.id);
    Holding { serial: record.serial, length: record.length, fingerprint }
}

impl Desk {
    /// A committed chunk with two copies wanted, on these nodes.
    fn wanted_twice(&self, number: u32, nodes: &[NodeId]) -> ChunkRecord {
        let reserved = self.catalog.reserve(A, 2, LATER, &[(id(number), LENGTH)]);
        let record = reserved.expect("answers").remove(0).expect("reserved");
        for node in nodes {
            self.confirm(&confirmation(&record, *node)).expect("confirmed");
        }
        let file = NewFile { copies: 2, ..file(&format!("/{number}"), &[id(number)]) };
        self.commit(A, file).expect("committed");
        self.chunk(record.serial)
    }

    fn trim(&self, record: &ChunkRecord, nodes: &[NodeId], alive: &[u32]) -> Vec<bool> {
        let copies: Vec<_> = nodes.iter().map(|node| (record.serial, *node)).collect();
        self.catalog.trim_copies(&copies, &live(alive)).expect("answers")
    }

    fn expire(&self, before: WallTime) -> Collected {
        self.catalog.expire_versions(before, PAST, 1000).expect("ended")
    }

    /// On the first node, without those that are unknown and were not let go.
    fn condemned_at(&self, now: WallTime) -> Vec<CondemnedCopy> {
        self.catalog.sync().expect("synced");
        self.catalog.condemned_on(N1, None, false, now, 1000).expect("a list")
    }

    fn condemned(&self, node: NodeId) -> Vec<CondemnedCopy> {
        self.catalog.condemned_on(node, None, false, NOW, 1000).expect("a list")
    }

    fn unknown_copies(&self) -> u64 {
        self.catalog.sync().expect("synced");
        self.catalog.condemned_totals().expect("totals").unknown
    }

    fn is_there(&self, serial: Serial) -> bool {
        !self.catalog.chunks(&[serial]).expect("an answer").is_empty()
    }

    fn nodes_of(&self, serial: Serial) -> Vec<NodeId> {
        self.chunk(serial).copies.iter().map(|copy| copy.node).collect()
    }
}

#[test]
fn a_copy_is_trimmed_only_while_enough_others_are_live() {
    on_each(|desk| {
        let record = desk.wanted_twice(1, &[N1, N2, N3]);
        assert_eq!(desk.trim(&record, &[N1], &[1, 2]), [false], "one of the others is not live");
        assert_eq!(desk.trim(&record, &[N1, N2, N3], &[1, 2, 3]), [true, false, false]);
        assert_eq!(desk.nodes_of(record.serial), [N2, N3]);
        let surplus = CondemnedCopy {
            serial: record.serial,
            why: Condemned::Surplus,
            purge: false,
            is_decided: true,
        };
        assert_eq!(desk.condemned(N1), [surplus]);
        assert_eq!(desk.condemned(N2), []);
        assert_eq!(desk.trim(&record, &[N1], &[1, 2, 3]), [false], "it has no copy any more");
        let holders = desk.catalog.condemned_holders(&[Serial(999), record.serial]);
        assert_eq!(holders.expect("an answer"), [(record.serial, N1)]);
    });
}

#[test]
fn copies_on_a_node_that_drains_are_no_reason_to_trim() {
    on_each(|desk| {
        let record = desk.wanted_twice(1, &[N1, N2, N3]);
        desk.catalog.set_standing(N3, Standing::Draining).expect("noted");
        assert_eq!(desk.trim(&record, &[N1], &[1, 2, 3]), [false]);
        assert_eq!(desk.trim(&record, &[N3], &[1, 2, 3]), [true], "its own may go");
    });
}

#[test]
fn an_upload_that_goes_on_keeps_as_many_live_copies_as_are_wanted() {
    on_each(|desk| {
        let reserved = desk.catalog.reserve(A, 2, LATER, &[(id(1), LENGTH)]);
        let record = reserved.expect("answers").remove(0).expect("reserved");
        for node in [N1, N2, N3] {
            desk.confirm(&confirmation(&record, node)).expect("confirmed");
        }
        assert_eq!(desk.trim(&record, &[N1], &[1, 2]), [false], "its commit may rest on two");
        assert_eq!(desk.trim(&record, &[N1], &[1, 2, 3]), [true]);
    });
}

#[test]
fn the_last_copy_is_never_surplus() {
    on_each(|desk| {
        let reserved = desk.catalog.reserve(A, 0, LATER, &[(id(1), LENGTH)]);
        let record = reserved.expect("answers").remove(0).expect("reserved");
        desk.confirm(&confirmation(&record, N1)).expect("confirmed");
        assert_eq!(desk.trim(&record, &[N1], &[1, 2, 3]), [false], "nothing refers to it");
        desk.commit(A, NewFile { copies: 0, ..file("/f", &[id(1)]) }).expect("committed");
        assert_eq!(desk.trim(&record, &[N1], &[1, 2, 3]), [false], "none is wanted");
    });
}

#[test]
fn a_condemned_copy_counts_again_only_after_it_was_deleted() {
    on_each(|desk| {
        let record = desk.wanted_twice(1, &[N1, N2, N3]);
        assert_eq!(desk.trim(&record, &[N1], &[1, 2, 3]), [true]);
        assert_eq!(desk.confirm(&confirmation(&record, N1)), Err(superseded(&record)));
        let held = [holding(&record)];
        let compared =
            desk.catalog.reconcile(N1, Serial(0), record.serial, &held, LATER).expect("compared");
        assert_eq!((compared.found, compared.unknown), (0, vec![record.serial]));
        assert_eq!(desk.nodes_of(record.serial), [N2, N3]);
        assert_eq!(desk.condemned(N1).len(), 1);
        for _ in 0..2 {
            let all = [record.serial, Serial(999)];
            desk.catalog.deleted_copies(N1, &all).expect("noted");
        }
        assert_eq!(desk.condemned(N1), []);
        desk.confirm(&confirmation(&record, N1)).expect("a new copy");
        assert_eq!(desk.nodes_of(record.serial), [N1, N2, N3]);
    });
}

#[test]
fn a_chunk_goes_with_the_last_version_that_names_it() {
    on_each(|desk| {
        let first = desk.put("/f", id(1)).version;
        let chunk = desk.catalog.manifest(A, first, 0, 1).expect("a manifest").remove(0);
        let second = desk.put("/f", id(2)).version;
        desk.put("/g", id(1));
        let step = desk.expire(NOW);
        assert_eq!(step, Collected::default(), "it ended at that very time, and not before");
        let step = desk.expire(PAST);
        assert_eq!((step.versions, step.chunks, step.next), (1, 0, None), "/g names it, too");
        assert!(desk.catalog.version(A, first).is_err());
        assert_eq!(desk.catalog.serials_of(first, 0, 9).expect("an answer"), []);
        assert!(desk.catalog.version(A, second).is_ok());
        desk.rm("/g", false).expect("removed");
        let step = desk.expire(PAST);
        assert_eq!((step.versions, step.chunks, step.copies), (1, 1, 2));
        assert!(!desk.is_there(chunk.serial));
        let why = Condemned::Unreferred;
        let gone = CondemnedCopy { serial: chunk.serial, why, purge: false, is_decided: true };
        assert_eq!((desk.condemned(N1), desk.condemned(N3)), (vec![gone], vec![]));
        let totals = desk.catalog.condemned_totals().expect("totals");
        assert_eq!(totals, CondemnedTotals { copies: 2, unknown: 0 });
        assert!(desk.reserve(A, id(1)).serial > chunk.serial, "the bytes get a new serial");
        let upload = desk.commit(A, file("/h", &[id(1)]));
        assert_eq!(upload, Err(Refusal::NotStored { chunks: vec![id(1)] }));
    });
}

#[test]
fn a_lease_holds_a_chunk_that_no_version_names_any_more() {
    on_each(|desk| {
        desk.put("/f", id(1));
        let record = desk.reserve(A, id(1));
        desk.rm("/f", false).expect("removed");
        let step = desk.catalog.expire_versions(PAST, NOW, 1000).expect("ended");
        assert_eq!((step.versions, step.chunks), (1, 0));
        let collect = |now| desk.catalog.collect(None, now, 1000).expect("collected").chunks;
        assert_eq!(collect(WallTime(LATER.0 - 1)), 0);
        desk.commit(A, file("/g", &[id(1)])).expect("it is there for the commit");
        assert_eq!(collect(PAST), 0, "a version names it");
        assert_eq!(desk.nodes_of(record.serial), [N1, N2]);
    });
}

#[test]
fn uploads_that_came_to_nothing_are_collected_page_by_page() {
    on_each(|desk| {
        let kept = desk.wanted_twice(1, &[N1, N2]);
        let lost = desk.store(A, id(2), &[N1]);
        let empty = desk.reserve(A, id(3));
        let page = |after, limit| desk.catalog.collect(after, PAST, limit).expect("collected");
        assert_eq!(page(None, 1), Collected { next: Some(kept.serial), ..Collected::default() });
        let step = page(Some(kept.serial), 2);
        assert_eq!((step.chunks, step.copies, step.next), (2, 1, Some(empty.serial)));
        assert_eq!(page(Some(empty.serial), 2).next, None);
        assert!(desk.is_there(kept.serial) && !desk.is_there(lost.serial));
        assert!(!desk.is_there(empty.serial));
        assert_eq!(desk.condemned(N1).len(), 1);
        let totals = desk.catalog.totals().expect("totals");
        assert_eq!((totals.chunks, totals.copies), (1, 2));
    });
}

#[test]
fn a_copy_that_is_confirmed_after_its_chunk_was_condemned_is_condemned_too() {
    on_each(|desk| {
        let record = desk.store(A, id(1), &[N1]);
        desk.catalog.collect(None, PAST, 1000).expect("collected");
        assert_eq!(desk.confirm(&confirmation(&record, N2)), Err(superseded(&record)));
        assert_eq!(desk.condemned(N2).len(), 1, "a duplicate that was under way");
        assert!(!desk.is_there(record.serial));
        let anew = desk.reserve(A, id(1));
        assert_eq!(desk.confirm(&confirmation(&record, N3)), Err(superseded(&record)));
        assert_eq!(desk.condemned(N3).len(), 1);
        desk.confirm(&confirmation(&anew, N3)).expect("the same bytes under the new serial");
        assert_eq!(desk.nodes_of(anew.serial), [N3]);
    });
}

#[test]
fn a_long_version_is_ended_in_parts_and_cannot_be_read_meanwhile() {
    on_each(|desk| {
        let record = desk.store(A, id(1), &[N1, N2]);
        let upload = desk.request();
        for part in 0..3 {
            let chunks = vec![id(1); MAX_PART_CHUNKS];
            desk.catalog.stage_part(A, upload, part, &chunks, NOW).expect("staged");
        }
        let manifest = Manifest::Staged { upload, parts: 3 };
        let version = desk.commit(A, NewFile { manifest, ..file("/f", &[]) }).expect("ok").version;
        desk.put("/f", id(2));
        let mut steps = Vec::new();
        loop {
            let step = desk.catalog.expire_versions(PAST, PAST, 1).expect("a step");
            assert!(desk.catalog.version(A, version).is_err());
            assert!(desk.catalog.manifest(A, version, 0, 9).is_err());
            assert_eq!(desk.catalog.serials_of(version, 0, 9).expect("an answer"), []);
            steps.push(step.next.is_some());
            if step.next.is_none() {
                assert_eq!((step.versions, step.chunks, step.copies), (1, 1, 2));
                break;
            }
        }
        assert_eq!(steps.last(), Some(&false));
        assert!(!desk.is_there(record.serial));
    });
}

#[test]
fn what_is_purged_goes_at_once_with_all_its_versions_and_in_spite_of_leases() {
    on_each(|desk| {
        desk.put("/d/f", id(1));
        desk.put("/d/f", id(2));
        let kept = desk.put("/g", id(3));
        let request = desk.request();
        for _ in 0..2 {
            let removed = desk.catalog.remove_entry(A, request, NOW, &path("/d"), true, None, true);
            assert_eq!(removed.expect("removed"), 1);
        }
        let removed = desk.catalog.removed(A, &RemotePath::root(), None, 9).expect("a list");
        assert_eq!(removed, []);
        let step = desk.catalog.expire_versions(WallTime(1), NOW, 1000).expect("ended");
        assert_eq!((step.versions, step.chunks, step.copies), (2, 2, 4));
        assert!(desk.condemned(N1).iter().all(|copy| copy.purge));
        assert_eq!(desk.condemned(N1).len(), 2);
        assert!(desk.catalog.version(A, kept.version).is_ok());
    });
}

#[test]
fn an_unknown_copy_is_condemned_for_later_and_counts_if_it_is_confirmed_before() {
    on_each(|desk| {
        let drawn = desk.reserve(A, id(1)).serial;
        desk.catalog.begin_incarnation(Incarnation::random(), NOW).expect("begun");
        let mut said = confirmation(&desk.reserve(A, id(2)), N1);
        (said.id, said.serial) = (id(3), Serial(drawn.0 + 500));
        let fingerprint = Holding::fingerprint_of(&said.id);
        let held = [Holding { serial: said.serial, length: LENGTH, fingerprint }];
        let compare = || {
            let all = (Serial(0), Serial(u64::MAX));
            desk.catalog.reconcile(N1, all.0, all.1, &held, LATER).expect("compared").unknown
        };
        let listed = |with_unknown, now| {
            let listed = desk.catalog.condemned_on(N1, None, with_unknown, now, 9);
            listed.expect("a list").iter().map(|copy| (copy.serial, copy.why)).collect::<Vec<_>>()
        };
        assert_eq!(compare(), [said.serial]);
        assert_eq!(listed(true, WallTime(LATER.0 - 1)), [], "not due");
        assert_eq!(listed(false, PAST), [], "not asked for");
        let unknown = CondemnedTotals { copies: 1, unknown: 1 };
        desk.catalog.sync().expect("synced");
        assert_eq!(desk.catalog.condemned_totals().expect("totals"), unknown);
        desk.confirm(&said).expect("its confirmation was only late");
        desk.catalog.sync().expect("synced");
        let none = CondemnedTotals::default();
        assert_eq!(desk.catalog.condemned_totals().expect("totals"), none);
        assert_eq!(compare(), []);

        desk.catalog.collect(None, PAST, 1000).expect("collected");
        desk.catalog.deleted_copies(N1, &[said.serial]).expect("noted");
        assert_eq!(compare(), [said.serial], "it was restored from somewhere");
        assert_eq!(listed(true, PAST), [(said.serial, Condemned::Unknown)]);
        let late = Refusal::Superseded { id: said.id, serial: said.serial };
        assert_eq!(desk.confirm(&said), Err(late), "somebody may be having it deleted");
    });
}

#[test]
fn an_unknown_copy_that_the_node_does_not_hold_any_more_is_forgotten_unless_it_was_named() {
    on_each(|desk| {
        let unknown = |serial| {
            let fingerprint = Holding::fingerprint_of(&id(serial as u32));
            Holding { serial: Serial(serial), length: LENGTH, fingerprint }
        };
        let compare = |from, to, held: &[Holding]| {
            desk.catalog.reconcile(N1, Serial(from), Serial(to), held, LATER).expect("compared");
        };
        let list = |now| desk.catalog.condemned_on(N1, None, true, now, 9).expect("a list").len();
        compare(0, 9, &[unknown(7)]);
        compare(8, 9, &[]);
        assert_eq!(desk.unknown_copies(), 1, "outside of the range");
        compare(0, 9, &[]);
        assert_eq!(desk.unknown_copies(), 0);
        compare(0, 9, &[unknown(7)]);
        assert_eq!(desk.condemned_at(PAST), [], "nobody let it go");
        assert_eq!((list(PAST), desk.unknown_copies()), (1, 0));
        compare(0, 9, &[]);
        assert_eq!(list(PAST), 1, "an order may be out");
        let why = Condemned::Unknown;
        let again = CondemnedCopy { serial: Serial(7), why, purge: false, is_decided: true };
        assert_eq!(desk.condemned_at(PAST), [again], "it was let go");
        desk.catalog.deleted_copies(N1, &[Serial(7)]).expect("noted");
        assert_eq!(list(PAST), 0);
    });
}

/// An order that is out deletes what is stored on the node under that serial until it is done.
#[test]
fn a_copy_that_is_to_be_deleted_stays_condemned_until_that_is_done_whatever_the_node_holds() {
    on_each(|desk| {
        let record = desk.wanted_twice(1, &[N1, N2, N3]);
        desk.trim(&record, &[N1], &[1, 2, 3]);
        desk.catalog.reconcile(N1, Serial(0), record.serial, &[], LATER).expect("compared");
        assert_eq!(desk.confirm(&confirmation(&record, N1)), Err(superseded(&record)));
        assert_eq!(desk.condemned(N1).len(), 1);
    });
}

#[test]
fn a_condemned_copy_that_is_there_again_is_named_again_before_it_is_forgotten() {
    on_each(|desk| {
        let record = desk.wanted_twice(1, &[N1, N2, N3]);
        desk.trim(&record, &[N1], &[1, 2, 3]);
        let deleted = || desk.catalog.deleted_copies(N1, &[record.serial]).expect("noted");
        let is_there: [&dyn Fn(); 2] = [
            &|| assert_eq!(desk.confirm(&confirmation(&record, N1)), Err(superseded(&record))),
            &|| {
                let (all, held) = ((Serial(0), record.serial), [holding(&record)]);
                desk.catalog.reconcile(N1, all.0, all.1, &held, LATER).expect("compared");
            },
        ];
        for say in is_there {
            assert_eq!(desk.condemned(N1).len(), 1);
            say();
            deleted();
            assert_eq!(desk.condemned(N1).len(), 1, "it may have come after it was deleted");
        }
        deleted();
        assert_eq!(desk.condemned(N1), []);
        desk.confirm(&confirmation(&record, N1)).expect("a new copy");
    });
}

#[test]
fn condemned_copies_come_by_serial_and_in_pages() {
    on_each(|desk| {
        for number in 0..5 {
            desk.store(A, id(number), &[N1]);
        }
        desk.catalog.collect(None, PAST, 1000).expect("collected");
        let all: Vec<_> = desk.condemned(N1).iter().map(|copy| copy.serial).collect();
        assert!(all.len() == 5 && all.is_sorted());
        let page = |after, limit| {
            let copies = desk.catalog.condemned_on(N1, after, true, EVER, limit).expect("a list");
            copies.iter().map(|copy| copy.serial).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 2), all[..2]);
        assert_eq!(page(Some(all[1]), 9), all[2..]);
    });
}

#[test]
fn a_node_that_left_cannot_come_back_and_loses_its_copies_page_by_page() {
    on_each(|desk| {
        let records: Vec<_> = (0..5).map(|n| desk.store(A, id(n), &[N1, N2])).collect();
        let surplus = desk.wanted_twice(9, &[N1, N2, N3]);
        desk.trim(&surplus, &[N1], &[1, 2, 3]);
        let set = |node, standing| refusal(desk.catalog.set_standing(node, standing));
        assert_eq!(set(N1, Standing::Draining), Ok(()));
        assert_eq!(set(N1, Standing::Member), Ok(()), "taken back");
        assert_eq!(set(N1, Standing::Left), Ok(()));
        assert_eq!(set(N1, Standing::Left), Ok(()), "a repeat");
        assert_eq!(set(N1, Standing::Member), Err(Refusal::NodeLeft(N1)));
        assert_eq!(set(NodeId(9), Standing::Member), Err(Refusal::UnknownNode(NodeId(9))));
        assert_eq!(desk.catalog.nodes().expect("nodes")[0].standing, Standing::Left);
        let late = confirmation(&desk.reserve(A, id(7)), N1);
        assert_eq!(desk.confirm(&late), Err(Refusal::NodeLeft(N1)));
        let compare = desk.catalog.reconcile(N1, Serial(0), Serial(9), &[], LATER);
        assert_eq!(refusal(compare), Err(Refusal::NodeLeft(N1)));
        let start = NodeStart {
            previous: Vec::new(),
            incarnation: Incarnation::random(),
            address: "localhost:1".parse().expect("an address"),
            zone: String::new(),
            offered_bytes: 1,
            highest_serial: None,
        };
        assert_eq!(refusal(desk.catalog.start_node(N1, &start)), Err(Refusal::NodeLeft(N1)));
        let (mut after, mut lost) = (None, Vec::new());
        loop {
            let (page, next) = desk.catalog.strip_node(N1, after, 2).expect("stripped");
            lost.extend(page.iter().map(|record| record.serial));
            match next {
                Some(_) => after = next,
                None => break,
            }
        }
        assert_eq!(lost, records.iter().map(|record| record.serial).collect::<Vec<_>>());
        assert!(lost.iter().all(|serial| desk.nodes_of(*serial) == [N2]));
        let held = desk.catalog.copies_on(N1, Serial(0), Serial(u64::MAX), 9).expect("a list");
        assert_eq!((held, desk.condemned(N1)), (vec![], vec![]));
    });
}

#[test]
fn the_survey_shows_every_chunk_and_whether_a_version_names_it() {
    on_each(|desk| {
        let one = desk.wanted_twice(1, &[N1, N2]);
        let two = desk.store(B, id(2), &[N3]);
        desk.catalog.sync().expect("synced");
        let page = |after, limit| desk.catalog.survey(after, limit).expect("a page");
        let named = SurveyedChunk { record: one.clone(), is_referred: true };
        let other = SurveyedChunk { record: two, is_referred: false };
        assert_eq!(page(None, 9), [named.clone(), other.clone()]);
        assert_eq!(page(None, 1), [named]);
        assert_eq!(page(Some(one.serial), 9), [other]);
    });
}

#[test]
fn the_noted_time_goes_down_only_by_a_persons_word() {
    on_each(|desk| {
        let latest = || desk.catalog.latest_time().expect("a time");
        desk.catalog.begin_incarnation(Incarnation::random(), NOW).expect("begun");
        assert_eq!(latest(), WallTime(0));
        desk.catalog.note_time(LATER, false).expect("noted");
        desk.catalog.note_time(NOW, false).expect("passed over");
        assert_eq!(latest(), LATER);
        desk.catalog.note_time(NOW - Duration::from_secs(1), true).expect("noted");
        assert_eq!(latest(), NOW - Duration::from_secs(1));
    });
}

#[test]
fn earlier_starts_are_adopted_by_a_persons_word() {
    on_each(|desk| {
        let all = [Incarnation::random(), Incarnation::random()];
        desk.catalog.begin_incarnation(all[0], NOW).expect("begun");
        let knows = |one| desk.catalog.knows_incarnation(one, BooksMark(7)).expect("an answer");
        assert!(!knows(&all[1]));
        for _ in 0..2 {
            let all = all.map(|one| (one, BooksMark(7)));
            desk.catalog.adopt_incarnations(&all, NOW).expect("adopted");
        }
        assert!(knows(&all[0]) && knows(&all[1]));
    });
}
