//! `bench`: what it prints, and that nothing of it is left, however it ends.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cli, Process, TestCluster, run};

const WORKLOADS: [&str; 7] = [
    "put-large",
    "get-large",
    "put-tree",
    "put-small-1",
    "put-small-16",
    "get-small-1",
    "get-small-16",
];
/// Enough to be measured, and no more.
const SMALL: [&str; 6] = ["--size", "9M", "--files", "30", "--seconds", "0.05"];

/// A directory for everything that a bench may leave.
fn place() -> (TempDir, PathBuf) {
    let home = TempDir::with_prefix("p2pdfs-home-").expect("a temporary directory");
    let place = home.path().join("place");
    fs::create_dir(&place).expect("it can be made");
    (home, place)
}

fn assert_nothing_is_left(place: &Path) {
    let left: Vec<_> = fs::read_dir(place).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(crate::local_cluster::processes_on(place), Vec::<String>::new());
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {value}"))
}

fn assert_rows_are_whole(document: &Value, processes: &[&str]) {
    let rows = document["workloads"].as_array().expect("a list");
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().expect("a name")).collect();
    assert_eq!(names, WORKLOADS);
    for row in rows {
        let is_single = row["name"].as_str().is_some_and(|name| name.contains("small"));
        for figure in ["rate", "limit", "ratio", "cpu_seconds_per_gib", "cpu_us_per_operation"] {
            let (min, max) =
                (number(row, &format!("/{figure}/min")), number(row, &format!("/{figure}/max")));
            let median = number(row, &format!("/{figure}/median"));
            assert!(min > 0.0 && min <= median && median <= max, "{figure}: {row}");
        }
        assert_eq!(row["latency"].is_object(), is_single, "{row}");
        if is_single {
            let of = |name: &str| number(row, &format!("/latency/{name}"));
            assert!(0.0 < of("p50_us") && of("p50_us") <= of("p99_us"), "{row}");
            assert!(of("p99_us") <= of("max_us"), "{row}");
        }
        let seen = row["processes"].as_array().expect("a list");
        let names: Vec<_> = seen.iter().map(|of| of["name"].as_str().expect("a name")).collect();
        assert_eq!(names, processes);
        seen.iter().for_each(|of| assert!(number(of, "/peak_memory_bytes") > 1e6, "{row}"));
        assert_eq!(row["rounds"].as_array().map(Vec::len), Some(2), "{row}");
    }
}

#[test]
fn a_bench_of_its_own_cluster_measures_everything_and_leaves_nothing() {
    let (home, place) = place();
    let cli = Cli::new(home.path(), None);
    let mut command = cli.command(&["--json", "bench", "--local", "--quick", "--rounds", "2"]);
    let done = run(command.args(SMALL).arg("--dir").arg(&place), &[]);
    let document: Value = serde_json::from_str(&done.ok()).expect("one document");
    assert_rows_are_whole(&document, &["client", "main", "node 1", "node 2", "node 3"]);
    assert_eq!(document["cluster"]["kind"], "local");
    assert_eq!(document["sizes"]["size_bytes"], 9 << 20);
    // The large file twice, the tree, and every single file, in both rounds.
    let bytes = number(&document, "/compared/bytes");
    assert!(bytes > 2.0 * (2.0 * 9e6 + 30.0 * 4096.0), "{bytes}");
    assert_nothing_is_left(&place);
}

#[test]
fn a_bench_of_a_users_cluster_leaves_it_as_it_was() {
    let cluster = TestCluster::start(2);
    let (_home, place) = place();
    let cli = cluster.cli();
    cli.run_with(&["put", "--copies", "1", "-", "/kept"], b"hello").ok();
    let mut command = cli.command(&["bench", "--quick", "--only", "get-small-1,put-large"]);
    let text = run(command.args(SMALL).arg("--dir").arg(&place), &[]).ok();
    for word in ["put-large", "get-small-1", "MB/s", "client's own disk", "all the same"] {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains("put-tree"), "{text}");
    assert_eq!(cli.ok(&["ls", "/"]).trim(), "kept");
    assert_eq!(cli.ok(&["removed"]).matches("bench-").count(), 0);
    assert_nothing_is_left(&place);
}

#[test]
fn the_servers_of_up_are_watched_too() {
    let home = crate::local_cluster::Home::new();
    let cli = home.cli();
    cli.ok(&["up", "--dir", home.dir(), "--nodes", "2", "--detach", "--no-user-config"]);
    let config = home.cluster.join("client.toml");
    let config = config.to_str().expect("a plain path");
    let args = ["--config", config, "bench", "--quick", "--only", "put-small-1"];
    let document = cli.json(&[&args[..], &SMALL[..]].concat());
    assert_eq!(document["cluster"]["kind"], "up", "{document}");
    assert_eq!(document["cluster"]["limits_of"], "nodes", "{document}");
    let seen = document["workloads"][0]["processes"].as_array().expect("a list");
    let names: Vec<_> = seen.iter().map(|of| of["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["client", "main", "node 1", "node 2"]);
    let left = fs::read_dir(&home.cluster).expect("it is there").flatten();
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().contains("bench")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(cli.ok(&["--config", config, "ls", "/"]), "");
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let (home, place) = place();
    let local = Cli::new(home.path(), None);
    let cluster = TestCluster::start(2);
    let endless = ["--quick", "--rounds", "1000", "--only", "put-large,put-small-16,get-small-1"];
    let own = (local.command(&["bench", "--local"]), "INT");
    let users = (cluster.cli().command(&["bench"]), "TERM");
    for (mut command, signal) in [own, users] {
        let command = command.args(endless).args(SMALL).arg("--dir").arg(&place);
        let mut bench = Process::start("bench", command);
        // Then it is somewhere in the first round or a little later.
        bench.wait_for("round 1 of 1000");
        bench.signal(signal);
        let ended = bench.wait();
        assert_eq!(ended.code(), Some(130), "{}", bench.said());
        assert_nothing_is_left(&place);
    }
    assert_eq!(cluster.cli().ok(&["ls", "/"]), "");
}

#[test]
fn a_bench_that_cannot_be_says_why() {
    let (home, place) = place();
    let cli = Cli::new(home.path(), None);
    cli.run(&["bench"]).failed(2, &["client.toml", "hint:", "--local"]);
    cli.run(&["bench", "--local", "--copies", "4"]).failed(2, &["4 copies", "--nodes"]);
    cli.run(&["bench", "--local", "--only", "everything"]).failed(2, &["everything", "put-tree"]);
    cli.run(&["bench", "--local", "--seconds", "0"]).failed(2, &["seconds"]);
    let nowhere = place.join("nowhere");
    let nowhere = nowhere.to_str().expect("a plain path");
    cli.run(&["bench", "--local", "--dir", nowhere]).failed(1, &["nowhere", "--dir"]);
    assert_nothing_is_left(&place);
}
