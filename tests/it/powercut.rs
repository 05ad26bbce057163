//! Rows 17 and 11: the power is cut. Unsynced writes are gone, and so are directory entries whose
//! directory was not synced; every sync of the program is shown to be needed.

use std::fs::File;

use p2pdfs::durable::SyncPoint;
use p2pdfs::wire::to_main::StatusReply;

use crate::harness::disk::{EntryJournal, LoopDisk};
use crate::harness::mixed::{Expected, Mixed, times};
use crate::harness::{Random, Setup, TestCluster, bytes, is_at_rest};
use crate::recover;

const NODES: usize = 3;
/// Removed files go at once.
const QUICK: [&str; 4] = ["--keep-removed", "1ms", "--collect-every", "300ms"];
/// In a long run what was cut off goes, too: no number of cuts fills the disks.
const SHORT_LEASE: [&str; 2] = ["--upload-lease", "60s"];
/// The cuts of a run of the suite.
const CUTS: usize = 12;
/// Segments of this size are full soon, and compacted soon; and nothing is kept as trash.
const SMALL: [&str; 4] = ["--segment", "2M", "--trash-hold", "1ms"];

/// Loads whose files are all read after each cut; those of older ones are removed, so that neither the
/// small disks nor the time a cycle takes set a bound to a long run.
const KEPT_LOADS: usize = 4;
/// Half of the cycles wait until a node is dead, under a load of which all is read after each cut.
const HEARTBEAT_MS: u64 = 200;

/// Names a sync that the programs leave out.
const LEAVE_OUT: &str = "P2PDFS_LEAVE_OUT_SYNC";

/// The main server's disk or the nodes'.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Main,
    Nodes,
    Both,
}

#[test]
fn a_cut_loses_what_was_not_synced_and_nothing_else() {
    let Some(disk) = LoopDisk::new() else { return };
    let place = tempfile::TempDir::new().expect("a temporary directory");
    let journal = EntryJournal::new(place.path().join("journal"));
    let write = |name: &str| {
        std::fs::write(disk.path().join(name), name).expect("the disk is on");
        File::open(disk.path().join(name)).expect("it was just written")
    };
    let sync = |file: &File| rustix::fs::fsync(file).expect("the disk is on");
    sync(&write("synced"));
    sync(&File::open(disk.path()).expect("the disk is on"));
    // ext4 keeps this one's name all the same; the journal knows that nobody promised it.
    sync(&write("nameless"));
    write("unsynced");
    let created = |name: &str| format!("created {}\n", disk.path().join(name).display());
    let synced = format!("synced {}\n", disk.path().display());
    let lines = created("synced") + &synced + &created("nameless");
    std::fs::write(journal.path(), lines).expect("the journal is elsewhere");

    disk.cut();
    std::fs::write(disk.path().join("late"), "late").expect_err("the disk is off");
    disk.restore();
    assert_eq!(journal.take_back(), [disk.path().join("nameless")]);
    assert_eq!(std::fs::read(disk.path().join("synced")).expect("it was synced"), b"synced");
    for name in ["nameless", "unsynced", "late"] {
        let read = std::fs::read(disk.path().join(name)).unwrap_or_default();
        assert_eq!(read, b"", "{name} outlived the cut");
    }
}

#[test]
fn what_was_acknowledged_outlives_power_cuts() {
    let (Some(main_disk), Some(node_disk)) = (LoopDisk::new(), LoopDisk::new()) else { return };
    let mut random = Random::announced();
    let place = tempfile::TempDir::new().expect("a temporary directory");
    let journal = EntryJournal::new(place.path().join("journal"));
    let cuts = times("P2PDFS_POWER_CUTS", CUTS);
    let lease: &[&str] = if cuts > CUTS { &SHORT_LEASE } else { &[] };
    let mut setup = Setup::new(NODES)
        .main_in(&main_disk.path())
        .nodes_in(&node_disk.path())
        .heartbeat_ms(HEARTBEAT_MS)
        .main_args(&[&QUICK[..], lease].concat())
        .node_args(&SMALL)
        .env("P2PDFS_ENTRY_JOURNAL", journal.path());
    // To see it fail: for the programs, which otherwise see nothing of the test's environment.
    if let Some(name) = std::env::var_os(LEAVE_OUT) {
        setup = setup.env(LEAVE_OUT, name);
    }
    let mut cluster = setup.start();
    let mut removed = Expected::default();
    // The first stays to the end, through all cuts.
    let mut loads: Vec<Expected> = Vec::new();
    for cycle in 0..cuts {
        let cut = [Cut::Main, Cut::Nodes, Cut::Both][cycle % 3];
        let load = Mixed::start(&cluster, 3, 2, &mut random);
        disturb(&mut cluster, cycle, &load, &mut random);
        load.wait_for_more(1 + random.below(12) as usize);
        cluster.main().kill();
        (0..NODES).for_each(|index| cluster.node(index).kill());
        if cut != Cut::Nodes {
            main_disk.cut();
        }
        if cut != Cut::Main {
            node_disk.cut();
        }
        if cut != Cut::Nodes {
            main_disk.restore();
        }
        if cut != Cut::Main {
            node_disk.restore();
        }
        journal.take_back();
        cluster.start_main();
        (0..NODES).for_each(|index| cluster.start_node(index));
        cluster.wait_alive(NODES);
        loads.push(load.stop());
        loads.iter_mut().for_each(|load| load.assert_kept(&cluster));
        if loads.len() > KEPT_LOADS {
            let mut oldest = loads.remove(1);
            oldest.remove_all(&cluster);
            removed.extend(oldest);
        }
    }
    removed.assert_kept(&cluster);
    cluster.wait_status("every chunk has its copies, and no more", is_at_rest);
    let witness = cluster.stop_and_check();
    loads.push(removed);
    loads.iter().for_each(|load| load.assert_exact(&witness, 2));
}

/// So that the cut meets copies that are being made, or too many of them that are being trimmed: a
/// node is away until it is dead, or has come back from that. In the other cycles it meets what goes
/// on all the time: removed files are collected, segments compacted, and the catalog's snapshot,
/// which each start of the main server begins with, is on its way to the nodes.
fn disturb(cluster: &mut TestCluster, cycle: usize, load: &Mixed, random: &mut Random) {
    let index = random.below(NODES as u64) as usize;
    if cycle % 4 < 2 {
        return;
    }
    cluster.node(index).kill();
    let is_dead = |s: &StatusReply| s.nodes.iter().any(|node| node.state == "dead");
    cluster.wait_status("the node is dead", is_dead);
    if cycle % 4 == 3 {
        load.wait_for_more(random.below(20) as usize);
        cluster.start_node(index);
    }
}

#[test]
fn what_a_failed_disk_did_not_take_is_not_acknowledged() {
    let (Some(main_disk), Some(node_disk)) = (LoopDisk::new(), LoopDisk::new()) else { return };
    let setup = Setup::new(1).main_in(&main_disk.path()).nodes_in(&node_disk.path());
    let mut cluster = setup.start();
    let cli = cluster.cli();
    let put = |path: &str| {
        let content = bytes(22, 100_000 + path.len());
        cli.run_with(&["--patience", "2", "put", "--copies", "1", "-", path], &content)
    };
    put("/before").ok();

    node_disk.cut();
    assert_ne!(put("/node-failed").code, Some(0), "the node's disk was gone");
    cluster.node(0).kill();
    node_disk.restore();
    cluster.start_node(0);
    cluster.wait_alive(1);
    put("/between").ok();

    main_disk.cut();
    assert_ne!(put("/main-failed").code, Some(0), "the main server's disk was gone");
    // It cannot know any more what its disk holds, and ends.
    let status = cluster.main().wait();
    assert!(!status.success(), "it took the failure for an orderly end");
    main_disk.restore();
    cluster.start_main();
    cluster.wait_alive(1);
    let witness = cluster.stop_and_check();
    assert_eq!(witness.files.keys().collect::<Vec<_>>(), ["/before", "/between"]);
}

#[test]
fn each_named_sync_is_needed() {
    let Some(disk) = LoopDisk::new() else { return };
    assert_eq!(outlives_a_cut(&disk, "all", None), Ok(()), "with all syncs in place");
    assert_eq!(recovers_after_a_cut(&disk, "all-journal", None), Ok(()), "with all in place");
    for point in SyncPoint::ALL {
        let outcome = match point {
            // Needed only when the main server's disk is gone, too.
            SyncPoint::JournalData => recovers_after_a_cut(&disk, point.name(), Some(point)),
            _ => outlives_a_cut(&disk, point.name(), Some(point)),
        };
        let lost = outcome.expect_err(&format!("nothing is lost without {}", point.name()));
        eprintln!("without {}: {lost}", point.name());
    }
}

/// A new cluster on the disk, one acknowledged put, the power cut at once, everything started again:
/// is the file there and whole? One sync may be left out. The error is what was lost.
fn outlives_a_cut(disk: &LoopDisk, name: &str, without: Option<SyncPoint>) -> Result<(), String> {
    let place = tempfile::TempDir::new().expect("a temporary directory");
    let journal = EntryJournal::new(place.path().join("journal"));
    let directory = disk.path().join(name);
    std::fs::create_dir(&directory).expect("the disk is new");
    File::open(disk.path())
        .and_then(|root| rustix::fs::fsync(root).map_err(Into::into))
        .expect("the disk can be synced");
    let mut setup = Setup::new(1)
        .main_in(&directory)
        .nodes_in(&directory)
        .env("P2PDFS_ENTRY_JOURNAL", journal.path());
    if let Some(point) = without {
        setup = setup.env(LEAVE_OUT, point.name());
    }
    let mut cluster = setup.start();
    let content = bytes(21, 300_000);
    cluster.cli().run_with(&["put", "--copies", "1", "-", "/file"], &content).ok();
    cluster.main().kill();
    cluster.node(0).kill();
    disk.cut();
    disk.restore();
    journal.take_back();
    let held = is_whole(&mut cluster, &content);
    drop(cluster);
    held
}

fn is_whole(cluster: &mut TestCluster, content: &[u8]) -> Result<(), String> {
    cluster.try_start_main().map_err(|said| format!("the main server refuses: {said}"))?;
    cluster.try_start_node(0).map_err(|said| format!("the node refuses: {said}"))?;
    let back = cluster.cli().run(&["--patience", "2", "cat", "/file"]);
    match back.code {
        Some(0) if back.stdout == content => Ok(()),
        Some(0) => Err("other bytes".to_string()),
        _ => Err(back.stderr),
    }
}

/// A new cluster, one acknowledged put of which the journal has heard, the power cut at the nodes and
/// the main server's disk gone: is the file there and whole? One sync may be left out.
fn recovers_after_a_cut(
    disk: &LoopDisk,
    name: &str,
    without: Option<SyncPoint>,
) -> Result<(), String> {
    let place = tempfile::TempDir::new().expect("a temporary directory");
    let journal = EntryJournal::new(place.path().join("journal"));
    let directory = disk.path().join(name);
    std::fs::create_dir(&directory).expect("the disk is new");
    File::open(disk.path())
        .and_then(|root| rustix::fs::fsync(root).map_err(Into::into))
        .expect("the disk can be synced");
    let mut setup = Setup::new(2).nodes_in(&directory).env("P2PDFS_ENTRY_JOURNAL", journal.path());
    if let Some(point) = without {
        setup = setup.env(LEAVE_OUT, point.name());
    }
    let mut cluster = setup.start();
    let key = recover::key_file(&mut cluster);
    let content = bytes(23, 300_000);
    cluster.cli().run_with(&["put", "--copies", "2", "-", "/file"], &content).ok();
    cluster.wait_status("it is on two nodes", recover::is_caught_up);
    cluster.main().kill();
    (0..2).for_each(|index| cluster.node(index).kill());
    disk.cut();
    disk.restore();
    journal.take_back();
    std::fs::remove_dir_all(cluster.main_dir()).expect("its directory");
    (0..2).for_each(|index| cluster.start_node(index));
    let command = recover::recovery(&cluster, &key, 0, &[]);
    cluster.try_start_main_as(command).map_err(|said| format!("nothing is recovered: {said}"))?;
    let settings = cluster.main_dir().join("client.toml");
    std::fs::copy(settings, cluster.path().join("client.toml")).expect("new settings");
    let back = cluster.cli().run(&["--patience", "5", "cat", "/file"]);
    match back.code {
        Some(0) if back.stdout == content => Ok(()),
        Some(0) => Err("other bytes".to_string()),
        _ => Err(back.stderr),
    }
}
