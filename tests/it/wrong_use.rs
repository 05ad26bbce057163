//! Wrong use teaches: what failed, on what, why, and what to type next.

use std::fs;

use crate::harness::{Cli, Process, Setup, TestCluster, bytes, clean_command, run};

/// An address on which nobody listens.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn without_a_main_server_it_says_so() {
    let mut cluster = TestCluster::start(1);
    let (cli, address) = (cluster.cli(), cluster.address().to_string());
    cluster.stop();
    cli.run(&["ls", "/"]).failed(4, &[&address, "hint:"]);
    cli.run(&["--main", NOBODY, "ls", "/"]).failed(4, &[NOBODY, "hint:"]);
}

#[test]
fn a_wrong_address_is_told_from_a_server_that_is_down() {
    let cluster = TestCluster::start(1);
    let cli = cluster.cli();
    cli.run(&["--main", "nonsense", "ls", "/"]).failed(2, &["nonsense", "HOST:PORT"]);
    let node = cluster.node_address(0).to_string();
    let run = cli.run(&["--main", &node, "ls", "/"]);
    assert!(matches!(run.code, Some(1 | 2 | 4)), "{:?}", run.code);
    assert!(run.stderr.contains(&node) && run.stderr.contains("main server"), "{}", run.stderr);
}

#[test]
fn without_settings_it_says_where_they_come_from() {
    let home = tempfile::TempDir::new().expect("a temporary directory");
    let cli = Cli::new(home.path(), None);
    cli.run(&["ls", "/"]).failed(2, &["client.toml", "hint:", "p2pdfs up"]);
    assert_eq!(fs::read_dir(home.path()).expect("it is there").count(), 0, "something was made");
}

#[test]
fn a_wrong_key_is_not_allowed() {
    let cluster = TestCluster::start(1);
    let key = cluster.path().join("key");
    fs::write(&key, "ab".repeat(32)).expect("it can be written");
    let key = key.to_str().expect("a plain path");
    cluster.cli().run(&["--key-file", key, "ls", "/"]).failed(6, &["key", "hint:"]);
}

#[test]
fn without_a_node_nothing_can_be_stored() {
    let cluster = TestCluster::start(0);
    fs::write(cluster.home().join("notes.txt"), b"hello").expect("it can be written");
    let put = cluster.cli().run(&["put", "notes.txt", "/"]);
    put.failed(4, &["notes.txt", "no node", "hint:", "p2pdfs-node"]);
}

#[test]
fn with_too_few_nodes_it_says_how_many_and_offers_fewer_copies() {
    let cluster = TestCluster::start(1);
    let cli = cluster.cli();
    fs::write(cluster.home().join("notes.txt"), b"hello").expect("it can be written");
    let put = cli.run(&["put", "--copies", "3", "notes.txt", "/file"]);
    put.failed(4, &["notes.txt", "2 copies", "1 node", "hint:", "--copies 1"]);
    cli.run(&["stat", "/file"]).failed(3, &["/file"]);
    cli.run_with(&["put", "--copies", "1", "-", "/file"], b"hello").ok();
}

#[test]
fn a_full_node_is_named_with_its_numbers() {
    let mut cluster = Setup::new(1).space("24M").start();
    let cli = cluster.cli();
    fs::write(cluster.home().join("large.bin"), bytes(121, 40 << 20)).expect("it can be written");
    let large = cli.run(&["--patience", "3", "put", "--copies", "1", "large.bin", "/large"]);
    large.failed(4, &["large.bin", "node 1", "MiB", "hint:"]);
    cli.run(&["stat", "/large"]).failed(3, &["/large"]);
    // What there is room for can still be stored, and what was stored can be read.
    cli.run_with(&["put", "--copies", "1", "-", "/small"], b"hello").ok();
    assert_eq!(cli.run(&["cat", "/small"]).stdout, b"hello");
    cluster.stop_and_check();
}

#[test]
fn a_missing_file_is_named() {
    let cluster = TestCluster::start(1);
    let cli = cluster.cli();
    cli.run(&["put", "no-such-file", "/file"]).failed(3, &["no-such-file"]);
    cli.run(&["get", "/no-such-file", "local"]).failed(3, &["/no-such-file"]);
    cli.run(&["cat", "/no-such-file"]).failed(3, &["/no-such-file"]);
    cli.run(&["ls", "/no/such"]).failed(3, &["/no"]);
    cli.run(&["mv", "/no-such-file", "/other"]).failed(3, &["/no-such-file"]);
    cli.run(&["rm", "/no-such-file"]).failed(3, &["/no-such-file"]);
}

#[test]
fn a_directory_needs_the_flag_for_it() {
    let cluster = TestCluster::start(1);
    let cli = cluster.cli();
    let local = cluster.path().join("directory");
    fs::create_dir(&local).expect("it can be made");
    let put = cli.run(&["put", local.to_str().expect("plain"), "/directory"]);
    assert!(matches!(put.code, Some(1 | 2)), "{:?}: {}", put.code, put.stderr);
    assert!(put.stderr.contains("directory") && put.stderr.contains("-r"), "{}", put.stderr);
}

#[test]
fn a_bad_flag_is_a_usage_error_in_every_program() {
    let home = tempfile::TempDir::new().expect("a temporary directory");
    let programs = [
        env!("CARGO_BIN_EXE_p2pdfs"),
        env!("CARGO_BIN_EXE_p2pdfs-main"),
        env!("CARGO_BIN_EXE_p2pdfs-node"),
    ];
    for program in programs {
        let wrong = run(clean_command(program, home.path()).arg("--no-such-flag"), &[]);
        wrong.failed(2, &["--no-such-flag", "--help"]);
        let help = run(clean_command(program, home.path()).arg("--help"), &[]).ok();
        assert!(help.contains("Examples"), "{program} --help has no examples");
        run(clean_command(program, home.path()).arg("--version"), &[]).ok();
    }
    let cli = Cli::new(home.path(), None);
    cli.run(&["put", "--copies", "0", "a", "/a"]).failed(2, &["--copies"]);
    cli.run(&["put", "--copies", "17", "a", "/a"]).failed(2, &["--copies"]);
}

#[test]
fn servers_refuse_to_start_where_they_cannot_serve() {
    let cluster = TestCluster::start(0);
    let refused = |command: &mut std::process::Command, words: &[&str]| {
        let mut process = Process::start("a server", command);
        let code = process.wait().code();
        assert!(code.is_some_and(|code| code != 0), "{code:?}: {}", process.said());
        for word in words {
            assert!(process.said().contains(word), "{word:?} is not in: {}", process.said());
        }
    };
    let main = || clean_command(env!("CARGO_BIN_EXE_p2pdfs-main"), &cluster.home());
    let node = || clean_command(env!("CARGO_BIN_EXE_p2pdfs-node"), &cluster.home());
    let taken = cluster.address().to_string();
    refused(main().args(["--dir", "m1", "--listen", &taken]), &[&taken]);
    let open = ["--dir", "m2", "--listen", "0.0.0.0:0"];
    refused(main().args(open), &["0.0.0.0", "--insecure-plaintext"]);
    let join = ["--dir", "n1", "--main", &taken, "--space", "1G"];
    refused(node().args(join), &["invite", "hint:"]);
    let other = "cd".repeat(32);
    refused(node().args(join).env("P2PDFS_NODE_INVITE", other), &["invite", "hint:"]);
    refused(node().args(["--dir", "n2", "--space", "1G"]), &["--main"]);
    refused(node().args(["--dir", "n3", "--main", &taken]), &["--space"]);
}

#[test]
fn wrong_words_to_the_commands_for_operators_are_usage_errors() {
    let home = tempfile::TempDir::new().expect("a temporary directory");
    // Nobody listens there: whatever is wrong must be found before anybody is asked.
    let cli = Cli::new(home.path(), None);
    let key = home.path().join("key");
    fs::write(&key, "ab".repeat(32)).expect("it can be written");
    let run = |args: &[&str]| {
        let key = key.to_str().expect("a plain path");
        cli.run(&[&["--main", NOBODY, "--key-file", key, "--patience", "0"], args].concat())
    };
    run(&["admin", "drain", "node3"]).failed(2, &["node3", "number"]);
    run(&["admin", "drain", "3", "--undo", "--wait"]).failed(2, &["--undo", "--wait"]);
    run(&["admin", "what-if"]).failed(2, &["--stop"]);
    run(&["admin", "what-if", "--stop", "3,x"]).failed(2, &["x", "number"]);
    run(&["admin", "adopt", "everything"]).failed(2, &["everything", "silence"]);
    run(&["admin", "explain", "blake3:12"]).failed(2, &["blake3:12", "hint:"]);
    run(&["admin", "explain", "/a", "/b"]).failed(2, &["/a /b", "hint:"]);
    run(&["admin", "forget", "3"]).failed(2, &["node 3", "--yes"]);
    run(&["copies", "0", "/a"]).failed(2, &["0"]);
    run(&["copies", "17", "/a"]).failed(2, &["17"]);
    run(&["copies", "3"]).failed(2, &["PATH"]);
    run(&["verify"]).failed(2, &["PATH"]);
    run(&["undelete", "/a/../b"]).failed(2, &["/a/../b"]);
    // And what is right goes on to the main server, which is not there.
    for right in [
        &["admin", "status"][..],
        &["admin", "nodes"],
        &["admin", "drain", "3"],
        &["admin", "forget", "3", "--yes"],
        &["admin", "what-if", "--stop", "3,7", "--zone", "b"],
        &["admin", "adopt", "silence"],
        &["admin", "explain", "node", "3"],
        &["copies", "3", "/a"],
        &["removed"],
        &["undelete", "/a", "--version", "7"],
        &["rm", "--purge", "/a"],
        &["verify", "/"],
    ] {
        run(right).failed(4, &[NOBODY, "hint:"]);
    }
}

#[test]
fn every_command_has_help_with_an_example_and_is_completed() {
    let home = tempfile::TempDir::new().expect("a temporary directory");
    let cli = Cli::new(home.path(), None);
    let script = cli.ok(&["completions", "bash"]);
    for command in ["bench", "copies", "removed", "undelete", "verify", "rm"] {
        assert!(cli.ok(&[command, "--help"]).contains("Example"), "{command} has no example");
        assert!(script.contains(command), "{command} is not completed");
    }
    for command in ["status", "nodes", "explain", "what-if", "drain", "forget", "adopt", "invite"] {
        let help = cli.ok(&["admin", command, "--help"]);
        assert!(help.contains("Example"), "admin {command} has no example");
        assert!(script.contains(command), "admin {command} is not completed");
    }
}

#[test]
fn metrics_are_not_served_to_other_machines_unasked() {
    let home = tempfile::TempDir::new().expect("a temporary directory");
    let mut main = clean_command(env!("CARGO_BIN_EXE_p2pdfs-main"), home.path());
    let open = ["--dir", "m", "--listen", "127.0.0.1:0", "--metrics", "0.0.0.0:0"];
    run(main.args(open), &[]).failed(2, &["0.0.0.0", "--insecure-plaintext"]);
    assert!(!home.path().join("m").exists(), "something was made");
}
