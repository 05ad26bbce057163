//! Rows 10 and 11: disks that are full for real, of bytes or of files.

use std::path::PathBuf;
use std::process::Command;

use p2pdfs::wire::admin::StatusReply;

use crate::harness::{Setup, TestCluster, bytes};

/// A file system in memory, of so many bytes and files. Needs root.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where it cannot be made: said loudly, and with CI=true a failure.
    fn new(options: &str) -> Option<Tmpfs> {
        let tmpfs = Tmpfs(tempfile::TempDir::with_prefix("p2pdfs-full-").expect("a directory"));
        let options = ["-t", "tmpfs", "-o", options, "none"];
        let mounted = Command::new("mount").args(options).arg(tmpfs.0.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(tmpfs);
        }
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test needs root");
        eprintln!("NOT TESTED: this test needs root");
        None
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: after a failure something may still use it.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// One node on a disk that is too small for what it offers, and one with room.
fn beside_a_small_disk(options: &str, node: [&str; 2], fill: impl Fn(&TestCluster)) {
    let [space, segment] = node;
    let Some(disk) = Tmpfs::new(options) else { return };
    let setup = Setup::new(1).nodes_in(&disk.path()).space(space);
    let mut cluster = setup.node_args(&["--segment", segment]).start();
    cluster.nodes_elsewhere();
    cluster.add_node();
    cluster.wait_alive(2);
    let cli = cluster.cli();
    fill(&cluster);
    cluster.wait_status("the small one takes no more", is_full);
    // Storing goes on, on the other.
    let content = bytes(31, 9 << 20);
    cli.run_with(&["put", "--copies", "1", "-", "/more"], &content).ok();
    assert!(cli.run(&["cat", "/more"]).stdout == content);
    let witness = cluster.stop_and_check();
    witness.assert_whole();
}

#[test]
fn a_disk_that_is_full_in_earnest_costs_nothing_that_is_stored() {
    beside_a_small_disk("size=24M", ["1G", "256M"], |cluster| {
        for number in 0..12 {
            let path = format!("/file-{number}");
            let content = bytes(200 + number, 4 << 20);
            cluster.cli().run_with(&["put", "--copies", "1", "-", &path], &content).ok();
            assert!(cluster.cli().run(&["cat", &path]).stdout == content, "{path}");
        }
    });
}

#[test]
fn a_disk_that_takes_no_more_files_costs_nothing_that_is_stored() {
    // Each segment is a file, and both nodes get as many.
    beside_a_small_disk("size=300M,nr_inodes=14", ["250M", "4M"], |cluster| {
        for number in 0..12 {
            let path = format!("/file-{number}");
            let content = bytes(300 + number, 4 << 20);
            cluster.cli().run_with(&["put", "--copies", "1", "-", &path], &content).ok();
        }
    });
}

#[test]
fn a_limit_on_file_sizes_costs_nothing_that_is_stored() {
    let mut cluster = Setup::new(0).start();
    cluster.limit_file_bytes(Some(10 << 20));
    cluster.add_node();
    cluster.limit_file_bytes(None);
    cluster.add_node();
    cluster.wait_alive(2);
    let cli = cluster.cli();
    let files: Vec<_> = (0..12).map(|n| (format!("/file-{n}"), bytes(700 + n, 4 << 20))).collect();
    for (path, content) in &files {
        cli.run_with(&["put", "--copies", "1", "-", path], content).ok();
    }
    cluster.wait_status("the node takes no more", is_full);
    for (path, content) in &files {
        assert!(cli.run(&["cat", path]).stdout == *content, "{path}");
    }
    assert!(cluster.node(0).is_running());
    cluster.stop_and_check().assert_whole();
}

/// The main server's books cannot grow any more: it takes that for a failed disk, and loses nothing.
#[test]
fn a_limit_on_file_sizes_costs_the_main_server_nothing_that_it_acknowledged() {
    let mut cluster = Setup::new(1).start();
    let cli = cluster.cli();
    cluster.main().kill();
    cluster.limit_file_bytes(Some(3 << 20));
    cluster.start_main();
    cluster.limit_file_bytes(None);
    cluster.wait_alive(1);
    let put = |path: &str| {
        let content = bytes(800, 1000);
        cli.run_with(&["--patience", "2", "put", "--copies", "1", "-", path], &content).code
    };
    let paths: Vec<_> = (0..10_000).map(|n| format!("/{}{n}", "long".repeat(50))).collect();
    let stored = paths.iter().take_while(|path| put(path) == Some(0)).count();
    assert!((1..paths.len()).contains(&stored), "{stored} of {} were stored", paths.len());
    assert_eq!(cluster.main().wait().code(), Some(1), "it ends by itself, and says why");
    cluster.start_main();
    cluster.wait_alive(1);
    let witness = cluster.stop_and_check();
    let missing = paths[..stored].iter().filter(|path| !witness.files.contains_key(*path));
    assert_eq!(missing.count(), 0);
}

/// The first node has said that it has no room.
fn is_full(status: &StatusReply) -> bool {
    let first = status.nodes.iter().min_by_key(|node| node.node);
    first.is_some_and(|node| node.space.free_bytes == 0)
}

#[test]
fn on_a_full_disk_removing_still_works_and_makes_room() {
    let Some(disk) = Tmpfs::new("size=24M") else { return };
    let setup = Setup::new(1).nodes_in(&disk.path()).space("30M");
    let mut cluster = setup.node_args(&["--segment", "4M", "--trash-hold", "1ms"]).start();
    let cli = cluster.cli();
    let put = |path: &str, seed| {
        let content = bytes(seed, 3 << 20);
        cli.run_with(&["--patience", "1", "put", "--copies", "1", "-", path], &content).code
    };
    let stored = (0..12).take_while(|n| put(&format!("/file-{n}"), 400 + n) == Some(0)).count();
    assert!((2..12).contains(&stored), "{stored} of 12 files fit");
    for number in 0..stored - 1 {
        cli.ok(&["rm", "--purge", &format!("/file-{number}")]);
    }
    cluster.wait_status("they are deleted", |status| status.deletes.condemned_copies == 0);
    cluster.wait_status("there is room", |status| {
        status.nodes.iter().all(|node| node.space.free_bytes > 6 << 20)
    });
    assert_eq!(put("/after", 500), Some(0));
    let last = format!("/file-{}", stored - 1);
    assert!(cli.run(&["cat", &last]).stdout == bytes(400 + stored as u64 - 1, 3 << 20));
    cluster.stop_and_check();
}

#[test]
fn a_keeper_whose_disk_is_full_says_so_and_another_takes_its_place() {
    let Some(disk) = Tmpfs::new("size=120M") else { return };
    let mut cluster = Setup::new(1).nodes_in(&disk.path()).space("100M").start();
    cluster.nodes_elsewhere();
    let has = |status: &StatusReply, wanted: &[u32]| {
        let keepers: Vec<u32> = status.journal.keepers.iter().map(|keeper| keeper.0).collect();
        keepers == wanted && status.journal.lag_ms == 0
    };
    for _ in 0..2 {
        cluster.add_node();
    }
    cluster.wait_status("three keep the journal", |status| has(status, &[1, 2, 3]));
    cluster.add_node();
    cluster.wait_alive(4);
    // Somebody else takes all that is left.
    let mut other = std::fs::File::create(disk.path().join("other")).expect("a file");
    while std::io::Write::write_all(&mut other, &[7; 4096]).is_ok() {}
    // The last page of its journal may have room for a while yet.
    let mut number = 0;
    while !cluster.main().said().contains("a node cannot keep the journal node=1") {
        assert!(number < 200, "the journal grew and node 1 never said that it cannot keep it");
        let (path, content) = (format!("/file-{number}"), bytes(600 + number, 9000));
        cluster.cli().run_with(&["put", "--copies", "2", "-", &path], &content).ok();
        number += 1;
    }
    cluster.wait_status("the fourth keeps it, and all is safe", |status| has(status, &[2, 3, 4]));
    std::fs::remove_file(disk.path().join("other")).expect("there is room again");
    cluster.stop_and_check().assert_copies("/", 2);
}
