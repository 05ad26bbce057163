//! Row 11: a sync of a node fails, and its disk takes everything again afterwards. The kernel may have
//! dropped what was to be written (fsync(2)), so a later sync that succeeds says nothing. Needs strace,
//! and leave to trace processes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use p2pdfs::wire::admin::StatusReply;

use crate::harness::{Process, TestCluster, bytes, is_at_rest, raw};

/// A tracer, by which the first sync that each thread of a process asks for fails and all others are
/// noted. It ends when this is dropped.
struct FailingSyncs {
    tracer: Process,
    log: PathBuf,
}

impl FailingSyncs {
    /// `None` where nothing can be traced: said loudly, and with CI=true a failure.
    fn of(process: u32, log: &Path) -> Option<FailingSyncs> {
        let is_there = Command::new("strace").arg("--version").stdout(Stdio::null()).status();
        let tracer = is_there.map_err(|e| format!("strace: {e}")).and_then(|_| {
            let mut command = Command::new("strace");
            command.args(["-f", "-y", "-e", "trace=fdatasync,fsync"]);
            command.args(["-e", "inject=fdatasync,fsync:error=EIO:when=1"]);
            command.arg("-o").arg(log).args(["-p", &process.to_string()]);
            let tracer = Process::start("strace", &mut command);
            tracer.line_after("strace: Process ").map(|_| tracer)
        });
        match tracer {
            Ok(tracer) => Some(FailingSyncs { tracer, log: log.to_path_buf() }),
            Err(why) => {
                let needs = "this test needs strace, and leave to trace processes";
                assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{needs}: {why}");
                eprintln!("NOT TESTED: {needs}: {why}");
                None
            }
        }
    }

    /// Lets go of the process. The syncs of segments that it asked for, each with whether it failed.
    fn end(mut self) -> Vec<(String, bool)> {
        self.tracer.stop();
        let log = std::fs::read_to_string(&self.log).expect("the tracer's log");
        let mut syncs: Vec<(String, bool)> = Vec::new();
        // A call that another thread's came between stands in two lines: by thread, which it is.
        let mut open: HashMap<&str, usize> = HashMap::new();
        for line in log.lines() {
            let Some((thread, call)) = line.trim().split_once(' ') else { continue };
            let has_failed = call.contains("INJECTED");
            if call.contains("sync resumed>") {
                let at = open.remove(thread).expect("it was begun before");
                syncs[at].1 = has_failed;
            } else if let Some((path, _)) =
                call.split_once("sync(").and_then(|(_, of)| of.split_once('<')?.1.split_once('>'))
            {
                if call.contains("<unfinished") {
                    open.insert(thread, syncs.len());
                }
                syncs.push((path.to_string(), has_failed));
            }
        }
        syncs.retain(|(path, _)| path.contains("/segments/"));
        syncs
    }
}

fn has_failed(status: &StatusReply) -> bool {
    let says_so =
        status.nodes.iter().any(|node| node.node == raw::node_at(0) && node.failed.is_some());
    says_so && status.notices.iter().any(|notice| notice.code == "failed_disk")
}

#[test]
fn a_sync_that_failed_once_is_not_tried_again_and_the_node_takes_itself_out_and_says_so() {
    let mut cluster = TestCluster::start(3);
    let cli = cluster.cli();
    let put = |copies: &str, path: &str| {
        let content = bytes(31, 100_000 + path.len());
        cli.run_with(&["put", "--copies", copies, "-", path], &content).ok();
    };
    put("3", "/before");
    let log = cluster.path().join("syncs");
    let Some(failing) = FailingSyncs::of(cluster.node(0).id(), &log) else { return };

    put("3", "/on-two-of-three");
    cluster.wait_status("it says that it cannot store", has_failed);
    cluster.wait_status("no copy counts there", |status| status.under_copied_chunks == 1);
    for number in 0..8 {
        put("2", &format!("/after-{number}"));
    }
    let mut main = cluster.connect().expect("the main server runs");
    let mut there = cluster.connect_to_node(0).expect("the node runs");
    let before = raw::open(&mut main, "/before").remove(0);
    let copy = before.copies.iter().find(|copy| copy.node == raw::node_at(0));
    let token = &copy.expect("it is on all three").token;
    let read = raw::fetch(&mut there, token, 0, None).expect("what it has can be read");
    assert_eq!(raw::id_of(&read), before.id);

    let syncs = failing.end();
    let first = syncs.iter().position(|(_, failed)| *failed).expect("a sync of a segment failed");
    let again: Vec<_> =
        syncs[first + 1..].iter().filter(|(path, _)| *path == syncs[first].0).collect();
    assert_eq!(again, [] as [&(String, bool); 0], "the same was synced again");

    // A start reads what the disk has, and not what the kernel remembers of it.
    cluster.node(0).kill();
    cluster.start_node(0);
    cluster.wait_status("all is well again", |status| !has_failed(status) && is_at_rest(status));
    let witness = cluster.stop_and_check();
    witness.assert_copies("/before", 3);
    witness.assert_copies("/on-two-of-three", 3);
    witness.assert_copies("/after-", 2);
}
