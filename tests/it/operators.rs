//! What operators see of a running cluster: its status, its metrics, and whether files are whole.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{Process, TestCluster, bytes};

/// Where a server says that its metrics are.
fn metrics_address(server: &Process) -> String {
    let line = "metrics at http://";
    server.wait_for(line);
    let said = server.said();
    let (_, rest) = said.split_once(line).expect("it was waited for");
    rest.split('/').next().expect("an address").to_string()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn both_servers_say_their_metrics_over_http() {
    let mut cluster = TestCluster::start(0);
    cluster.main().stop();
    let address = cluster.address().to_string();
    let mut command = cluster.main_command(&address);
    let main = Process::start("main", command.args(["--metrics", "127.0.0.1:0"]));
    let at = metrics_address(&main);
    main.wait_for("ready");
    let node = cluster.add_node_with(&["--metrics", "127.0.0.1:0"]);
    cluster.cli().run_with(&["put", "--copies", "1", "-", "/file"], b"hello").ok();
    let answer = get(&at, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for line in ["p2pdfs_main_files 1", "p2pdfs_main_nodes{state=\"alive\"} 1"] {
        assert!(answer.contains(line), "{line} is not in:\n{answer}");
    }
    assert!(get(&at, "/").starts_with("HTTP/1.1 404"));
    let at = metrics_address(cluster.node(node));
    let answer = get(&at, "/metrics");
    for line in ["p2pdfs_node_chunks 1", "p2pdfs_node_received_bytes_total{from=\"client\"} 5"] {
        assert!(answer.contains(line), "{line} is not in:\n{answer}");
    }
}

#[test]
fn status_has_what_programs_rely_on() {
    let cluster = TestCluster::start(1);
    cluster.cli().run_with(&["put", "--copies", "1", "-", "/file"], b"hello").ok();
    let status = cluster.cli().json(&["admin", "status"]);
    for name in ["chunks", "under_copied_chunks", "single_copy_chunks", "unreadable_chunks"] {
        assert!(status[name].is_u64(), "{name} is not in {status}");
    }
    assert_eq!(status["nodes"][0]["node"], 1);
    assert_eq!(status["files"], 1);
    let nodes = cluster.cli().json(&["admin", "nodes"]);
    assert_eq!(nodes["nodes"][0]["state"], "alive");
}

#[test]
fn watching_the_status_goes_on_until_it_is_interrupted_and_ends_well() {
    let cluster = TestCluster::start(1);
    let command = &mut cluster.cli().command(&["admin", "status", "--watch"]);
    let mut watch = Process::start("watch", command);
    watch.wait_for("node  state");
    watch.signal("INT");
    assert_eq!(watch.wait().code(), Some(0), "{}", watch.said());
}

#[test]
fn verify_tells_a_whole_tree_from_one_with_a_node_away() {
    let mut cluster = TestCluster::start(2);
    let cli = cluster.cli();
    for at in 0..5 {
        let content = bytes(at, at as usize * 700_000);
        cli.run_with(&["put", "--copies", "2", "-", &format!("/tree/{at}")], &content).ok();
    }
    let whole = cli.json(&["verify", "/"]);
    assert_eq!(whole["totals"]["files"], 5);
    assert_eq!(whole["totals"]["whole"], 5);
    cluster.node(1).kill();
    let away = cli.run(&["verify", "--json", "/tree", "--patience", "1"]);
    assert_eq!(away.code, Some(4), "{}", away.stderr);
    let away: serde_json::Value = serde_json::from_slice(&away.stdout).expect("a document");
    // One of them is empty, and so has nothing that could be away.
    assert_eq!(away["totals"]["whole"], 1);
    assert_eq!(away["totals"]["unreachable"], 4);
    assert_eq!(away["files"][1]["problems"][0]["node"], 2);
    cli.run(&["verify", "/nope"]).failed(3, &["/nope", "hint:"]);
}
