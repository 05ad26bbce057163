//! What a random sequence of operations is drawn from.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn accounts() -> impl Strategy<Value = AccountId> {
    prop_oneof![6 => Just(A), 1 => Just(B)]
}

fn chunks() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0..4_u32, 0..4)
}

fn after() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![2 => Just(None), 1 => numbers().prop_map(Some)]
}

fn numbers() -> std::ops::Range<u64> {
    0..40
}

/// The directories are mostly `a` and `b`, the files mostly `f` and `g`, and few are the root.
fn directories() -> impl Strategy<Value = String> {
    select(vec!["/", "/a", "/b", "/a", "/a/b", "/a/a", "/a", "/b/a", "/a/f"]).prop_map(String::from)
}

fn file_paths() -> impl Strategy<Value = RemotePath> {
    (directories(), select(vec!["f", "g", "f", "g", "f", "g", "a"]))
        .prop_map(|(directory, name)| path(&format!("{}/{name}", directory.trim_end_matches('/'))))
}

fn paths() -> impl Strategy<Value = RemotePath> {
    prop_oneof![1 => directories().prop_map(|text| path(&text)), 1 => file_paths()]
}

/// Mostly new ones, sometimes one of a few that come again.
fn requests() -> impl Strategy<Value = u64> {
    prop_oneof![5 => 100..u64::MAX, 1 => 0..3_u64]
}

fn new_files() -> impl Strategy<Value = NewFile> {
    let manifest = prop_oneof![
        4 => chunks().prop_map(|numbers| Manifest::Inline(numbers.into_iter().map(id).collect())),
        1 => (0..2_u64, 0..3_u32)
            .prop_map(|(upload, parts)| Manifest::Staged { upload: request(upload), parts }),
    ];
    let condition = prop_oneof![
        3 => Just(Condition::Any),
        1 => Just(Condition::Absent),
        1 => numbers().prop_map(|number| Condition::Version(Version(number))),
    ];
    (file_paths(), manifest, 0..4_u8, condition, any::<bool>()).prop_map(
        |(path, manifest, copies, condition, parents)| NewFile {
            path,
            manifest,
            copies,
            mtime_ms: 0,
            executable: parents,
            condition,
            parents,
        },
    )
}

fn chunk_steps() -> impl Strategy<Value = Step> {
    let some_nodes = || proptest::collection::vec(1..5_u32, 1..5);
    prop_oneof![
        3 => (accounts(), 0..4_u8, select(vec![1, 1, 1, 2]), chunks()).prop_map(
            |(account, copies, length, chunks)| Step::Reserve { account, copies, length, chunks }),
        2 => (accounts(), 0..5_u32, proptest::option::of(numbers()), select(vec![1, 1, 2]), 1..5_u32).prop_map(
            |(account, chunk, serial, length, node)|
                Step::Confirm { account, chunk, serial, length, node }),
        5 => (accounts(), 0..4_u32, some_nodes())
            .prop_map(|(account, chunk, nodes)| Step::Store { account, chunk, nodes }),
        1 => (1..5_u32, proptest::collection::vec(numbers(), 0..6))
            .prop_map(|(node, serials)| Step::Lose { node, serials }),
        1 => (1..5_u32, numbers(), numbers(),
              proptest::collection::vec((numbers(), 0..5_u32), 0..6))
            .prop_map(|(node, from, to, held)| Step::Reconcile { node, from, to, held }),
        1 => (after(), 0..4_usize).prop_map(|(after, limit)| Step::UnderCopied { after, limit }),
        1 => (1..5_u32, numbers(), numbers(), 0..4_usize)
            .prop_map(|(node, from, to, limit)| Step::CopiesOn { node, from, to, limit }),
    ]
}

fn name_steps() -> impl Strategy<Value = Step> {
    let some_nodes = proptest::collection::vec(1..4_u32, 1..4);
    let live = prop_oneof![2 => Just(vec![1, 2, 3]), 1 => some_nodes];
    prop_oneof![
        1 => (accounts(), 0..2_u64, 0..3_u32, chunks())
            .prop_map(|(account, upload, part, chunks)| Step::Stage { account, upload, part, chunks }),
        4 => (accounts(), requests(), live, proptest::collection::vec(new_files(), 1..4)).prop_map(
            |(account, request, live, files)| Step::Commit { account, request, live, files }),
        3 => (accounts(), requests(), paths(), any::<bool>()).prop_map(
            |(account, request, at, parents)| Step::MakeDirectory { account, request, at, parents }),
        2 => (accounts(), requests(), paths(), paths(), any::<bool>()).prop_map(
            |(account, request, from, to, replace)|
                Step::Move { account, request, from, to, replace }),
        2 => (accounts(), requests(), paths(), any::<bool>(), select(vec![None, None, Some(true), Some(false)]), proptest::bool::weighted(0.3))
            .prop_map(|(account, request, at, recursive, version, purge)|
                Step::Remove { account, request, at, recursive, version, purge }),
        1 => (accounts(), directories(), after(), 0..4_usize).prop_map(|(account, at, after, limit)|
            Step::Removed { account, at: path(&at), after, limit }),
        2 => (accounts(), requests(), file_paths(), any::<bool>()).prop_map(
            |(account, request, at, earlier)| Step::Undelete { account, request, at, earlier }),
        1 => (accounts(), requests(), paths(), 0..5_u8, 0..4_usize, 1..4_u64).prop_map(
            |(account, request, at, copies, limit, pages)|
                Step::SetCopies { account, request, at, copies, limit, pages }),
        1 => (after(), 0..4_usize).prop_map(|(after, limit)| Step::SeenFiles { after, limit }),
        2 => (accounts(), file_paths(), 0..3_u64, 0..4_usize).prop_map(
            |(account, at, from, limit)| Step::Manifest { account, at, from, limit }),
    ]
}

fn deleting_steps() -> impl Strategy<Value = Step> {
    let live =
        prop_oneof![2 => Just(vec![1, 2, 3]), 1 => proptest::collection::vec(1..4_u32, 1..4)];
    let standing = select(vec![
        Standing::Member,
        Standing::Member,
        Standing::Draining,
        Standing::Draining,
        Standing::Left,
    ]);
    let limit = || select(vec![0, 1, 2, 3, 5, 100]);
    prop_oneof![
        3 => (proptest::collection::vec((1..8_u64, 1..4_u32), 1..5), live)
            .prop_map(|(copies, live)| Step::Trim { copies, live }),
        3 => (select(vec![0, 0, 0, 1, 20]), limit()).prop_map(|(hours_ago, limit)| Step::Expire { hours_ago, limit }),
        2 => (after(), limit()).prop_map(|(after, limit)| Step::Collect { after, limit }),
        2 => (1..5_u32, after(), any::<bool>(), limit()).prop_map(
            |(node, after, with_unknown, limit)|
                Step::CondemnedOn { node, after, with_unknown, limit }),
        1 => (1..5_u32, proptest::collection::vec(1..12_u64, 0..6))
            .prop_map(|(node, serials)| Step::Deleted { node, serials }),
        1 => (1..5_u32, after(), limit())
            .prop_map(|(node, after, limit)| Step::Strip { node, after, limit }),
        1 => (1..5_u32, standing).prop_map(|(node, standing)| Step::SetStanding { node, standing }),
        1 => (0..30_u64, any::<bool>())
            .prop_map(|(hours_ago, is_confirmed)| Step::NoteTime { hours_ago, is_confirmed }),
    ]
}

fn other_steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        (8..11_u8, 0..6_u8).prop_map(|(invite, secret)| Step::Join { invite, secret }),
        (
            1..5_u32,
            proptest::collection::vec(0..4_u8, 0..2),
            0..4_u8,
            proptest::option::of(numbers())
        )
            .prop_map(|(node, previous, incarnation, highest)| Step::Start {
                node,
                previous,
                incarnation,
                highest
            }),
        numbers().prop_map(|seconds| Step::Begin { seconds }),
        (1..40_u64).prop_map(|hours| Step::Wait { hours }),
    ]
}

pub(in crate::catalog::contract) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![6 => chunk_steps(), 6 => name_steps(), 4 => deleting_steps(), 1 => other_steps()];
    // Something stands there already, so that more than refusals is compared.
    let commit = |at: &str, chunks: &[u32]| Step::Commit {
        account: A,
        request: 60 + at.len() as u64,
        live: vec![1, 2, 3],
        files: vec![NewFile {
            copies: 2,
            ..file(at, &chunks.iter().map(|n| id(*n)).collect::<Vec<_>>())
        }],
    };
    let start = [
        Step::Store { account: A, chunk: 0, nodes: vec![1, 2, 3] },
        Step::Store { account: A, chunk: 1, nodes: vec![1, 2] },
        Step::MakeDirectory { account: A, request: 50, at: path("/a"), parents: false },
        commit("/f", &[0, 1, 0]),
        commit("/a/f", &[1]),
    ];
    let steps = proptest::collection::vec(step, 1..100);
    steps.prop_map(move |steps| start.iter().cloned().chain(steps).collect())
}
