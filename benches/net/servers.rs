//! The programs of a cluster in the network: a main server at the hub, its nodes, and the client.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use p2pdfs::cli::exit::{Exit, Failure};
use rustix::process::{Pid, Signal, kill_process};

use crate::network::{HUB_ADDRESS, NODES, Network, node_address};

const MAIN: &str = env!("CARGO_BIN_EXE_p2pdfs-main");
const NODE: &str = env!("CARGO_BIN_EXE_p2pdfs-node");
const CLIENT: &str = env!("CARGO_BIN_EXE_p2pdfs");

/// A server that is ready. Killed when it is dropped: what it stores is for one run alone.
struct Server {
    child: Child,
    /// Open for as long as it may write there.
    stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it, and waits until it says that it is ready.
    fn start(mut command: Command) -> Result<Server, Failure> {
        let failed =
            |error: &std::io::Error| Failure::because(Exit::Failed, "cannot start a server", error);
        command.arg("-q").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let stdout = child.stdout.take().expect("it was just piped");
        let mut server = Server { child, stdout: BufReader::new(stdout) };
        // A main server's first line is another one.
        for line in server.stdout.by_ref().lines() {
            if line.map_err(|error| failed(&error))?.contains(" ready ") {
                return Ok(server);
            }
        }
        Err(Failure::new(Exit::Failed, "a server ended before it was ready"))
    }

    /// Asks it to stop, and waits until it has.
    fn stop(mut self) -> Result<(), Failure> {
        let failed =
            |error: &dyn std::error::Error| Failure::because(Exit::Failed, "cannot stop", error);
        kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(|e| failed(&e))?;
        self.child.wait().map(drop).map_err(|error| failed(&error))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended cannot be killed; waiting takes its remains away.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running cluster. Servers end before the network does.
pub struct Cluster<'a> {
    nodes: [Option<Server>; NODES],
    _main: Server,
    network: &'a Network,
    directory: &'a Path,
}

impl<'a> Cluster<'a> {
    /// Starts all servers, with what they store in `directory`.
    pub fn start(network: &'a Network, directory: &'a Path) -> Result<Cluster<'a>, Failure> {
        let mut command = network.at_hub(MAIN);
        command.arg("--dir").arg(directory.join("main"));
        command.args(["--listen", &format!("{HUB_ADDRESS}:7000"), "--insecure-plaintext"]);
        let main = Server::start(command)?;
        let mut cluster = Cluster { nodes: Default::default(), _main: main, network, directory };
        let told = cluster.client(&["admin", "invite", "--uses", &NODES.to_string()])?;
        let is_invite = |word: &&str| word.len() == 64;
        let invite = told.split(|c: char| !c.is_ascii_hexdigit()).find(is_invite);
        let invite = invite.ok_or_else(|| Failure::new(Exit::Failed, "no invite was made"))?;
        for node in 1..=NODES {
            cluster.start_node(node, Some(invite))?;
        }
        Ok(cluster)
    }

    /// Starts a node, with an invite for the first time.
    pub fn start_node(&mut self, node: usize, invite: Option<&str>) -> Result<(), Failure> {
        let mut command = self.network.at_node(node, NODE);
        command.arg("--dir").arg(self.directory.join(format!("node-{node}")));
        command.args(["--listen", &format!("{}:7001", node_address(node))]);
        command.args(["--main", &format!("{HUB_ADDRESS}:7000"), "--insecure-plaintext"]);
        if let Some(invite) = invite {
            command.args(["--space", "20G"]).env("P2PDFS_NODE_INVITE", invite);
        }
        self.nodes[node - 1] = Some(Server::start(command)?);
        Ok(())
    }

    /// Stops a node in order: nothing is copied elsewhere meanwhile.
    pub fn stop_node(&mut self, node: usize) -> Result<(), Failure> {
        self.nodes[node - 1].take().map_or(Ok(()), Server::stop)
    }

    /// Runs the client at the hub, and returns what it printed.
    pub fn client(&self, words: &[&str]) -> Result<String, Failure> {
        let mut command = self.network.at_hub(CLIENT);
        command.arg("--config").arg(self.directory.join("main/client.toml"));
        command.args(["--insecure-plaintext", "-q"]).args(words);
        let output = command
            .output()
            .map_err(|error| Failure::because(Exit::Failed, "cannot run the client", &error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(Exit::Failed, format!("the client failed: {}", why.trim())))
    }
}
