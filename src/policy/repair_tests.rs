//! What the judge promises, in examples and as properties.

use proptest::prelude::*;

use super::*;
use crate::policy::liveness::State;
use crate::policy::pace::Hands;
use crate::policy::placement::Placement;

fn node(number: u32) -> Candidate {
    Candidate {
        node: NodeId(number),
        zone: number,
        state: State::Alive,
        silent: None,
        is_slow: false,
        has_failed: false,
        is_leaving: false,
        offered_bytes: 1 << 30,
        used_bytes: 0,
        reserved_bytes: 0,
        free_bytes: 1 << 30,
        condemned_bytes: 0,
        hands: Hands::new(0, 0, 0),
    }
}

fn placer(nodes: Vec<Candidate>) -> Placer {
    Placer::new(Placement::Balanced, nodes, 1, 0)
}

fn nodes(count: u32) -> Vec<Candidate> {
    (1..=count).map(node).collect()
}

fn with(count: u32, change: impl Fn(&mut Candidate)) -> Vec<Candidate> {
    let mut nodes = nodes(count);
    nodes.iter_mut().for_each(change);
    nodes
}

/// Judges a chunk that wants three copies and has these.
fn judged(held: &[u32], nodes: Vec<Candidate>) -> Verdict {
    judged_as(held, nodes, &[], false)
}

fn judged_as(held: &[u32], nodes: Vec<Candidate>, on_way: &[u32], is_patient: bool) -> Verdict {
    let mut placer = placer(nodes);
    let held = held.iter().copied().map(NodeId);
    let holders = Holders::sort(held, |node| placer.presence(node));
    let under_way: Vec<NodeId> = on_way.iter().copied().map(NodeId).collect();
    let (length, wanted, barred) = (5, 3, &[]);
    let under_way = under_way.as_slice();
    let copies = Copies { length, wanted, holders: &holders, under_way, barred, is_patient };
    judge(&copies, &mut placer)
}

fn targets(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Copy { to, .. } => to.len(),
        _ => 0,
    }
}

#[test]
fn a_missing_copy_is_made_from_a_live_one_on_a_node_without_one() {
    let Verdict::Copy { from, to } = judged(&[1, 3], nodes(4)) else { panic!("one was due") };
    assert!([NodeId(1), NodeId(3)].contains(&from));
    assert_eq!(to.len(), 1);
    assert!(![NodeId(1), NodeId(3)].contains(&to[0].node));
}

#[test]
fn a_copy_that_is_under_way_is_not_asked_for_again() {
    assert_eq!(judged_as(&[1, 2], nodes(4), &[3], false), Verdict::UnderWay);
    // A copy that is confirmed is not under way, too.
    assert_eq!(targets(&judged_as(&[1, 2], nodes(4), &[2], false)), 1);
}

#[test]
fn copies_on_nodes_that_are_away_are_waited_for_while_two_can_be_read() {
    for state in [State::Suspect, State::Stopped, State::Returning, State::Rejoining] {
        let away = with(5, |c| {
            if c.node.0 <= 2 {
                c.state = state;
            }
        });
        assert_eq!(judged(&[1, 3, 4], away.clone()), Verdict::Away { missing: 1 });
        let one_is_left = judged(&[1, 2, 3], away.clone());
        if matches!(state, State::Stopped | State::Rejoining) {
            assert_eq!(one_is_left, Verdict::Away { missing: 2 }, "they are back or will be");
        } else {
            assert_eq!(targets(&one_is_left), 1, "a second one at once");
        }
        assert_eq!(judged(&[1, 2], away), Verdict::Waiting { missing: 3 });
    }
    let dead = with(5, |c| {
        if c.node.0 <= 2 {
            c.state = State::Dead;
        }
    });
    assert_eq!(targets(&judged(&[1, 3, 4], dead.clone())), 1);
    assert_eq!(targets(&judged(&[1, 2, 3], dead)), 2);
    assert_eq!(judged(&[], nodes(3)), Verdict::Lost);
}

#[test]
fn while_the_main_server_doubts_itself_nothing_is_done_for_silence() {
    let dead = with(5, |c| {
        if c.node.0 <= 2 {
            c.state = State::Dead;
        }
    });
    assert_eq!(judged_as(&[1, 2, 3], dead.clone(), &[], true), Verdict::Away { missing: 2 });
    assert_eq!(judged_as(&[3, 4, 5, 1], dead, &[], true), Verdict::Enough);
    assert_eq!(judged_as(&[1, 2, 3, 4], nodes(4), &[], true), Verdict::Enough);
    assert_eq!(targets(&judged_as(&[1, 2], nodes(4), &[], true)), 1, "it was never stored");
}

#[test]
fn copies_are_moved_off_a_node_that_leaves_and_trimmed_once_there_are_enough() {
    let leaving = with(5, |c| c.is_leaving = c.node.0 == 1);
    assert_eq!(targets(&judged(&[1, 2, 3], leaving.clone())), 1);
    let from_it = judged(&[1], leaving.clone());
    assert!(matches!(from_it, Verdict::Copy { from: NodeId(1), .. }), "{from_it:?}");
    let trim = Verdict::Trim { surplus: vec![NodeId(1)] };
    assert_eq!(judged(&[1, 2, 3, 4], leaving), trim);
}

#[test]
fn a_copy_in_a_zone_that_has_another_goes_first_and_then_the_one_on_the_fullest_node() {
    let crowded = with(5, |c| {
        c.used_bytes = u64::from(c.node.0);
        c.zone = if c.node.0 <= 2 { 1 } else { c.node.0 };
    });
    let trim =
        |nodes: &[u32]| Verdict::Trim { surplus: nodes.iter().map(|&n| NodeId(n)).collect() };
    assert_eq!(judged(&[1, 2, 3, 4], crowded.clone()), trim(&[2]));
    assert_eq!(judged(&[1, 2, 3, 4, 5], crowded), trim(&[2, 5]));
}

#[test]
fn the_source_with_the_least_to_do_is_asked_and_one_with_its_hands_full_is_not() {
    let busy = |bytes: [u64; 2]| {
        with(4, move |c| {
            if let Some(&bytes) = bytes.get(c.node.0 as usize - 1) {
                c.hands = Hands::new(1, bytes, 0);
            }
        })
    };
    let first = judged(&[1, 2], busy([1, 2]));
    assert!(matches!(first, Verdict::Copy { from: NodeId(1), .. }), "{first:?}");
    let second = judged(&[1, 2], busy([2, 1]));
    assert!(matches!(second, Verdict::Copy { from: NodeId(2), .. }), "{second:?}");
    assert_eq!(judged(&[1, 2], busy([1 << 40, 1 << 40])), Verdict::SourcesBusy);
}

#[test]
fn a_chunk_waits_while_no_node_can_take_it() {
    assert_eq!(judged(&[1, 2], nodes(2)), Verdict::Waiting { missing: 1 });
}

#[test]
fn a_copy_that_replaces_one_that_goes_may_take_its_zone() {
    let mut all = with(6, |c| c.zone = (c.node.0 - 1) % 3);
    all[0].is_leaving = true;
    let verdict = judged(&[1, 2, 3], all);
    let Verdict::Copy { to, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(to[0].node, NodeId(4), "the other node of that zone");
}

#[test]
fn two_copies_in_one_zone_are_parted_when_another_zone_has_room_and_nobody_is_waited_for() {
    let crowded =
        |zone_of_5| with(5, move |c| c.zone = [1, 1, 2, 2, zone_of_5][c.node.0 as usize - 1]);
    let verdict = judged(&[1, 2, 3], crowded(3));
    assert!(matches!(verdict, Verdict::Spread { to, .. } if to.node == NodeId(5)), "{verdict:?}");
    assert_eq!(judged(&[1, 2, 3], crowded(2)), Verdict::Enough);
    assert_eq!(judged_as(&[1, 2, 3], crowded(3), &[5], false), Verdict::Enough, "under way");
    let full = with(5, |c| {
        *c = crowded(3)[c.node.0 as usize - 1];
        c.free_bytes = 1;
    });
    assert_eq!(judged(&[1, 2, 3], full), Verdict::Enough);
}

#[test]
fn what_is_nearer_to_a_loss_is_more_urgent_and_then_what_is_read() {
    let urgency = |held: &[u32], is_idle, since| {
        let candidates = with(5, |c| c.is_leaving = c.node.0 == 5);
        let placer = placer(candidates);
        let nodes = held.iter().copied().map(NodeId);
        let holders = Holders::sort(nodes, |node| placer.presence(node));
        Urgency::of(&holders, 3, is_idle, Moment(since))
    };
    let order = [
        urgency(&[1], false, 9),
        urgency(&[1], true, 0),
        urgency(&[1, 2], false, 1),
        urgency(&[1, 2], false, 2),
        urgency(&[1, 2, 5], false, 0),
        urgency(&[1, 2, 3, 4], false, 0),
        urgency(&[1, 2, 3], false, 0),
    ];
    assert!(order.is_sorted(), "{order:?}");
}

fn any_node() -> impl Strategy<Value = (State, bool, u32, u64)> {
    let state = prop_oneof![
        6 => Just(State::Alive),
        1 => Just(State::Suspect),
        1 => Just(State::Dead),
        1 => Just(State::Returning),
        1 => Just(State::Stopped),
        1 => Just(State::Rejoining),
    ];
    (state, prop::bool::weighted(0.2), 0u32..4, 0u64..100)
}

proptest! {
    #[test]
    fn no_verdict_makes_fewer_copies_count_than_wanted_and_each_brings_the_chunk_nearer_to_it(
        kinds in prop::collection::vec(any_node(), 1..12),
        held in prop::collection::vec(any::<bool>(), 12),
        under_way in prop::collection::vec(prop::bool::weighted(0.1), 12),
        wanted in 1usize..5,
        is_patient: bool,
    ) {
        let mut all = nodes(kinds.len() as u32);
        for (candidate, (state, is_leaving, zone, used)) in all.iter_mut().zip(kinds) {
            candidate.state = state;
            candidate.is_leaving = is_leaving;
            candidate.zone = zone;
            candidate.used_bytes = used;
        }
        let marked = |marks: &[bool]| -> Vec<NodeId> {
            all.iter().zip(marks).filter(|(_, mark)| **mark).map(|(c, _)| c.node).collect()
        };
        let (held, under_way) = (marked(&held), marked(&under_way));
        let mut placer = placer(all.clone());
        let presence = |placer: &Placer, node: NodeId| placer.presence(node);
        let holders = Holders::sort(held.iter().copied(), |node| presence(&placer, node));
        let copies = Copies {
            length: 5, wanted, holders: &holders, under_way: &under_way, barred: &[], is_patient,
        };
        let live = holders.live();
        match judge(&copies, &mut placer) {
            Verdict::Enough => {
                let has_more = live > wanted || !holders.leaving.is_empty();
                prop_assert!(holders.counts.len() >= wanted && (is_patient || !has_more));
            }
            Verdict::Spread { from, to } => {
                prop_assert_eq!(holders.counts.len(), wanted);
                prop_assert!(!is_patient && holders.counts.contains(&from));
                let zone = |node: NodeId| placer.candidate(node).map(|c| c.zone);
                let is_apart = holders.counts.iter().all(|&node| zone(node) != zone(to.node));
                prop_assert!(is_apart);
            }
            Verdict::Trim { surplus } => {
                prop_assert!(!is_patient && !surplus.is_empty());
                let stay = holders.counts.iter().filter(|node| !surplus.contains(node)).count();
                prop_assert_eq!(stay, wanted);
                prop_assert!(holders.leaving.iter().all(|node| surplus.contains(node)));
            }
            Verdict::Copy { from, to } => {
                prop_assert!(holders.counts.len() < wanted);
                prop_assert!(holders.counts.contains(&from) || holders.leaving.contains(&from));
                let on_way = under_way.iter().filter(|node| !holders.counts.contains(node)).count();
                let after = holders.counts.len() + on_way + to.len();
                prop_assert!(after <= wanted);
                for chosen in to {
                    prop_assert!(!held.contains(&chosen.node) && !under_way.contains(&chosen.node));
                    prop_assert_eq!(placer.presence(chosen.node), Presence::Counts);
                }
            }
            Verdict::UnderWay => prop_assert!(!under_way.is_empty() && live > 0),
            Verdict::Away { missing } => {
                let waits = holders.away.len() + if is_patient { holders.gone.len() } else { 0 };
                prop_assert!(waits >= missing && (is_patient || live + holders.expected > 1));
            }
            Verdict::Waiting { missing } => prop_assert!(missing > 0),
            Verdict::SourcesBusy => prop_assert!(false, "nobody has anything to do"),
            Verdict::Lost => prop_assert!(held.is_empty()),
        }
    }
}
