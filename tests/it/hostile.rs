//! Rows 1, 2, 3, 8, 9, 25 and 26: peers that send anything at all.

use p2pdfs::wire::to_main::Status;

use crate::harness::raw::Bare;
use crate::harness::{Setup, TestCluster, bytes, until};

/// Resident memory of a process, at its highest, in MiB.
fn peak_memory_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux says so");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kib.expect("a number") / 1024
}

fn both_servers(cluster: &mut TestCluster) -> [(String, u32); 2] {
    let main = (cluster.address().to_string(), cluster.main().id());
    [main, (cluster.node_address(0).to_string(), cluster.node(0).id())]
}

#[test]
fn lengths_over_the_limits_are_refused_before_memory_is_taken() {
    let mut cluster = TestCluster::start(1);
    for (address, process) in both_servers(&mut cluster) {
        let before = peak_memory_mib(process);
        for head in [[0xff; 8], *b"\0\0\0\x02\xff\xff\xff\xff", *b"\0\x10\0\x01\0\0\0\0"] {
            for _ in 0..20 {
                let mut bare = Bare::dial(&address);
                bare.write(&head);
                assert_eq!(bare.fault(), "too_large", "{head:?}");
                assert!(bare.is_closed());
            }
        }
        let more = peak_memory_mib(process) - before;
        assert!(more < 16, "{more} MiB more memory after lengths of 4 GiB");
    }
    cluster.stop_and_check();
}

#[test]
fn announced_bytes_that_never_come_take_no_memory() {
    let mut cluster = TestCluster::start(1);
    let key = String::from(cluster.key());
    for (address, process) in both_servers(&mut cluster) {
        let before = peak_memory_mib(process);
        let waiting: Vec<Bare> = (0..50)
            .map(|_| {
                let mut bare = Bare::dial(&address);
                bare.hello(Some(&key));
                bare.write(b"\0\0\0\x11\x01\0\0\0{\"store\":{\"chun");
                bare
            })
            .collect();
        cluster.cli().ok(&["ls", "/"]);
        let more = peak_memory_mib(process) - before;
        assert!(more < 16, "{more} MiB more memory for {} silent peers", waiting.len());
    }
    // Peers in the middle of a message do not hold up an orderly stop.
    cluster.stop_and_check();
}

#[test]
fn monstrous_json_costs_one_fault_and_bounded_memory() {
    let mut cluster = TestCluster::start(1);
    let nested = "[".repeat(1_000_000);
    let nested_objects = r#"{"a":"#.repeat(200_000);
    let many_keys: String = (0..60_000).map(|n| format!(r#""{n}":{n},"#)).collect();
    let twins = r#"{"list":{"path":"/"},"list":{"path":"/"}}"#.to_string();
    let monsters = [
        nested.clone(),
        format!(r#"{{"list":{{"path":{nested}"#),
        nested_objects,
        format!(r#"{{"list":{{{many_keys}"path":7}}}}"#),
        format!(r#"{{"stat":{{"paths":[{}"/"]}}}}"#, r#""/","#.repeat(200_000)),
        twins,
        "\0".repeat(1000),
        String::new(),
        "{}".to_string(),
        r#"{"list":{"path":"/"}} {"list":{"path":"/"}}"#.to_string(),
    ];
    let key = String::from(cluster.key());
    for (address, process) in both_servers(&mut cluster) {
        let before = peak_memory_mib(process);
        let mut bare = Bare::dial(&address);
        bare.hello(Some(&key));
        for monster in &monsters {
            bare.send(monster, &[]);
            let code = bare.fault();
            let start: String = monster.chars().take(40).collect();
            assert!(["malformed", "unknown_request"].contains(&code.as_str()), "{code}: {start}");
        }
        let more = peak_memory_mib(process) - before;
        assert!(more < 32, "{more} MiB more memory after a megabyte of nonsense");
    }
    cluster.stop_and_check();
}

#[test]
fn what_a_server_does_not_know_costs_one_fault() {
    let mut cluster = TestCluster::start(1);
    let key = String::from(cluster.key());
    for (address, _) in both_servers(&mut cluster) {
        let mut bare = Bare::dial(&address);
        bare.send(r#"{"hello":{"versions":[7,9],"role":"client","agent":"x"}}"#, &[]);
        let answer = bare.answer().expect("an answer");
        assert_eq!(answer["fault"]["code"], "unsupported_version");
        assert_eq!(answer["fault"]["versions"], serde_json::json!([1, 1]));

        let mut bare = Bare::dial(&address);
        bare.hello(Some(&key));
        bare.send(r#"{"make_coffee":{"milk":true}}"#, &bytes(1, 100_000));
        assert_eq!(bare.fault(), "unknown_request");
        bare.send(r#"{"hello":{"versions":[1,1],"role":"wizard","agent":"x"}}"#, &[]);
        assert_eq!(bare.fault(), "malformed");
    }
    let mut bare = Bare::dial(cluster.address().as_str());
    bare.hello(Some(&key));
    bare.send(r#"{"list":{"path":"/","colour":"green","deep":{"er":[1,{}]}}}"#, &[]);
    assert!(bare.answer().expect("an answer")["ok"].is_object(), "unknown fields are ignored");
    cluster.stop_and_check();
}

#[test]
fn names_that_are_no_names_are_refused_and_the_others_stored() {
    let mut cluster = TestCluster::start(1);
    let key = String::from(cluster.key());
    let mut bare = Bare::dial(cluster.address().as_str());
    bare.hello(Some(&key));
    let long = "n".repeat(64 << 10);
    let bad = ["", "a", "/../x", "/a/./b", "/a//b", "/a/", "/nul\\u0000", &format!("/{long}")];
    for path in bad {
        let file = format!(r#"{{"path":"{path}","chunks":[]}}"#);
        let good = r#"{"path":"/good","chunks":[]}"#;
        let id = String::from(p2pdfs::ids::RequestId::random());
        let commit = format!(r#"{{"commit":{{"request_id":"{id}","files":[{file},{good}]}}}}"#);
        bare.send(&commit, &[]);
        let answer = bare.answer().expect("an answer");
        let files = &answer["ok"]["files"];
        assert_eq!(files[0]["fault"]["code"], "bad_name", "{path:.40}: {answer}");
        assert!(files[1]["ok"].is_object(), "{path:.40}: {answer}");
    }
    let witness = cluster.stop_and_check();
    assert_eq!(witness.files.keys().collect::<Vec<_>>(), ["/good"]);
}

#[test]
fn live_requests_are_answered_beside_many_idle_and_slow_connections() {
    // With these, all places are taken but some of those that are kept for nodes.
    const IDLE: usize = 8_500;
    const SLOW: usize = 1_000;
    let setup = Setup::new(1).node_args(&["--max-connections", "10000"]);
    let mut cluster = setup.start();
    let key = String::from(cluster.key());
    let hello = format!(r#"{{"hello":{{"versions":[1,1],"role":"client","key":"{key}"}}}}"#);
    for (address, process) in both_servers(&mut cluster) {
        let before = peak_memory_mib(process);
        let dial = |_| {
            let mut bare = Bare::dial(&address);
            bare.hello(Some(&key));
            bare
        };
        let mut idle: Vec<Bare> = (0..IDLE).map(dial).collect();
        let mut slow: Vec<Bare> = (0..SLOW).map(|_| Bare::dial(&address)).collect();
        // Each is in the middle of a message, one byte at a time.
        let message = [&(hello.len() as u32).to_be_bytes()[..], &[0; 4], hello.as_bytes()].concat();
        for byte in &message[..20] {
            for bare in &mut slow {
                bare.write(&[*byte]);
            }
        }
        let content = bytes(41, 100_000);
        cluster.cli().run_with(&["put", "--copies", "1", "-", "/file"], &content).ok();
        assert!(cluster.cli().run(&["cat", "/file"]).stdout == content);
        let kib = (peak_memory_mib(process) - before) * 1024 / (IDLE + SLOW) as u64;
        assert!(kib <= 64, "{kib} KiB more memory for each connection, in a build for tests");
        // All of them are served still.
        idle.iter_mut().step_by(500).for_each(|bare| {
            bare.send(r#"{"nothing":{}}"#, &[]);
            assert_eq!(bare.fault(), "unknown_request");
        });
    }
    cluster.stop_and_check();
}

#[test]
fn a_server_out_of_file_descriptors_goes_on_when_some_are_free_again() {
    let mut cluster = TestCluster::start(1);
    cluster.stop();
    cluster.limit_open_files(96);
    cluster.start_main();
    cluster.start_node(0);
    cluster.wait_alive(1);
    for (address, process) in both_servers(&mut cluster) {
        // More than the server can accept, and no more than its queue takes besides.
        let crowd: Vec<Bare> = (0..180).map(|_| Bare::dial(&address)).collect();
        let is_main = cluster.main().id() == process;
        let server = if is_main { cluster.main() } else { cluster.node(0) };
        server.wait_for("cannot be accepted");
        drop(crowd);
        // Those that were never accepted are accepted, found closed, and over.
        until("the server answers again", || {
            let mut main = cluster.connect().ok()?;
            main.call(&Status::default()).ok()?;
            cluster.connect_to_node(0).ok()
        });
    }
    cluster.wait_alive(1);
    let content = bytes(42, 50_000);
    cluster.cli().run_with(&["put", "--copies", "1", "-", "/file"], &content).ok();
    assert!(cluster.cli().run(&["cat", "/file"]).stdout == content);
    assert!(cluster.main().is_running() && cluster.node(0).is_running());
    cluster.stop_and_check();
}
