//! Random sequences of operations on the model and on SQLite: every answer must be the same, and
//! the checker must find nothing wrong in what was written.

mod apply;
mod steps;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

pub(super) use self::apply::apply;
pub(super) use self::steps::steps;
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
        purge: bool,
    },
    Removed {
        account: AccountId,
        at: RemotePath,
        after: Option<u64>,
        limit: usize,
    },
    /// The one removed last, or an earlier one if there is.
    Undelete {
        account: AccountId,
        request: u64,
        at: RemotePath,
        earlier: bool,
    },
    /// In steps of `limit`, until `pages` are done or nothing is left.
    SetCopies {
        account: AccountId,
        request: u64,
        at: RemotePath,
        copies: u8,
        limit: usize,
        pages: u64,
    },
    SeenFiles {
        after: Option<u64>,
        limit: usize,
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
    Trim {
        copies: Vec<(u64, u32)>,
        live: Vec<u32>,
    },
    Expire {
        hours_ago: u64,
        limit: usize,
    },
    Collect {
        after: Option<u64>,
        limit: usize,
    },
    CondemnedOn {
        node: u32,
        after: Option<u64>,
        with_unknown: bool,
        limit: usize,
    },
    Deleted {
        node: u32,
        serials: Vec<u64>,
    },
    Strip {
        node: u32,
        after: Option<u64>,
        limit: usize,
    },
    SetStanding {
        node: u32,
        standing: Standing,
    },
    NoteTime {
        hours_ago: u64,
        is_confirmed: bool,
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

/// All that can be read from a catalog, as text.
fn all_of(catalog: &dyn Catalog) -> Vec<String> {
    catalog.sync().expect("synced");
    let mut lines = vec![
        format!("{:?}", catalog.totals()),
        format!("{:?}", catalog.nodes()),
        format!("{:?}", catalog.under_copied(None, usize::MAX)),
        format!("{:?}", catalog.survey(None, usize::MAX)),
        format!("{:?}", catalog.condemned_totals()),
        format!("{:?}", catalog.seen_files(None, usize::MAX)),
        format!("{:?}", catalog.removed(A, &RemotePath::root(), None, usize::MAX)),
        format!("{:?}", catalog.latest_time()),
    ];
    let serials: Vec<_> = (0..60).map(Serial).collect();
    lines.push(format!("{:?}", catalog.condemned_holders(&serials)));
    for node in 1..=4 {
        let never = WallTime(i64::MAX as u64);
        let condemned = catalog.condemned_on(NodeId(node), None, true, never, usize::MAX);
        lines.push(format!("{condemned:?}"));
    }
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
        cases: 128,
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
