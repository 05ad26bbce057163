//! What placement promises, as properties.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, prop, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::clock::Moment;
use proptest::strategy::Strategy as PropStrategy;

const GIB: u64 = 1 << 30;
const CHUNK: u32 = 4 << 20;

fn node(number: u32, offered_bytes: u64) -> Candidate {
    Candidate {
        node: NodeId(number),
        zone: 0,
        state: State::Alive,
        silent: Some(Duration::from_secs(1)),
        is_slow: false,
        has_failed: false,
        is_leaving: false,
        offered_bytes,
        used_bytes: 0,
        reserved_bytes: 0,
        free_bytes: offered_bytes,
        condemned_bytes: 0,
        hands: Hands::new(0, 0, 0),
    }
}

fn wish(copies: usize) -> Wish<'static> {
    Wish { length: CHUNK, copies, holders: &[], apart_from: &[] }
}

fn any_candidate() -> impl PropStrategy<Value = Candidate> {
    let state = prop_oneof![
        6 => Just(State::Alive),
        1 => Just(State::Suspect),
        1 => Just(State::Dead),
        1 => Just(State::Returning),
        1 => Just(State::Stopped),
        1 => Just(State::Rejoining),
    ];
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (state, 0u32..4, 0u64..8, 0u64..8, flags).prop_map(
        |(state, zone, offered, used, (is_slow, has_failed))| {
            let (offered, used) = (offered * GIB, used.min(offered) * GIB);
            let mut candidate = node(0, offered);
            candidate.used_bytes = used;
            candidate.free_bytes = offered - used;
            Candidate { state, zone, is_slow, has_failed, ..candidate }
        },
    )
}

fn any_nodes() -> impl PropStrategy<Value = Vec<Candidate>> {
    prop::collection::vec(any_candidate(), 0..100).prop_map(|mut nodes| {
        for (at, candidate) in nodes.iter_mut().enumerate() {
            candidate.node = NodeId(at as u32 + 1);
        }
        nodes
    })
}

fn any_placement() -> impl PropStrategy<Value = Placement> {
    prop_oneof![Just(Placement::Balanced), Just(Placement::RoundRobin)]
}

proptest! {
    #[test]
    fn no_node_is_taken_twice_and_none_that_is_refused(
        nodes in any_nodes(),
        method in any_placement(),
        seed: u64,
        copies in 1usize..6,
        held in prop::collection::vec(1u32..100, 0..3),
        length in prop_oneof![Just(CHUNK), Just(SMALL_BYTES)],
    ) {
        let holders: Vec<NodeId> = held.into_iter().map(NodeId).collect();
        let wish = Wish { length, copies, holders: &holders, apart_from: &holders };
        let placer = Placer::new(method, nodes, seed, 0);
        let mut placer = placer.with_company(Company::default().at(Moment(0)));
        for _ in 0..20 {
            let explained = placer.explain(&wish);
            let could = explained.iter().filter(|e| e.unfit.is_none()).count();
            let chosen = placer.place(&wish);
            prop_assert_eq!(chosen.len(), could.min(copies));
            let distinct: BTreeSet<NodeId> = chosen.iter().map(|c| c.node).collect();
            prop_assert_eq!(distinct.len(), chosen.len());
            for choice in &chosen {
                let of_node = explained.iter().find(|e| e.node == choice.node);
                prop_assert_eq!(of_node.and_then(|e| e.unfit), None);
            }
        }
    }

    #[test]
    fn zones_are_distinct_where_they_can_be(
        nodes in any_nodes(), seed: u64, copies in 1usize..6,
    ) {
        let mut placer = Placer::new(Placement::Balanced, nodes.clone(), seed, 0);
        let zone_of: BTreeMap<NodeId, u32> = nodes.iter().map(|c| (c.node, c.zone)).collect();
        let explained = placer.explain(&wish(copies));
        let could = explained.iter().filter(|e| e.unfit.is_none()).map(|e| zone_of[&e.node]);
        let zones_that_could: BTreeSet<u32> = could.collect();
        let chosen = placer.place(&wish(copies));
        let zones: BTreeSet<u32> = chosen.iter().map(|c| zone_of[&c.node]).collect();
        prop_assert_eq!(zones.len(), zones_that_could.len().min(chosen.len()));
    }

    #[test]
    fn the_same_seed_makes_the_same_choices(
        nodes in any_nodes(), method in any_placement(), seed: u64, turn: u64,
    ) {
        let run = || {
            let mut placer = Placer::new(method, nodes.clone(), seed, turn);
            let chosen: Vec<_> = (0..10).map(|_| placer.place(&wish(3))).collect();
            (chosen, placer.turn())
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn a_copy_goes_to_another_zone_than_those_that_hold_the_chunk() {
    let mut nodes: Vec<Candidate> = (1..=100).map(|n| node(n, GIB)).collect();
    for candidate in &mut nodes {
        candidate.zone = u32::from(candidate.node.0 > 2);
    }
    for seed in 0..50 {
        let mut placer = Placer::new(Placement::Balanced, nodes.clone(), seed, 0);
        let holders = [NodeId(77)];
        let chosen = placer.place(&Wish {
            length: CHUNK,
            copies: 1,
            holders: &holders,
            apart_from: &holders,
        });
        assert!(chosen[0].node.0 <= 2, "node {} shares the holder's zone", chosen[0].node);
        assert_eq!(chosen[0].reason, Reason::OtherZone);
    }
}

#[test]
fn unequal_nodes_fill_evenly() {
    for seed in [1, 2, 3] {
        let sizes = [20, 40, 40, 80, 100, 160, 200, 320];
        let nodes = (1..).zip(sizes).map(|(number, size)| {
            let mut candidate = node(number, size * GIB);
            candidate.used_bytes = size * GIB * u64::from(number % 3) / 10;
            candidate.free_bytes -= candidate.used_bytes;
            candidate
        });
        let mut placer = Placer::new(Placement::Balanced, nodes.collect(), seed, 0);
        let total: u64 = sizes.iter().sum::<u64>() * GIB;
        let length = 256 << 20;
        for _ in 0..(total / 2 / u64::from(length)) {
            placer.place(&Wish { length, copies: 1, holders: &[], apart_from: &[] });
        }
        let fill = |c: &Candidate| {
            100.0 * (c.used_bytes + c.reserved_bytes) as f64 / c.offered_bytes as f64
        };
        let fills: Vec<f64> = placer.nodes.iter().map(fill).collect();
        let spread = fills.iter().copied().fold(f64::MIN, f64::max)
            - fills.iter().copied().fold(f64::MAX, f64::min);
        assert!(spread < 2.0, "seed {seed}: the nodes are {fills:?} % full");
    }
}

#[test]
fn a_new_node_gets_at_most_twice_its_share() {
    for others in [9, 199] {
        let mut nodes: Vec<Candidate> = (1..=others).map(|n| node(n, 100 * GIB)).collect();
        for candidate in &mut nodes {
            candidate.used_bytes = 80 * GIB;
            candidate.free_bytes = 20 * GIB;
        }
        nodes.push(node(others + 1, 100 * GIB));
        let mut placer = Placer::new(Placement::Balanced, nodes, 7, 0);
        let chunks = 20_000;
        let is_new = |c: &Chosen| c.node == NodeId(others + 1);
        let got =
            (0..chunks).filter(|_| placer.place(&Wish { length: 1, ..wish(1) }).iter().any(is_new));
        let share = got.count() as f64 / f64::from(chunks) * f64::from(others + 1);
        assert!((1.5..2.2).contains(&share), "a new node got {share} times its share");
    }
}

#[test]
fn small_chunks_of_one_moment_go_to_the_same_nodes_for_as_long_as_these_can_take_them() {
    let small = Wish { length: 4096, ..wish(2) };
    let mut nodes: Vec<Candidate> = (1..=9).map(|n| node(n, GIB)).collect();
    nodes.iter_mut().for_each(|node| node.zone = node.node.0 % 2);
    let placer = |nodes: &[Candidate], seed, company| {
        Placer::new(Placement::Balanced, nodes.to_vec(), seed, 0).with_company(company)
    };
    let taken = |placer: &mut Placer, wish: &Wish<'_>| -> Vec<NodeId> {
        placer.place(wish).iter().map(|chosen| chosen.node).collect()
    };
    let mut first = placer(&nodes, 1, Company::default().at(Moment(0)));
    let kept = taken(&mut first, &small);
    assert!((0..50).all(|_| taken(&mut first, &small) == kept));
    assert!((0..50).any(|_| taken(&mut first, &wish(2)) != kept), "large ones go anywhere");
    let company = first.company().expect("it was given one").clone();
    // The next request, which brings a copy of its first node.
    let mut next = placer(&nodes, 2, company.clone());
    let one = Wish { copies: 1, holders: &kept[..1], apart_from: &kept[..1], ..small };
    assert_eq!(taken(&mut next, &one), kept[1..]);
    let index = kept[1].0 as usize - 1;
    nodes[index].state = State::Suspect;
    let mut without = placer(&nodes, 3, company.clone());
    let other = taken(&mut without, &small);
    assert!(other[0] == kept[0] && other[1] != kept[1] && other.len() == 2);
    // Enough of them go everywhere: no node is full of small chunks while others have none.
    let mut all = placer(&nodes, 4, company);
    let used: BTreeSet<NodeId> = (0..5000).flat_map(|_| taken(&mut all, &small)).collect();
    assert_eq!(used.len(), 8);
}

#[test]
fn round_robin_takes_one_node_after_the_other() {
    let mut nodes: Vec<Candidate> = (1..=4).map(|n| node(n, GIB)).collect();
    nodes[2].state = State::Dead;
    let mut placer = Placer::new(Placement::RoundRobin, nodes, 0, 0);
    let taken: Vec<u32> = (0..6).map(|_| placer.place(&wish(1))[0].node.0).collect();
    assert_eq!(taken, [1, 2, 4, 1, 2, 4]);
    assert_eq!(placer.turn(), 6);
}

#[test]
fn every_refusal_has_its_reason_with_the_numbers() {
    let mut nodes: Vec<Candidate> = (1..=4).map(|n| node(n, 12 * GIB)).collect();
    nodes[1].free_bytes = 1 << 20;
    nodes[2].state = State::Dead;
    nodes[2].silent = Some(Duration::from_secs(42));
    let placer = Placer::new(Placement::Balanced, nodes, 0, 0);
    let wish = Wish { length: CHUNK, copies: 3, holders: &[NodeId(4)], apart_from: &[NodeId(4)] };
    let said: Vec<_> =
        placer.explain(&wish).into_iter().map(|e| (e.unfit.map(Unfit::name), e.detail)).collect();
    assert_eq!(said[0], (None, "12.0 GiB free".to_string()));
    assert_eq!(said[1], (Some("full"), "1.0 MiB free above its reserve".to_string()));
    assert_eq!(said[2], (Some("dead"), "last heard 42 s ago".to_string()));
    assert_eq!(said[3], (Some("holds_it"), "holds a copy already, 12.0 GiB free".to_string()));
}

#[test]
fn a_reason_keeps_its_number_and_has_words() {
    for (code, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(reason.code()), code);
        assert_ne!(Reason::text(reason.code()), Reason::text(255));
    }
}
