//! Row 20: a node that the network cuts off, in one direction or in both. Real packets are dropped,
//! in network namespaces of the test's own. Needs root and `ip`.

use std::process::Command;

use p2pdfs::client::{PutOptions, Quiet, Source, Upload};
use p2pdfs::remote_path::RemotePath;

use crate::harness::mixed::client;
use crate::harness::{Setup, bytes};

/// A network namespace with one wire into the test's own.
struct Island {
    name: String,
    outside: String,
    subnet: String,
}

/// Which packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dropped {
    ToNode,
    FromNode,
    Both,
}

impl Island {
    /// `None` where it cannot be made: said loudly, and with CI=true a failure.
    fn new() -> Option<Island> {
        let number = std::process::id() % 10_000;
        let name = format!("p2pdfs-{number}");
        let outside = format!("p2p{number}");
        // A network of its own, out of those for tests (RFC 2544).
        let subnet = format!("198.18.{}", number % 250);
        let island = Island { name, outside, subnet };
        match island.make() {
            Ok(()) => Some(island),
            Err(why) => {
                let needs = "this test needs root, network namespaces and ip";
                assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{needs}: {why}");
                eprintln!("NOT TESTED: {needs}: {why}");
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let Island { name, outside, subnet } = self;
        shell(&format!("ip netns add {name}"))?;
        shell(&format!("ip link add {outside} type veth peer name inside netns {name}"))?;
        shell(&format!("ip addr add {subnet}.1/24 dev {outside}"))?;
        shell(&format!("ip link set {outside} up"))?;
        shell(&format!("ip -n {name} addr add {subnet}.2/24 dev inside"))?;
        shell(&format!("ip -n {name} link set inside up"))?;
        shell(&format!("ip -n {name} link set lo up"))
    }

    fn host(&self) -> String {
        format!("{}.1", self.subnet)
    }

    fn node(&self) -> String {
        format!("{}.2", self.subnet)
    }

    fn drop(&self, dropped: Dropped) {
        // Frames for a station that is not there: whoever gets them drops them without a word.
        let nowhere = "lladdr 02:00:00:00:00:01 nud permanent dev";
        if dropped != Dropped::FromNode {
            let command = format!("ip neigh replace {} {nowhere} {}", self.node(), self.outside);
            shell(&command).expect("the way to the node is lost");
        }
        if dropped != Dropped::ToNode {
            let (name, host) = (&self.name, self.host());
            let command = format!("ip -n {name} neigh replace {host} {nowhere} inside");
            shell(&command).expect("the way from the node is lost");
        }
    }

    fn heal(&self) {
        // Of the two, one may not have been lost.
        let _ = shell(&format!("ip neigh del {} dev {}", self.node(), self.outside));
        let _ = shell(&format!("ip -n {} neigh del {} dev inside", self.name, self.host()));
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = shell(&format!("ip link del {}", self.outside));
        let _ = shell(&format!("ip netns del {}", self.name));
    }
}

fn shell(command: &str) -> Result<(), String> {
    let mut words = command.split(' ');
    let program = words.next().expect("a command has a first word");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut run = Command::new(program);
    run.env("PATH", format!("{path}:/sbin:/usr/sbin")).args(words);
    let output = run.output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    if output.status.success() { Ok(()) } else { Err(format!("{command}: {said}")) }
}

#[test]
fn a_node_that_the_network_cuts_off_is_not_repaired_before_its_time_and_comes_back() {
    let Some(island) = Island::new() else { return };
    let setup = Setup::new(0).main_args(&["--insecure-plaintext"]).host(&island.host());
    let mut cluster = setup.heartbeat_ms(1000).start();
    let here = format!("{}:0", island.host());
    for _ in 0..3 {
        cluster.add_node_with(&["--listen", &here, "--insecure-plaintext"]);
    }
    let there = format!("{}:0", island.node());
    // Not by `ip netns exec`: it would keep a copy of what is mounted now, the disks of other tests
    // among it, which could then not be taken away.
    let far = cluster.add_node_inside(
        &["nsenter", &format!("--net=/run/netns/{}", island.name)],
        &["--listen", &there, "--insecure-plaintext"],
    );
    cluster.wait_alive(4);
    // Most of the chunks have a copy on the far node, and a node that could take another.
    let content = bytes(80, 40 << 20);
    let client = client(&cluster);
    let path: RemotePath = "/file".parse().expect("a path");
    let from = Source::Stream(Box::new(std::io::Cursor::new(content.clone())));
    let options = PutOptions { copies: 3, ..PutOptions::default() };
    client.put([Upload { from, to: path.clone() }], &options, &Quiet).expect("it is stored");
    let copies = cluster.status().copies;
    for dropped in [Dropped::ToNode, Dropped::FromNode, Dropped::Both] {
        island.drop(dropped);
        let status = cluster.wait_status("the node falls silent", |status| {
            status.nodes.iter().any(|node| node.state == "suspect")
        });
        assert_eq!(status.copies, copies, "{dropped:?}: it was repaired before its time");
        let mut read = Vec::new();
        client.read(&path, None, 0..u64::MAX, &mut read, &Quiet).expect("reads go on");
        assert!(read == content, "{dropped:?}");
        let status = cluster.status();
        assert_eq!(status.copies, copies, "{dropped:?}: it was repaired before its time");
        island.heal();
        cluster.wait_alive(4);
        assert!(cluster.node(far).is_running(), "{dropped:?}: it ended");
    }
    assert_eq!(cluster.status().copies, copies);
    let witness = cluster.stop_and_check();
    witness.assert_copies("/file", 3);
}
