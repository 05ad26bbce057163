//! Chunks and copies.

use super::*;

fn nodes_of(record: &ChunkRecord) -> Vec<NodeId> {
    record.copies.iter().map(|copy| copy.node).collect()
}

fn holding(record: &ChunkRecord) -> Holding {
    let fingerprint = Holding::fingerprint_of(&record.id);
    Holding { serial: record.serial, length: record.length, fingerprint }
}

#[test]
fn a_chunk_that_is_reserved_again_keeps_its_serial() {
    on_each(|desk| {
        let asked = [(id(1), LENGTH), (id(2), LENGTH), (id(1), LENGTH)];
        let answers = desk.catalog.reserve(A, 2, LATER, &asked).expect("answers");
        let records: Vec<_> = answers.into_iter().map(|r| r.expect("reserved")).collect();
        assert_eq!(records.iter().map(|r| r.id).collect::<Vec<_>>(), [id(1), id(2), id(1)]);
        assert_eq!(records[0], records[2]);
        assert_ne!(records[0].serial, records[1].serial);
        assert_eq!(desk.reserve(A, id(1)).serial, records[0].serial);
        assert_ne!(desk.reserve(B, id(1)).serial, records[0].serial, "another account's own");
    });
}

#[test]
fn the_wanted_number_of_copies_never_goes_down_by_a_reservation() {
    on_each(|desk| {
        for (asked, wanted) in [(2, 2), (3, 3), (1, 3)] {
            let answers = desk.catalog.reserve(A, asked, LATER, &[(id(1), LENGTH)]);
            assert_eq!(answers.expect("answers").remove(0).expect("reserved").wanted, wanted);
        }
    });
}

#[test]
fn a_length_can_change_only_while_nobody_relies_on_it() {
    on_each(|desk| {
        let reserve = |length| {
            desk.catalog.reserve(A, 3, LATER, &[(id(1), length)]).expect("answers").remove(0)
        };
        let first = reserve(10).expect("reserved");
        let second = reserve(20).expect("the new length replaces the old");
        assert_eq!((second.serial, second.length), (first.serial, 20));
        let third = desk.confirm(&Confirmation { length: 30, ..confirmation(&first, N1) });
        assert_eq!(third.expect("the node measured it").length, 30);
        let differs = |asked| Refusal::LengthDiffers { id: id(1), recorded: 30, asked };
        assert_eq!(reserve(10), Err(differs(10)));
        assert_eq!(desk.confirm(&confirmation(&first, N2)), Err(differs(10)));
        desk.confirm(&Confirmation { length: 30, ..confirmation(&first, N2) }).expect("counted");
        desk.commit(A, file("/f", &[id(1)])).expect("committed");
        desk.catalog.lose_copies(N1, &[first.serial]).expect("lost");
        desk.catalog.lose_copies(N2, &[first.serial]).expect("lost");
        assert_eq!(reserve(10), Err(differs(10)), "a version relies on it, though no copy is left");
    });
}

#[test]
fn a_confirmed_copy_counts_once_and_is_seen_at_once() {
    on_each(|desk| {
        let record = desk.reserve(A, id(1));
        let confirmed = desk.confirm(&confirmation(&record, N2)).expect("confirmed");
        assert_eq!(confirmed.copies, [Copy { node: N2, reason: 4 }]);
        let again = Confirmation { reason: 9, ..confirmation(&record, N2) };
        assert_eq!(desk.confirm(&again), Ok(confirmed.clone()), "a repeat changes nothing");
        let both = desk.confirm(&confirmation(&record, N1)).expect("confirmed");
        assert_eq!(nodes_of(&both), [N1, N2], "by node");
        assert_eq!(desk.catalog.locate(A, &[id(1)]).expect("located"), [Some(both.clone())]);
        assert_eq!(desk.chunk(record.serial), both);
        let held = desk.catalog.copies_on(N1, Serial(0), Serial(u64::MAX), 10);
        assert_eq!(held.expect("an answer"), [holding(&both)]);
    });
}

#[test]
fn a_lost_reservation_is_made_again_from_its_confirmation() {
    on_each(|desk| {
        let drawn = desk.reserve(A, id(1)).serial;
        desk.catalog.begin_incarnation(Incarnation::random(), NOW).expect("begun");
        let serial = Serial(drawn.0 + 500);
        let mut said = confirmation(&desk.reserve(A, id(2)), N1);
        (said.id, said.serial, said.wanted) = (id(3), serial, 2);
        let record = desk.confirm(&said).expect("confirmed");
        assert_eq!((record.serial, record.length, record.wanted), (serial, LENGTH, 2));
        assert_eq!(nodes_of(&record), [N1]);
        assert_eq!(desk.reserve(A, id(3)).serial, serial);
    });
}

#[test]
fn a_confirmation_of_what_is_not_so_any_more_is_superseded() {
    on_each(|desk| {
        let one = desk.reserve(A, id(1));
        let two = desk.reserve(A, id(2));
        let superseded = |confirmation: Confirmation| {
            let Confirmation { id, serial, .. } = confirmation;
            assert_eq!(desk.confirm(&confirmation), Err(Refusal::Superseded { id, serial }));
        };
        superseded(Confirmation { serial: two.serial, ..confirmation(&one, N1) });
        superseded(Confirmation { serial: two.serial, id: id(3), ..confirmation(&one, N1) });
        superseded(Confirmation { serial: one.serial, account: B, ..confirmation(&one, N1) });
        for never in [0, 1_000_000, u64::MAX] {
            superseded(Confirmation { serial: Serial(never), id: id(3), ..confirmation(&one, N1) });
        }
        let stranger = confirmation(&one, NodeId(9));
        assert_eq!(desk.confirm(&stranger), Err(Refusal::UnknownNode(NodeId(9))));
        assert!(
            desk.chunk(one.serial).copies.is_empty() && desk.chunk(two.serial).copies.is_empty()
        );
        assert_eq!(desk.catalog.locate(A, &[id(3)]).expect("located"), [None]);
    });
}

#[test]
fn what_a_node_lost_is_taken_off_and_named_once() {
    on_each(|desk| {
        let one = desk.store(A, id(1), &[N1, N2]).serial;
        let two = desk.store(A, id(2), &[N1]).serial;
        let lose = || {
            let lost = desk.catalog.lose_copies(N2, &[two, one, Serial(999_999), one]);
            lost.expect("an answer").iter().map(|r| (r.serial, nodes_of(r))).collect::<Vec<_>>()
        };
        assert_eq!(lose(), [(one, vec![N1])]);
        assert_eq!(lose(), [], "a repeat changes nothing");
        assert_eq!(nodes_of(&desk.chunk(two)), [N1]);
    });
}

#[test]
fn the_copies_on_a_node_come_by_serial_and_in_pages() {
    on_each(|desk| {
        let records: Vec<_> = (0..6).map(|n| desk.store(A, id(n), &[N1])).collect();
        desk.store(A, id(9), &[N2]);
        let on = |from, to, limit| {
            let held = desk.catalog.copies_on(N1, from, to, limit).expect("an answer");
            held.iter().map(|h| h.serial).collect::<Vec<_>>()
        };
        let serials: Vec<_> = records.iter().map(|r| r.serial).collect();
        assert_eq!(on(Serial(0), Serial(u64::MAX), 100), serials);
        assert_eq!(on(serials[1], serials[4], 100), serials[1..=4]);
        assert_eq!(on(serials[1], serials[4], 2), serials[1..=2]);
        assert_eq!(on(serials[4], serials[1], 2), []);
    });
}

#[test]
fn a_comparison_makes_the_record_agree_with_what_the_node_holds() {
    on_each(|desk| {
        let kept = desk.store(A, id(1), &[N1]);
        let gone = desk.store(A, id(2), &[N1, N2]);
        let found = desk.store(A, id(3), &[N2]);
        let other = desk.store(A, id(4), &[N1]);
        let outside = desk.store(A, id(5), &[N1]);
        let ghost = Holding { serial: Serial(0), length: 1, fingerprint: 1 };
        let wrong = Holding { fingerprint: 1, ..holding(&other) };
        let held = [holding(&found), holding(&kept), ghost, wrong];
        let compare = || desk.catalog.reconcile(N1, Serial(0), other.serial, &held, LATER);
        let result = compare().expect("compared");
        assert_eq!(result.found, 1);
        assert_eq!(result.unknown, [ghost.serial, other.serial]);
        let lost: Vec<_> = result.lost.iter().map(|r| (r.serial, nodes_of(r))).collect();
        assert_eq!(lost, [(gone.serial, vec![N2]), (other.serial, vec![])]);
        assert_eq!(desk.chunk(found.serial).copies[0], Copy { node: N1, reason: 0 });
        assert_eq!(nodes_of(&desk.chunk(kept.serial)), [N1]);
        assert_eq!(nodes_of(&desk.chunk(outside.serial)), [N1], "outside of the range");
        let again = compare().expect("compared");
        assert_eq!((again.found, again.lost), (0, vec![]), "a repeat changes nothing");
        let stranger = desk.catalog.reconcile(NodeId(9), Serial(0), Serial(9), &[], LATER);
        assert_eq!(refusal(stranger), Err(Refusal::UnknownNode(NodeId(9))));
    });
}

#[test]
fn an_account_locates_only_its_own_chunks() {
    on_each(|desk| {
        let record = desk.store(A, id(1), &[N1]);
        let asked = [id(2), id(1), id(1)];
        let located = desk.catalog.locate(A, &asked).expect("located");
        assert_eq!(located, [None, Some(record.clone()), Some(record)], "in the order asked");
        assert_eq!(desk.catalog.locate(B, &asked).expect("located"), [None, None, None]);
    });
}

#[test]
fn chunks_by_serial_leave_out_those_that_are_gone() {
    on_each(|desk| {
        let (one, two) = (desk.reserve(A, id(1)), desk.reserve(B, id(2)));
        let asked = [two.serial, Serial(999), Serial(u64::MAX), one.serial];
        assert_eq!(desk.catalog.chunks(&asked).expect("an answer"), [two, one]);
    });
}

#[test]
fn only_chunks_of_a_version_are_under_copied() {
    on_each(|desk| {
        let under = |after, limit| {
            let records = desk.catalog.under_copied(after, limit).expect("an answer");
            records.iter().map(|record| record.serial).collect::<Vec<_>>()
        };
        let whole = desk.store(A, id(1), &[N1, N2, N3]);
        let short = desk.store(A, id(2), &[N1, N2]);
        let shorter = desk.store(A, id(3), &[N1, N2]);
        desk.store(A, id(4), &[N1]);
        assert_eq!(under(None, 10), [], "nothing refers to them yet");
        desk.commit(A, file("/f", &[id(1), id(2), id(3)])).expect("committed");
        assert_eq!(under(None, 10), [short.serial, shorter.serial]);
        assert_eq!(under(None, 1), [short.serial]);
        assert_eq!(under(Some(short.serial), 10), [shorter.serial]);
        desk.confirm(&confirmation(&short, N3)).expect("confirmed");
        desk.catalog.lose_copies(N2, &[whole.serial]).expect("lost");
        assert_eq!(under(None, 10), [whole.serial, shorter.serial]);
        desk.rm("/f", false).expect("removed");
        assert_eq!(under(None, 10), [whole.serial, shorter.serial], "a removed version too");
    });
}

#[test]
fn the_totals_count_files_chunks_and_copies() {
    on_each(|desk| {
        desk.put("/a/f", id(1));
        desk.put("/a/g", id(1));
        desk.reserve(A, id(2));
        desk.rm("/a/g", false).expect("removed");
        desk.catalog.sync().expect("synced");
        let totals = desk.catalog.totals().expect("totals");
        assert_eq!(totals, Totals { files: 1, chunks: 2, copies: 2 });
    });
}
