//! Random sequences of operations on the model and on SQLite: every answer must be the same, and
//! the checker must find nothing wrong in what was written.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

use super::*;
use crate::catalog::check;

/// One operation. What it names is drawn from so few things that operations meet.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Reserve {
        account: AccountId,
        copies: u8,
        length: u32,
        chunks: Vec<u32>,
    },
    Confirm {
        account: AccountId,
        chunk: u32,
        serial: Option<u64>,
        length: u32,
        node: u32,
    },
    Store {
        account: AccountId,
        chunk: u32,
        nodes: Vec<u32>,
    },
    Lose {
        node: u32,
        serials: Vec<u64>,
    },
    Reconcile {
        node: u32,
        from: u64,
        to: u64,
        held: Vec<(u64, u32)>,
    },
    Stage {
        account: AccountId,
        upload: u64,
        part: u32,
        chunks: Vec<u32>,
    },
    Commit {
        account: AccountId,
        request: u64,
        live: Vec<u32>,
        files: Vec<NewFile>,
    },
    MakeDirectory {
        account: AccountId,
        request: u64,
        at: RemotePath,
        parents: bool,
    },
    Move {
        account: AccountId,
        request: u64,
        from: RemotePath,
        to: RemotePath,
        replace: bool,
    },
    Remove {
        account: AccountId,
        request: u64,
        at: RemotePath,
        recursive: bool,
        version: Option<bool>,
    },
    Join {
        invite: u8,
        secret: u8,
    },
    Start {
        node: u32,
        previous: Vec<u8>,
        incarnation: u8,
        highest: Option<u64>,
    },
    Begin {
        seconds: u64,
    },
    Manifest {
        account: AccountId,
        at: RemotePath,
        from: u64,
        limit: usize,
    },
    UnderCopied {
        after: Option<u64>,
        limit: usize,
    },
    CopiesOn {
        node: u32,
        from: u64,
        to: u64,
        limit: usize,
    },
    Wait {
        hours: u64,
    },
}

fn accounts() -> impl Strategy<Value = AccountId> {
    prop_oneof![6 => Just(A), 1 => Just(B)]
}

fn chunks() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0..4_u32, 0..4)
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
        1 => (proptest::option::of(numbers()), 0..4_usize)
            .prop_map(|(after, limit)| Step::UnderCopied { after, limit }),
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
        2 => (accounts(), requests(), paths(), any::<bool>(), select(vec![None, None, Some(true), Some(false)]))
            .prop_map(|(account, request, at, recursive, version)|
                Step::Remove { account, request, at, recursive, version }),
        2 => (accounts(), file_paths(), 0..3_u64, 0..4_usize).prop_map(
            |(account, at, from, limit)| Step::Manifest { account, at, from, limit }),
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

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![6 => chunk_steps(), 6 => name_steps(), 1 => other_steps()];
    // Something stands there already, so that more than refusals is compared.
    let start = [
        Step::Store { account: A, chunk: 0, nodes: vec![1, 2, 3] },
        Step::Store { account: A, chunk: 1, nodes: vec![1, 2] },
        Step::MakeDirectory { account: A, request: 50, at: path("/a"), parents: false },
    ];
    let steps = proptest::collection::vec(step, 1..60);
    steps.prop_map(move |steps| start.iter().cloned().chain(steps).collect())
}

pub(super) fn apply(catalog: &dyn Catalog, now: &mut WallTime, step: &Step) -> String {
    let show = |answer: &dyn std::fmt::Debug| format!("{answer:?}");
    let serial = |number: &u64| Serial(*number);
    let now_is = *now;
    match step {
        Step::Reserve { account, copies, length, chunks } => {
            let chunks: Vec<_> = chunks.iter().map(|number| (id(*number), *length)).collect();
            show(&catalog.reserve(*account, *copies, LATER, &chunks))
        }
        Step::Confirm { account, chunk, serial, length, node } => {
            let said = Confirmation {
                account: *account,
                id: id(*chunk),
                serial: Serial(serial.unwrap_or_default()),
                length: *length,
                wanted: 2,
                node: NodeId(*node),
                reason: *chunk as u8,
            };
            show(&catalog.confirm_copies(&[said], LATER))
        }
        Step::Store { account, chunk, nodes } => {
            let mut reserved =
                catalog.reserve(*account, 2, LATER, &[(id(*chunk), 1)]).expect("answers");
            let Ok(record) = reserved.remove(0) else { return "at another length".to_string() };
            let said: Vec<_> = nodes.iter().map(|n| confirmation(&record, NodeId(*n))).collect();
            show(&catalog.confirm_copies(&said, LATER))
        }
        Step::Lose { node, serials } => {
            let serials: Vec<_> = serials.iter().map(serial).collect();
            show(&catalog.lose_copies(NodeId(*node), &serials))
        }
        Step::Reconcile { node, from, to, held } => {
            let held: Vec<_> = held
                .iter()
                .map(|(serial, chunk)| Holding {
                    serial: Serial(*serial),
                    length: 1 + chunk / 4,
                    fingerprint: Holding::fingerprint_of(&id(*chunk)),
                })
                .collect();
            show(&catalog.reconcile(NodeId(*node), Serial(*from), Serial(*to), &held, LATER))
        }
        Step::Stage { account, upload, part, chunks } => {
            let chunks: Vec<_> = chunks.iter().map(|number| id(*number)).collect();
            show(&catalog.stage_part(*account, request(*upload), *part, &chunks, now_is))
        }
        Step::Commit { account, request: number, live: nodes, files } => {
            let (number, nodes) = (request(*number), live(nodes));
            let mut files = files.clone();
            for file in &mut files {
                if let Condition::Version(version) = &mut file.condition
                    && version.0 % 2 == 0
                {
                    *version = current(catalog, *account, &file.path);
                }
            }
            show(&catalog.commit_files(*account, number, now_is, &nodes, &files))
        }
        Step::MakeDirectory { account, request: number, at, parents } => {
            show(&catalog.make_directory(*account, request(*number), now_is, at, *parents))
        }
        Step::Move { account, request: number, from, to, replace } => {
            show(&catalog.move_entry(*account, request(*number), now_is, from, to, *replace))
        }
        Step::Remove { account, request: number, at, recursive, version } => {
            let version_asked = |is_current| match is_current {
                true => current(catalog, *account, at),
                false => Version(1),
            };
            let (number, version) = (request(*number), version.map(version_asked));
            show(&catalog.remove_entry(*account, number, now_is, at, *recursive, version, false))
        }
        Step::Join { invite, secret } => {
            show(&catalog.join_node(&[*invite; 32], &[*secret; 32], now_is))
        }
        Step::Start { node, previous, incarnation, highest } => {
            let start = NodeStart {
                previous: previous.iter().map(|n| Incarnation::from_bytes([*n; 16])).collect(),
                incarnation: Incarnation::from_bytes([*incarnation; 16]),
                address: "localhost:1".parse().expect("an address"),
                zone: format!("zone {incarnation}"),
                offered_bytes: 7,
                highest_serial: highest.map(Serial),
            };
            show(&catalog.start_node(NodeId(*node), &start))
        }
        Step::Begin { seconds } => {
            // So early that the clock adds few numbers, or none.
            let at = WallTime((1_577_836_800 + seconds / 39) * 1000);
            show(&catalog.begin_incarnation(Incarnation::from_bytes([*seconds as u8; 16]), at))
        }
        Step::Manifest { account, at, from, limit } => {
            show(&catalog.manifest(*account, current(catalog, *account, at), *from, *limit))
        }
        Step::UnderCopied { after, limit } => {
            show(&catalog.under_copied(after.as_ref().map(serial), *limit))
        }
        Step::CopiesOn { node, from, to, limit } => {
            show(&catalog.copies_on(NodeId(*node), Serial(*from), Serial(*to), *limit))
        }
        Step::Wait { hours } => {
            *now = *now + std::time::Duration::from_secs(hours * 3600);
            String::new()
        }
    }
}

/// The version of the file at `path`, or one of nothing.
fn current(catalog: &dyn Catalog, account: AccountId, path: &RemotePath) -> Version {
    match catalog.look_up(account, path).map(|entry| entry.kind) {
        Ok(EntryKind::File(info)) => info.version,
        _ => Version(2),
    }
}

/// All that can be read from a catalog, as text.
fn all_of(catalog: &dyn Catalog) -> Vec<String> {
    catalog.sync().expect("synced");
    let mut lines = vec![
        format!("{:?}", catalog.totals()),
        format!("{:?}", catalog.nodes()),
        format!("{:?}", catalog.under_copied(None, usize::MAX)),
    ];
    let ids: Vec<_> = (0..5).map(id).collect();
    lines.push(format!("{:?}", catalog.locate(A, &ids)));
    let mut open = vec![RemotePath::root()];
    while let Some(directory) = open.pop() {
        for entry in catalog.list(A, &directory, None, usize::MAX).expect("a directory") {
            let at = directory.join(&entry.name).expect("a good name");
            lines.push(format!("{at} {:?}", entry.kind));
            match entry.kind {
                EntryKind::Directory => open.push(at),
                EntryKind::File(info) => {
                    lines.push(format!("{:?}", catalog.manifest(A, info.version, 0, usize::MAX)));
                }
            }
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(2017),
        ..Default::default()
    })]

    #[test]
    fn the_engine_answers_as_the_model_does(steps in steps(), reopen_at in any::<Index>()) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let model = Desk::new(Box::new(MemoryCatalog::new("admin", &ADMIN_KEY)), None).catalog;
        let engine = SqliteCatalog::create(dir.path(), "admin", &ADMIN_KEY).expect("made");
        let engine = Desk::new(Box::new(engine), None).catalog;
        let synced_at = reopen_at.index(steps.len());
        let (mut one, mut other) = (NOW, NOW);
        for (place, step) in steps.iter().enumerate() {
            if place == synced_at {
                engine.sync().expect("synced");
            }
            let expected = apply(&*model, &mut one, step);
            prop_assert_eq!(apply(&*engine, &mut other, step), expected, "step {}: {:?}", place, step);
        }
        prop_assert_eq!(all_of(&*engine), all_of(&*model));
        drop(engine);
        let mut problems = check::check(dir.path()).expect("checked").problems;
        // Chunks and names of the second account are made without the account itself.
        problems.retain(|problem| !problem.ends_with("is of account 2, which is not"));
        prop_assert_eq!(problems, Vec::<String>::new());
    }
}
