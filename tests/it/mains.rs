//! Row 33: main servers that are not the one that the nodes knew: blank, restored from an old backup,
//! or a second one on a copy of the catalog.

use std::path::Path;
use std::process::Command;

use p2pdfs::wire::to_main::StatusReply;

use crate::harness::{Setup, TestCluster, bytes, raw, until};

const QUICK: [&str; 4] = ["--keep-removed", "1ms", "--collect-every", "300ms"];

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

fn put(cluster: &TestCluster, path: &str, content: &[u8]) {
    cluster.cli().run_with(&["put", "--copies", "2", "-", path], content).ok();
}

fn has_notice(status: &StatusReply, code: &str) -> bool {
    status.notices.iter().any(|notice| notice.code == code)
}

#[test]
fn a_main_server_from_an_old_backup_deletes_nothing_until_a_person_adopts_it() {
    let mut cluster = Setup::new(2).main_args(&QUICK).start();
    let (first, second) = (bytes(70, 300_000), bytes(71, 300_000));
    put(&cluster, "/first", &first);
    cluster.main().kill();
    let backup = cluster.path().join("backup");
    copy(&cluster.main_dir(), &backup);
    cluster.start_main();
    cluster.wait_alive(2);
    put(&cluster, "/second", &second);
    cluster.main().kill();
    copy(&backup, &cluster.main_dir());

    cluster.start_main();
    cluster.wait_status("it says that the nodes do not know it", |s| has_notice(s, "unadopted"));
    assert!(cluster.cli().run(&["cat", "/first"]).stdout == first, "reads go on");
    // It wants to delete, and would delete what it does not know.
    cluster.cli().ok(&["rm", "--purge", "/first"]);
    cluster.wait_status("it wants to delete", |s| s.deletes.condemned_copies > 0);
    (0..2).for_each(|index| cluster.node(index).kill());
    (0..2).for_each(|index| cluster.start_node(index));
    cluster.wait_status("it is not known still", |s| has_notice(s, "unadopted"));
    cluster.stop();
    assert_eq!(held(&cluster), 4, "something was deleted");

    cluster.start_main();
    (0..2).for_each(|index| cluster.start_node(index));
    cluster.cli().ok(&["admin", "adopt", "nodes"]);
    cluster.wait_alive(2);
    cluster.wait_status("what was removed is deleted", |status| {
        // What it does not know waits a day longer.
        let deletes = &status.deletes;
        !has_notice(status, "unadopted") && deletes.condemned_copies == deletes.unexplained_copies
    });
    put(&cluster, "/third", &bytes(72, 1000));
    cluster.stop_and_check();
}

/// The chunks on the disks of the nodes of a stopped cluster, each as often as it is there.
fn held(cluster: &TestCluster) -> usize {
    let nodes = (0..2).map(|n| p2pdfs::segments::check::check(cluster.node_dir(n)));
    nodes.map(|report| report.expect("a store").chunks.len()).sum()
}

#[test]
fn a_catalog_copied_while_its_main_server_ran_deletes_nothing_until_a_person_adopts_it() {
    let mut cluster = Setup::new(2).main_args(&QUICK).start();
    let content = bytes(76, 300_000);
    put(&cluster, "/before", &content);
    let double = cluster.path().join("double");
    copy(&cluster.main_dir(), &double);
    put(&cluster, "/after", &bytes(77, 300_000));
    put(&cluster, "/gone", &bytes(78, 300_000));
    cluster.cli().ok(&["rm", "--purge", "/gone"]);
    cluster.wait_status("what was removed is deleted", |s| {
        s.chunks == 2 && s.deletes.condemned_copies == 0
    });
    cluster.main().kill();
    copy(&double, &cluster.main_dir());

    cluster.start_main();
    cluster.wait_status("it says that nodes saw later books", |s| has_notice(s, "unadopted"));
    assert!(cluster.cli().run(&["cat", "/before"]).stdout == content, "reads go on");
    cluster.cli().ok(&["rm", "--purge", "/before"]);
    cluster.wait_status("it wants to delete", |s| s.deletes.condemned_copies == 2);
    // Neither a further start of it nor of the nodes makes it the one that they knew.
    cluster.main().kill();
    (0..2).for_each(|index| cluster.node(index).kill());
    cluster.start_main();
    (0..2).for_each(|index| cluster.start_node(index));
    cluster.wait_alive(2);
    cluster.wait_status("it is not adopted still", |s| {
        has_notice(s, "unadopted") && s.deletes.condemned_copies == 2
    });
    cluster.stop();
    assert_eq!(held(&cluster), 4, "something was deleted");

    cluster.start_main();
    (0..2).for_each(|index| cluster.start_node(index));
    cluster.cli().ok(&["admin", "adopt", "nodes"]);
    cluster.wait_status("what was removed is deleted", |status| {
        !has_notice(status, "unadopted") && status.deletes.condemned_copies == 0
    });
    put(&cluster, "/later", &bytes(79, 1000));
    // For good.
    cluster.stop();
    cluster.start_main();
    (0..2).for_each(|index| cluster.start_node(index));
    cluster.wait_alive(2);
    cluster.wait_status("nothing is to be adopted", |s| !has_notice(s, "unadopted"));
    cluster.stop_and_check();
}

#[test]
fn a_blank_main_server_at_the_address_gets_no_nodes_and_harms_none() {
    let mut cluster = TestCluster::start(2);
    let content = bytes(73, 300_000);
    put(&cluster, "/file", &content);
    let mut main = cluster.connect().expect("the main server runs");
    let chunk = raw::open(&mut main, "/file").remove(0);
    drop(main);
    cluster.main().kill();
    let kept = cluster.path().join("kept");
    std::fs::rename(cluster.main_dir(), &kept).expect("it can be moved");
    cluster.start_main();
    let refused = "not the secret of a node";
    (0..2).for_each(|index| cluster.node(index).wait_for(refused));
    assert_eq!(cluster.status().nodes.len(), 0);
    for copy in &chunk.copies {
        let index = raw::index_of(copy.node);
        let mut node = cluster.connect_to_node(index).expect("the node runs");
        let read = raw::fetch(&mut node, &copy.token, 0, None).expect("reads go on");
        assert!(read == content);
    }
    // The right one comes back, and all is as it was.
    cluster.main().kill();
    std::fs::remove_dir_all(cluster.main_dir()).expect("the blank one");
    std::fs::rename(&kept, cluster.main_dir()).expect("it can be moved back");
    cluster.start_main();
    cluster.wait_alive(2);
    assert!(cluster.cli().run(&["cat", "/file"]).stdout == content);
    cluster.stop_and_check().assert_copies("/file", 2);
}

#[test]
fn of_two_main_servers_on_one_catalog_only_one_can_delete() {
    let mut cluster = Setup::new(2).main_args(&QUICK).start();
    put(&cluster, "/file", &bytes(74, 300_000));
    // A copy of the running catalog, as a careless person would make it of a stopped one.
    cluster.main().kill();
    let double = cluster.path().join("double");
    copy(&cluster.main_dir(), &double);
    cluster.start_main();
    cluster.wait_alive(2);
    put(&cluster, "/other", &bytes(75, 300_000));
    // The second one takes the place of the first.
    cluster.main().kill();
    let first = cluster.path().join("first");
    std::fs::rename(cluster.main_dir(), &first).expect("it can be moved");
    std::fs::rename(&double, cluster.main_dir()).expect("it can be moved");
    cluster.start_main();
    cluster.wait_status("the nodes do not know it", |s| has_notice(s, "unadopted"));
    cluster.cli().ok(&["rm", "--purge", "/file"]);
    cluster.wait_status("it wants to delete", |s| s.deletes.condemned_copies > 0);
    // The first one comes back, and has everything.
    cluster.main().kill();
    std::fs::rename(cluster.main_dir(), &double).expect("it can be moved");
    std::fs::rename(&first, cluster.main_dir()).expect("it can be moved");
    cluster.start_main();
    cluster.wait_alive(2);
    until("both files can be read", || {
        let both = ["/file", "/other"].map(|path| cluster.cli().run(&["cat", path]).code);
        (both == [Some(0), Some(0)]).then_some(())
    });
    let witness = cluster.stop_and_check();
    witness.assert_copies("/", 2);
}
