//! A network of its own: a hub, and nodes whose links to it are held to a rate, each in a network
//! namespace. The machine's own network has no part in it.

use std::process::Command;

use p2pdfs::cli::exit::{Exit, Failure};

/// Nodes at the hub.
pub const NODES: usize = 4;
/// Where the hub is reached from the nodes.
pub const HUB_ADDRESS: &str = "10.77.0.1";

/// The namespaces, which are gone when it is dropped.
pub struct Network {
    /// Of the hub's namespace, and the beginning of the others'.
    name: String,
}

impl Network {
    /// Makes it, with links of this many Mbit/s each way. Needs root.
    pub fn make(mbit: u32) -> Result<Network, Failure> {
        let network = Network { name: format!("p2pdfs-net-{}", std::process::id()) };
        let hub = &network.name;
        run(&format!("ip netns add {hub}"))?;
        run(&format!("ip -n {hub} link set lo up"))?;
        run(&format!("ip -n {hub} link add bridge type bridge"))?;
        run(&format!("ip -n {hub} addr add {HUB_ADDRESS}/24 dev bridge"))?;
        run(&format!("ip -n {hub} link set bridge up"))?;
        for node in 1..=NODES {
            network.add_node(node)?;
            network.limit(node, mbit)?;
        }
        Ok(network)
    }

    fn add_node(&self, node: usize) -> Result<(), Failure> {
        let (hub, own) = (&self.name, self.of_node(node));
        let address = node_address(node);
        run(&format!("ip netns add {own}"))?;
        run(&format!("ip -n {own} link set lo up"))?;
        // Each end is made where it belongs: their names mean nothing outside.
        let ends = format!("node{node} netns {hub} type veth peer name eth0 netns {own}");
        run(&format!("ip link add {ends}"))?;
        run(&format!("ip -n {hub} link set node{node} master bridge up"))?;
        run(&format!("ip -n {own} addr add {address}/24 dev eth0"))?;
        run(&format!("ip -n {own} link set eth0 up"))
    }

    /// Holds a node's link to this many Mbit/s, each way.
    pub fn limit(&self, node: usize, mbit: u32) -> Result<(), Failure> {
        let shape = format!("root tbf rate {mbit}mbit burst 64kb latency 50ms");
        let own = self.of_node(node);
        run(&format!("tc -n {own} qdisc replace dev eth0 {shape}"))?;
        run(&format!("tc -n {} qdisc replace dev node{node} {shape}", self.name))
    }

    /// A command that runs a program at the hub.
    pub fn at_hub(&self, program: &str) -> Command {
        inside(&self.name, program)
    }

    /// A command that runs a program at a node, counted from 1.
    pub fn at_node(&self, node: usize, program: &str) -> Command {
        inside(&self.of_node(node), program)
    }

    fn of_node(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let nodes = (1..=NODES).map(|node| self.of_node(node));
        for namespace in nodes.chain([self.name.clone()]) {
            // One that was not made before something failed need not go.
            let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
        }
    }
}

/// Where a node, counted from 1, is reached.
pub fn node_address(node: usize) -> String {
    format!("10.77.0.{}", 10 + node)
}

/// Not `ip netns exec`, which would also keep a copy of all that is mounted now.
fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    command
}

/// Runs a command whose words have no spaces in them.
fn run(line: &str) -> Result<(), Failure> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| Failure::because(Exit::Failed, format!("cannot run {program}"), &error))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(Exit::Failed, format!("`{line}` failed: {}", why.trim()))
        .hint("network namespaces and tbf need root"))
}
