//! Rows 17 and 11: the power is cut. Unsynced writes are gone, and so are directory entries whose
//! directory was not synced; every sync of the program is shown to be needed.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

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
/// From so many cuts on, every kind of work must have been met by one, and with every so many of them
/// the main server's disk is lost.
const LONG_RUN: usize = 100;
const LOST_EVERY: usize = 25;
/// Segments of this size are full soon, and compacted soon; and nothing is kept as trash.
const SMALL: [&str; 4] = ["--segment", "2M", "--trash-hold", "1ms"];

/// Loads whose files are all read after each cut; those of older ones are removed, so that neither the
/// small disks nor the time a cycle takes set a bound to a long run.
const KEPT_LOADS: usize = 4;
/// Three of eight cycles wait until a node is dead, under a load of which all is read after each cut.
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
    let place = tempfile::TempDir::new().expect("a temporary directory");
    let Some(power) = Power::new(place.path()) else { return };
    let mut random = Random::announced();
    let cuts = times("P2PDFS_POWER_CUTS", CUTS);
    let is_long = cuts >= LONG_RUN;
    let lease: &[&str] = if cuts > CUTS { &SHORT_LEASE } else { &[] };
    let mut setup = Setup::new(NODES)
        .main_in(&power.main.path())
        .nodes_in(&power.nodes.path())
        .heartbeat_ms(HEARTBEAT_MS)
        .main_args(&[&QUICK[..], lease].concat())
        .node_args(&SMALL)
        .env("P2PDFS_ENTRY_JOURNAL", power.entries.path());
    // To see it fail: for the programs, which otherwise see nothing of the test's environment.
    if let Some(name) = std::env::var_os(LEAVE_OUT) {
        setup = setup.env(LEAVE_OUT, name);
    }
    let mut cluster = setup.start();
    let key = recover::key_file(&mut cluster);
    let mut met = Met::default();
    let mut removed = Expected::default();
    // The first stays to the end, through all cuts.
    let mut loads: Vec<Expected> = Vec::new();
    for cycle in 0..cuts {
        let cut = [Cut::Main, Cut::Nodes, Cut::Both][cycle % 3];
        let load = Mixed::start(&cluster, 3, 2, &mut random);
        disturb(&mut cluster, cycle, &load, &mut random);
        met.look(&mut cluster, cycle % 4 == 0);
        loads.push(if is_long && cycle % LOST_EVERY == LOST_EVERY - 1 {
            met.count("recovery", true);
            cut_and_recover(&mut cluster, &power, cut, load, &key)
        } else {
            power.cut(&mut cluster, cut);
            if random.below(4) == 0 {
                met.count("start", cut_while_starting(&mut cluster, &power, cut, &mut random));
            }
            cluster.start_main();
            (0..NODES).for_each(|index| cluster.start_node(index));
            cluster.wait_alive(NODES);
            load.stop()
        });
        loads.iter_mut().for_each(|load| load.assert_kept(&cluster));
        if loads.len() > KEPT_LOADS {
            let mut oldest = loads.remove(1);
            oldest.remove_all(&cluster);
            removed.extend(oldest);
        }
        if (cycle + 1) % LOST_EVERY == 0 || cycle + 1 == cuts {
            eprintln!("cycles: {}, of them met {:?}", cycle + 1, met.0);
        }
    }
    assert!(!is_long || met.0.values().all(|count| *count > 0), "some were never met");
    removed.assert_kept(&cluster);
    cluster.wait_status("every chunk has its copies, and no more", is_at_rest);
    let witness = cluster.stop_and_check();
    loads.push(removed);
    loads.iter().for_each(|load| load.assert_exact(&witness, 2));
}

/// Everything is dead, and the power was cut: it is cut once more while all start. True when some server
/// was not ready yet.
fn cut_while_starting(
    cluster: &mut TestCluster,
    power: &Power,
    cut: Cut,
    random: &mut Random,
) -> bool {
    let mut was_early = cluster.kill_starting_main(random);
    for index in 0..NODES {
        was_early |= cluster.kill_starting_node(index, random);
    }
    power.cut(cluster, cut);
    was_early
}

/// The main server's disk does not come back after the cut, which is made when all that was
/// acknowledged is on two nodes: so nothing of that may be missing from what is recovered.
fn cut_and_recover(
    cluster: &mut TestCluster,
    power: &Power,
    cut: Cut,
    load: Mixed,
    key: &Path,
) -> Expected {
    let expected = load.stop();
    cluster.wait_status("it is on two nodes", recover::is_caught_up);
    power.cut(cluster, cut);
    std::fs::remove_dir_all(cluster.main_dir()).expect("its directory");
    (0..NODES).for_each(|index| cluster.start_node(index));
    recover::recover(cluster, key, &[]);
    cluster.wait_alive(NODES);
    expected
}

/// Has the cut meet, by turns: the catalog's snapshot, which each start of the main server begins with,
/// on its way to the nodes; what goes on all the time; copies that are being made; a node that is dead;
/// and one that has come back from that, so that there are too many copies. Each wait ends also when
/// what it waits for has passed too fast to be seen.
fn disturb(cluster: &mut TestCluster, cycle: usize, load: &Mixed, random: &mut Random) {
    let index = random.below(NODES as u64) as usize;
    let is_dead = |s: &StatusReply| s.nodes.iter().any(|node| node.state == "dead");
    load.wait_for_more(1 + random.below(12) as usize);
    match cycle % 4 {
        0 => {
            cluster.main().kill();
            cluster.start_main();
            let steps = ["begins a generation", "snapshot written", "is kept by nodes"];
            cluster.main().wait_for(steps[random.below(3) as usize]);
        }
        1 => {}
        2 => {
            cluster.node(index).kill();
            // Of two copies one is left: they are made from suspect on, and long done at dead.
            let is_left = |s: &StatusReply| {
                let is_silent = s.nodes.iter().any(|node| node.state == "suspect");
                is_silent && s.repair.chunks_left > 0
            };
            let is_early = cycle % 8 == 2;
            cluster.wait_status("copies are to be made, or the node is dead", |status| {
                is_early && is_left(status) || is_dead(status)
            });
            load.wait_for_more(random.below(3) as usize);
        }
        _ => {
            cluster.node(index).kill();
            cluster.wait_status("the node is dead", is_dead);
            load.wait_for_more(random.below(20) as usize);
            cluster.start_node(index);
            let last = load.ended() + 20;
            cluster.wait_status("there are too many copies", |status| {
                status.repair.surplus_copies > 0 || load.ended() >= last
            });
        }
    }
}

/// How many cuts met what.
#[derive(Default)]
struct Met(BTreeMap<&'static str, usize>);

impl Met {
    fn count(&mut self, what: &'static str, is_met: bool) {
        *self.0.entry(what).or_default() += usize::from(is_met);
    }

    /// What is under way now, just before a cut. Of collection and compaction only the ends can be seen:
    /// those since the last start count, whose syncs are as new.
    /// Where the main server is not new, too few keepers only lack the last changes, and no snapshot.
    fn look(&mut self, cluster: &mut TestCluster, is_main_new: bool) {
        let status = cluster.status();
        let said = cluster.main().said();
        let mut has_compacted = |i| cluster.node(i).said().contains("compacted segment=");
        let copies_ordered = said.contains("copy ordered");
        self.count("repair", status.repair.chunks_left > 0 && copies_ordered);
        self.count("trim", status.repair.surplus_copies > 0);
        self.count("deletion", status.deletes.condemned_copies > 0);
        self.count("snapshot", is_main_new && status.journal.keepers.len() < 2);
        self.count("collection", said.contains("collected versions="));
        self.count("compaction", (0..NODES).any(&mut has_compacted));
    }
}

/// The disks of a cluster, whose power can be cut.
struct Power {
    main: LoopDisk,
    nodes: LoopDisk,
    entries: EntryJournal,
}

impl Power {
    /// `place` is on a disk that stays on. `None` where there can be no such disks.
    fn new(place: &Path) -> Option<Power> {
        let entries = EntryJournal::new(place.join("journal"));
        Some(Power { main: LoopDisk::new()?, nodes: LoopDisk::new()?, entries })
    }

    /// Everything dies, and the power is cut and comes back.
    fn cut(&self, cluster: &mut TestCluster, cut: Cut) {
        cluster.main().kill();
        (0..NODES).for_each(|index| cluster.node(index).kill());
        let disks: &[&LoopDisk] = match cut {
            Cut::Main => &[&self.main],
            Cut::Nodes => &[&self.nodes],
            Cut::Both => &[&self.main, &self.nodes],
        };
        disks.iter().for_each(|disk| disk.cut());
        disks.iter().for_each(|disk| disk.restore());
        self.entries.take_back();
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
