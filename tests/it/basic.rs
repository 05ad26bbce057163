//! What a user does every day, over real processes: files go in and come back, names are listed,
//! moved and removed.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::harness::{TestCluster, bytes, clean_command, run, tree};

#[test]
fn files_come_back_as_they_were_even_with_a_node_stopped() {
    let mut cluster = TestCluster::start(3);
    let (cli, home) = (cluster.cli(), cluster.home());
    let mut rounds = 0;
    let mut back = |name: &str| {
        rounds += 1;
        let (original, copy) = (home.join(name), home.join(format!("{name}-{rounds}")));
        cli.ok(&["get", "-r", &format!("/{name}"), copy.to_str().expect("a plain path")]);
        tree::assert_same(&original, &copy);
    };
    for (name, copies) in [("three", "3"), ("two", "2")] {
        // Of bytes of its own: equal chunks are stored once, with the larger number of copies.
        tree::awkward(&home.join(name), copies.parse().expect("a number"));
        cli.ok(&["put", "-r", "--copies", copies, name, "/"]);
        back(name);
    }

    for stopped in 0..3 {
        cluster.stop_node(stopped);
        back("three");
        back("two");
        cluster.start_node(stopped);
        cluster.wait_alive(3);
    }

    let witness = cluster.settle_and_check();
    witness.assert_copies("/three/", 3);
    witness.assert_copies("/two/", 2);
}

#[test]
fn two_thousand_small_files_and_a_large_one_come_back() {
    let mut cluster = TestCluster::start(3);
    let (cli, original) = (cluster.cli(), cluster.path().join("tree"));
    tree::many(&original, 2000, 2);
    tree::write(&original.join("large"), &bytes(3, 64 << 20), 1_700_000_000_000, false);
    let copy = cluster.path().join("copy");
    cli.ok(&["put", "-r", original.to_str().expect("a plain path"), "/many"]);
    cli.ok(&["get", "-r", "/many", copy.to_str().expect("a plain path")]);
    tree::assert_same(&original, &copy);

    let witness = cluster.stop_and_check();
    assert_eq!(witness.files.len(), 2001);
    witness.assert_copies("/many/", 3);
}

#[test]
fn names_are_listed_moved_and_removed() {
    let mut cluster = TestCluster::start(2);
    let (cli, file) = (cluster.cli(), cluster.path().join("notes.txt"));
    tree::write(&file, b"hello, disks", 1_600_000_000_123, true);
    let local = file.to_str().expect("a plain path");
    cli.ok(&["mkdir", "/docs"]);
    cli.ok(&["put", "--copies", "2", local, "/docs/notes.txt"]);
    assert!(cli.ok(&["ls", "/"]).contains("docs"));
    assert!(cli.ok(&["ls", "/docs"]).contains("notes.txt"));
    let stat = cli.json(&["stat", "/docs/notes.txt"]).to_string();
    assert!(stat.contains("\"size\":12"), "{stat}");
    assert!(stat.contains("1600000000123"), "{stat}");

    cli.ok(&["mv", "/docs/notes.txt", "/docs/moved.txt"]);
    cli.run(&["stat", "/docs/notes.txt"]).failed(3, &["/docs/notes.txt"]);
    assert_eq!(cli.run(&["cat", "/docs/moved.txt"]).stdout, b"hello, disks");
    cli.run(&["rm", "/docs"]).failed(1, &["/docs"]);
    cli.ok(&["rm", "/docs/moved.txt"]);
    cli.run(&["cat", "/docs/moved.txt"]).failed(3, &["/docs/moved.txt"]);
    cli.ok(&["rm", "-r", "/docs"]);
    cli.run(&["ls", "/docs"]).failed(3, &["/docs"]);
    assert!(cluster.stop_and_check().files.is_empty());
}

#[test]
fn standard_input_and_output_are_files_too() {
    let mut cluster = TestCluster::start(2);
    let cli = cluster.cli();
    for (name, size) in [("/empty", 0), ("/small", 77), ("/chunks", (9 << 20) + 1)] {
        let content = bytes(size as u64, size);
        cli.run_with(&["put", "--copies", "2", "-", name], &content).ok();
        for args in [["cat", name].as_slice(), &["get", name, "-"]] {
            let back = cli.run(args);
            assert_eq!(back.code, Some(0), "{}", back.stderr);
            assert!(back.stdout == content, "{args:?} printed other bytes");
        }
    }
    assert_eq!(cluster.stop_and_check().files.len(), 3);
}

#[test]
fn a_new_content_replaces_the_old_one_whole() {
    let mut cluster = TestCluster::start(2);
    let cli = cluster.cli();
    for content in [b"first".as_slice(), b"second, and longer", b"3"] {
        cli.run_with(&["put", "--copies", "2", "-", "/file"], content).ok();
        assert_eq!(cli.run(&["cat", "/file"]).stdout, content);
    }
    assert_eq!(cluster.stop_and_check().file("/file").size, 1);
}

#[test]
fn links_special_files_and_names_that_are_no_text_are_named_and_skipped() {
    let mut cluster = TestCluster::start(2);
    let (cli, original) = (cluster.cli(), cluster.path().join("tree"));
    tree::write(&original.join("plain"), b"plain", 0, false);
    std::os::unix::fs::symlink("plain", original.join("a-link")).expect("a link");
    run(clean_command("mkfifo", &cluster.home()).arg(original.join("a-pipe")), &[]).ok();
    // In the message such a name must not break the line.
    fs::write(original.join("new\nline"), b"two lines").expect("ext4 takes any bytes");
    let foreign = std::ffi::OsStr::from_bytes(b"foreign-\xff");
    fs::write(original.join(foreign), b"foreign").expect("ext4 takes any bytes");

    let put = cli.run(&["put", "-r", "--copies", "2", original.to_str().expect("plain"), "/t"]);
    put.failed(1, &["a-link", "a-pipe", "foreign-", "new\\nline"]);
    assert_eq!(cli.run(&["cat", "/t/plain"]).stdout, b"plain");
    assert_eq!(cluster.stop_and_check().files.len(), 1);
}
