//! The witness: reads the directories of a stopped cluster by code that shares nothing with what
//! wrote them, and says whether the books and the disks agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use p2pdfs::catalog::check::{CheckedChunk, CheckedFile};
use p2pdfs::ids::NodeId;
use p2pdfs::wire::to_main::StatusReply;
use p2pdfs::{catalog, segments};

use super::cli::{clean_command, run};
use super::cluster::TestCluster;

/// What is on the disks of a stopped cluster.
pub struct Witness {
    /// Every file that can be seen, by path.
    pub files: BTreeMap<String, CheckedFile>,
    /// What each node's disk holds.
    pub nodes: BTreeMap<NodeId, segments::check::CheckReport>,
}

impl TestCluster {
    /// Stops everything and has the witness look: both programs' `check` find nothing wrong, and
    /// every chunk of every file is whole on every node that the catalog says has it.
    pub fn stop_and_check(&mut self) -> Witness {
        self.stop();
        for index in 0..self.node_count() {
            checked(self, env!("CARGO_BIN_EXE_p2pdfs-node"), self.node_dir(index));
        }
        let witness = self.look();
        witness.assert_whole();
        witness
    }

    /// The same, once nothing is left to be done: a stop in the middle of it would show that.
    pub fn settle_and_check(&mut self) -> Witness {
        self.wait_status("nothing is left to be done", is_at_rest);
        self.stop_and_check()
    }

    /// The witness of a stopped cluster, some of whose nodes may be damaged. The catalog is not.
    pub fn look(&self) -> Witness {
        let report = checked(self, env!("CARGO_BIN_EXE_p2pdfs-main"), &self.main_dir());
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
        let files = catalog::check::files(&self.main_dir()).expect("the catalog can be read");
        let nodes = (0..self.node_count()).map(|index| {
            let report = segments::check::check(self.node_dir(index)).expect("a store");
            (report.node, report)
        });
        Witness {
            files: files.into_iter().map(|file| (file.path.clone(), file)).collect(),
            nodes: nodes.collect(),
        }
    }
}

/// Nothing is left to be copied, trimmed, moved or deleted, but for what nobody knows, which waits.
pub fn is_at_rest(status: &StatusReply) -> bool {
    let copies = status.under_copied_chunks + status.repair.orders + status.repair.surplus_copies;
    let moves = status.repair.chunks_left + status.repair.moves_left;
    let deletes = status.deletes.condemned_copies - status.deletes.unexplained_copies;
    status.is_surveyed && copies + moves + deletes == 0
}

/// What a program's own `check DIR --json` says, when it finds nothing wrong.
fn checked(cluster: &TestCluster, program: &str, dir: &Path) -> serde_json::Value {
    let mut command = clean_command(program, &cluster.home());
    let text = run(command.arg("check").arg(dir).arg("--json"), &[]).ok();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

impl Witness {
    /// The file at this path.
    pub fn file(&self, path: &str) -> &CheckedFile {
        let names = || self.files.keys().take(20).collect::<Vec<_>>();
        self.files.get(path).unwrap_or_else(|| panic!("{path} is not among {:?}", names()))
    }

    /// The nodes on whose disks the chunk really is, whatever the catalog says.
    pub fn holders(&self, chunk: &CheckedChunk) -> BTreeSet<NodeId> {
        let holds = |report: &segments::check::CheckReport| {
            report.chunk(chunk.serial).is_some_and(|c| c.id == chunk.id && c.length == chunk.length)
        };
        self.nodes.iter().filter(|(_, report)| holds(report)).map(|(node, _)| *node).collect()
    }

    /// Every copy that the catalog counts is really there.
    pub fn assert_whole(&self) {
        for file in self.files.values() {
            let bytes: u64 = file.chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
            assert_eq!(bytes, file.size, "{} has other bytes than its size", file.path);
            for chunk in &file.chunks {
                let (counted, held): (BTreeSet<_>, _) =
                    (chunk.nodes.iter().copied().collect(), self.holders(chunk));
                assert!(!counted.is_empty(), "{} has a chunk without a copy", file.path);
                assert_eq!(counted.len(), chunk.nodes.len(), "{}: a node twice", file.path);
                assert!(
                    counted.is_subset(&held),
                    "{}: chunk {} should be on {counted:?} and is on {held:?}",
                    file.path,
                    chunk.serial
                );
            }
        }
    }

    /// Every chunk below `prefix` is on exactly `copies` different nodes.
    pub fn assert_copies(&self, prefix: &str, copies: usize) {
        let files: Vec<_> =
            self.files.values().filter(|file| file.path.starts_with(prefix)).collect();
        assert!(!files.is_empty(), "there is no file below {prefix}");
        for file in files {
            for chunk in &file.chunks {
                let nodes = self.holders(chunk);
                let counted = &chunk.nodes;
                assert_eq!(nodes.len(), copies, "{}: on {nodes:?}, {counted:?}", file.path);
                assert_eq!(chunk.nodes.len(), copies, "{}: {:?}", file.path, chunk.nodes);
            }
        }
    }
}
