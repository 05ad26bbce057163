//! A stranger's client, written from protocol.md alone in Python's standard library.

use std::path::Path;
use std::process::Command;

use crate::harness::{TestCluster, bytes, clean_command, run};

#[test]
fn a_strangers_client_stores_reads_lists_and_resumes() {
    // Through no shim that needs more of the environment than its path.
    let python = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .ok()
        .filter(|output| output.status.success());
    let Some(python) = python else {
        eprintln!("NOT TESTED: there is no python3 here to run tests/mini_client.py");
        return;
    };
    let python = String::from_utf8_lossy(&python.stdout).trim().to_string();
    let mut cluster = TestCluster::start(3);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mini_client.py");
    let mini = |args: &[&str]| {
        let mut command = clean_command(&python, &cluster.home());
        command.arg(&script).arg(cluster.main_dir().join("client.toml")).args(args);
        run(&mut command, &[])
    };
    let content = bytes(111, (9 << 20) + 7);
    let (local, copy) = (cluster.path().join("local"), cluster.path().join("copy"));
    std::fs::write(&local, &content).expect("it can be written");
    mini(&["put", local.to_str().expect("plain"), "/from-python"]).ok();
    mini(&["get", "/from-python", copy.to_str().expect("plain")]).ok();
    assert!(std::fs::read(&copy).expect("it was got") == content);
    assert!(mini(&["list", "/"]).ok().contains("from-python"));

    // Each reads what the other stored.
    let cli = cluster.cli();
    assert!(cli.run(&["cat", "/from-python"]).stdout == content);
    cli.run_with(&["put", "-", "/from-rust"], &content).ok();
    mini(&["get", "/from-rust", copy.to_str().expect("plain")]).ok();
    assert!(std::fs::read(&copy).expect("it was got") == content);
    cluster.settle_and_check().assert_copies("/from-", 3);
}

#[test]
fn a_strangers_client_is_short() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mini_client.py");
    let text = std::fs::read_to_string(path).expect("tests/mini_client.py");
    let code = text.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(code < 100, "{code} lines");
    assert!(text.lines().all(|line| line.len() <= 100));
}
