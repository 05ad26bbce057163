//! Rows 14 and 15: a directory in use, an old copy of one, and a disk that is not mounted.

use std::fs;
use std::path::Path;

use crate::harness::{Process, TestCluster, bytes, clean_command, run};

fn copy(from: &Path, to: &Path, cluster: &TestCluster) {
    let mut command = clean_command("cp", &cluster.home());
    run(command.arg("-a").arg(from).arg(to), &[]).ok();
}

#[test]
fn a_directory_serves_one_process_at_a_time() {
    let mut cluster = TestCluster::start(1);
    let second = cluster.main_command("127.0.0.1:0");
    let second_node = cluster.node_command(cluster.node_dir(0));
    for mut command in [second, second_node] {
        let mut process = Process::start("the second", &mut command);
        let code = process.wait().code();
        assert!(matches!(code, Some(1 | 4)), "{code:?}: {}", process.said());
        assert!(process.said().contains("another process"), "{}", process.said());
    }
    for (program, dir) in [
        (env!("CARGO_BIN_EXE_p2pdfs-main"), cluster.main_dir()),
        (env!("CARGO_BIN_EXE_p2pdfs-node"), cluster.node_dir(0).to_path_buf()),
    ] {
        let mut check = clean_command(program, &cluster.home());
        let check = run(check.arg("check").arg(dir), &[]);
        assert_ne!(check.code, Some(0), "check read a directory in use");
    }
    cluster.stop_and_check();
}

#[test]
fn an_old_copy_of_a_nodes_directory_is_refused() {
    let mut cluster = TestCluster::start(2);
    let (dir, old) = (cluster.node_dir(0).to_path_buf(), cluster.path().join("backup"));
    cluster.stop_node(0);
    copy(&dir, &old, &cluster);
    cluster.start_node(0);
    cluster.wait_alive(2);
    cluster.cli().run_with(&["put", "--copies", "2", "-", "/file"], &bytes(81, 9000)).ok();

    // Beside the running one: two nodes with one identity.
    let mut twin = Process::start("the twin", &mut cluster.node_command(&old));
    assert_eq!(twin.wait().code(), Some(6), "{}", twin.said());
    assert!(twin.said().contains("copy"), "{}", twin.said());
    cluster.wait_alive(2);

    // In place of it: restored from a backup.
    cluster.stop_node(0);
    let real = cluster.path().join("real");
    fs::rename(&dir, &real).expect("it can be moved");
    copy(&old, &dir, &cluster);
    let said = cluster.try_start_node(0).expect_err("a stale directory");
    assert!(said.contains("copy"), "{said}");

    fs::remove_dir_all(&dir).expect("the copy can go");
    fs::rename(&real, &dir).expect("it can be moved");
    cluster.start_node(0);
    cluster.wait_alive(2);
    cluster.settle_and_check().assert_copies("/file", 2);
}

#[test]
fn an_empty_directory_in_place_of_a_nodes_is_refused() {
    let mut cluster = TestCluster::start(1);
    cluster.cli().run_with(&["put", "--copies", "1", "-", "/file"], &bytes(82, 9000)).ok();
    cluster.stop_node(0);
    let (dir, away) = (cluster.node_dir(0).to_path_buf(), cluster.path().join("away"));
    fs::rename(&dir, &away).expect("it can be moved");
    for with_all_flags in [false, true] {
        fs::create_dir_all(&dir).expect("a mount point");
        let mut command = cluster.node_command(&dir);
        if with_all_flags {
            command.args(["--main", cluster.address().as_str(), "--space", "1G"]);
        }
        let mut process = Process::start("the empty one", &mut command);
        let code = process.wait().code();
        assert!(code.is_some_and(|code| code != 0), "{}", process.said());
        assert!(process.said().contains("invite"), "{}", process.said());
        assert_eq!(cluster.status().nodes.len(), 1, "it joined as a new node");
        fs::remove_dir_all(&dir).expect("the mount point can go");
    }
    fs::rename(&away, &dir).expect("it can be moved");
    cluster.start_node(0);
    cluster.wait_alive(1);
    cluster.settle_and_check().assert_copies("/file", 1);
}

#[test]
fn a_nodes_directory_without_its_segments_is_refused() {
    let mut cluster = TestCluster::start(1);
    cluster.cli().run_with(&["put", "--copies", "1", "-", "/file"], &bytes(83, 9000)).ok();
    cluster.stop_node(0);
    let segments = cluster.node_dir(0).join("segments");
    let away = cluster.path().join("away");
    fs::rename(&segments, &away).expect("it can be moved");
    let said = cluster.try_start_node(0).expect_err("its segments are gone");
    assert!(said.contains("segments"), "{said}");
    // It did not make a new one in their place.
    let _ = fs::remove_dir(&segments);
    fs::rename(&away, &segments).expect("it can be moved");
    cluster.start_node(0);
    cluster.wait_alive(1);
    cluster.settle_and_check().assert_copies("/file", 1);
}
