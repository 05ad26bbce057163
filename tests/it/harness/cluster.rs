//! A cluster of real processes on ephemeral ports and in a temporary directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use p2pdfs::ids::{Address, Secret};
use p2pdfs::wire::connection::Dialing;
use p2pdfs::wire::to_main::{Invite, Status, StatusReply};
use p2pdfs::wire::{CallError, Connection, Hello, Role};
use tempfile::TempDir;

use super::cli::{Cli, clean_command};
use super::process::Process;
use super::random::Random;
use super::wait::until;

/// How a server says that it serves.
const MAIN_READY: &str = "p2pdfs-main ready ";
const NODE_READY: &str = "p2pdfs-node ready ";

/// A start of a test build has the processor about as long, with a full segment to verify; it takes ten
/// times that.
const START_WORK_US: u64 = 15_000;

/// How a cluster is set up.
#[derive(Clone)]
pub struct Setup {
    nodes: usize,
    space: String,
    /// Where the directories of the roles are; in the cluster's own when not given.
    main_dir: Option<PathBuf>,
    node_dirs: Option<PathBuf>,
    env: Vec<(String, PathBuf)>,
    heartbeat_ms: u64,
    main_args: Vec<String>,
    node_args: Vec<String>,
    /// The address that the main server listens on.
    host: String,
}

impl Setup {
    /// A main server and `nodes` nodes of 1 GiB.
    pub fn new(nodes: usize) -> Setup {
        Setup {
            nodes,
            space: "1G".to_string(),
            main_dir: None,
            node_dirs: None,
            env: Vec::new(),
            heartbeat_ms: 500,
            main_args: Vec::new(),
            node_args: Vec::new(),
            host: "127.0.0.1".to_string(),
        }
    }

    /// What each node offers.
    pub fn space(mut self, space: &str) -> Setup {
        self.space = space.to_string();
        self
    }

    /// The main server's directory stands in this one.
    pub fn main_in(mut self, directory: &Path) -> Setup {
        self.main_dir = Some(directory.to_path_buf());
        self
    }

    /// The nodes' directories stand in this one.
    pub fn nodes_in(mut self, directory: &Path) -> Setup {
        self.node_dirs = Some(directory.to_path_buf());
        self
    }

    /// An environment variable of every server.
    pub fn env(mut self, name: &str, value: impl Into<PathBuf>) -> Setup {
        self.env.push((name.to_string(), value.into()));
        self
    }

    /// How often nodes are heard: twelve times that, and one that is away is dead.
    pub fn heartbeat_ms(mut self, heartbeat_ms: u64) -> Setup {
        self.heartbeat_ms = heartbeat_ms;
        self
    }

    /// More flags of the main server.
    pub fn main_args(mut self, args: &[&str]) -> Setup {
        self.main_args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// More flags of every node.
    pub fn node_args(mut self, args: &[&str]) -> Setup {
        self.node_args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// The main server listens here, and not on the loopback interface.
    pub fn host(mut self, host: &str) -> Setup {
        self.host = host.to_string();
        self
    }

    /// Starts it; returns when all nodes are alive.
    pub fn start(self) -> TestCluster {
        let nodes = self.nodes;
        let mut cluster = TestCluster::prepare(self);
        cluster.start_main();
        for _ in 0..nodes {
            cluster.add_node();
        }
        cluster.wait_alive(nodes);
        cluster
    }
}

/// A cluster that ends with the test.
pub struct TestCluster {
    directory: TempDir,
    setup: Setup,
    address: Address,
    main: Option<Process>,
    nodes: Vec<TestNode>,
    /// What earlier processes said, for a test that fails.
    earlier: Vec<String>,
    /// Of each server that is started from now on.
    limit: Option<String>,
}

/// One node of a cluster; numbered from 0 here, and from 1 by the main server.
struct TestNode {
    dir: PathBuf,
    process: Option<Process>,
    address: Option<Address>,
}

impl TestCluster {
    /// A main server and `nodes` nodes, all alive.
    pub fn start(nodes: usize) -> TestCluster {
        Setup::new(nodes).start()
    }

    /// Directories and an address; nothing runs yet.
    pub fn prepare(setup: Setup) -> TestCluster {
        let directory = TempDir::with_prefix("p2pdfs-test-").expect("a temporary directory");
        std::fs::create_dir(directory.path().join("home")).expect("a home directory");
        TestCluster {
            directory,
            address: free_address(&setup.host),
            setup,
            main: None,
            nodes: Vec::new(),
            earlier: Vec::new(),
            limit: None,
        }
    }

    /// A directory for the test's own files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The home directory of everything that runs.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// The main server's directory.
    pub fn main_dir(&self) -> PathBuf {
        self.setup.main_dir.as_deref().unwrap_or(self.path()).join("main")
    }

    /// A node's directory.
    pub fn node_dir(&self, index: usize) -> &Path {
        &self.nodes[index].dir
    }

    /// How many nodes were added, running or not.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Where the main server listens, running or not.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The client with this cluster's settings.
    pub fn cli(&self) -> Cli {
        // A copy: the main server's disk may be the one that fails.
        let copy = self.path().join("client.toml");
        if !copy.exists() {
            let original = self.main_dir().join("client.toml");
            std::fs::copy(&original, &copy).unwrap_or_else(|e| panic!("{original:?}: {e}"));
        }
        Cli::new(&self.home(), Some(&copy))
    }

    /// Gives the servers that are started from now on no more than so many open files.
    pub fn limit_open_files(&mut self, count: u32) {
        self.limit = Some(format!("-n {count}"));
    }

    /// Lets them write no file over this length, a multiple of 512 bytes.
    pub fn limit_file_bytes(&mut self, bytes: Option<u64>) {
        self.limit = bytes.map(|bytes| format!("-f {}", bytes / 512));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = match &self.limit {
            None => clean_command(program, &self.home()),
            Some(limit) => {
                let mut command = clean_command("sh", &self.home());
                let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
                command.args(["-c", &script, program]);
                command
            }
        };
        command.envs(self.setup.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The command that runs the main server, at this address.
    pub fn main_command(&self, address: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_p2pdfs-main"));
        command.arg("--dir").arg(self.main_dir()).args(["--listen", address]);
        command.arg("--heartbeat-ms").arg(self.setup.heartbeat_ms.to_string());
        command.arg("-v").args(&self.setup.main_args);
        command
    }

    /// The command that runs a node which has joined before.
    pub fn node_command(&self, dir: &Path) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_p2pdfs-node"));
        command.arg("--dir").arg(dir).arg("-v").args(&self.setup.node_args);
        command
    }

    /// Starts the main server, at the same address each time.
    pub fn start_main(&mut self) {
        self.try_start_main().unwrap_or_else(|said| panic!("the main server ended:\n{said}"));
    }

    /// The same; the error is what a main server that refuses to start said.
    pub fn try_start_main(&mut self) -> Result<(), String> {
        let command = self.main_command(self.address.as_str());
        self.try_start_main_as(command)
    }

    /// Starts the main server by this command.
    pub fn start_main_as(&mut self, command: Command) {
        let started = self.try_start_main_as(command);
        started.unwrap_or_else(|said| panic!("the main server ended:\n{said}"));
    }

    /// The same; the error is what a main server that refuses to start said.
    pub fn try_start_main_as(&mut self, mut command: Command) -> Result<(), String> {
        self.earlier.extend(self.main.take().map(|ended| ended.log()));
        let process = Process::start("p2pdfs-main", &mut command);
        process.line_after(MAIN_READY)?;
        self.main = Some(process);
        Ok(())
    }

    /// Starts the main server and kills it before it is ready, at a random moment. False when it was
    /// ready sooner, and then killed.
    pub fn kill_starting_main(&mut self, random: &mut Random) -> bool {
        let mut command = self.main_command(self.address.as_str());
        let mut process = Process::start("p2pdfs-main", &mut command);
        let is_early = process.kill_starting(moment(random), MAIN_READY);
        self.earlier.push(process.log());
        is_early
    }

    /// The same of a node that has joined.
    pub fn kill_starting_node(&mut self, index: usize, random: &mut Random) -> bool {
        let mut command = self.node_command(&self.nodes[index].dir);
        let mut process = Process::start(&format!("p2pdfs-node {}", index + 1), &mut command);
        let is_early = process.kill_starting(moment(random), NODE_READY);
        self.earlier.push(process.log());
        is_early
    }

    /// Joins one more node and returns its index.
    pub fn add_node(&mut self) -> usize {
        self.add_node_with(&[])
    }

    /// Joins one more node, with more flags.
    pub fn add_node_with(&mut self, args: &[&str]) -> usize {
        self.add_node_inside(&[], args)
    }

    /// Joins one more node, of another size than the others.
    pub fn add_node_offering(&mut self, space: &str) -> usize {
        let usual = std::mem::replace(&mut self.setup.space, space.to_string());
        let index = self.add_node();
        self.setup.space = usual;
        index
    }

    /// The same, run by another program, such as one that changes the network namespace.
    pub fn add_node_inside(&mut self, runner: &[&str], args: &[&str]) -> usize {
        let index = self.nodes.len();
        let dir = self.setup.node_dirs.as_deref().unwrap_or(self.path());
        let dir = dir.join(format!("node-{}", index + 1));
        let mut command = run_by(runner, self.node_command(&dir));
        command.args(["--main", self.address.as_str(), "--space", &self.setup.space]);
        command.args(args).env("P2PDFS_NODE_INVITE", self.invite());
        self.nodes.push(TestNode { dir, process: None, address: None });
        self.run_node(index, &mut command).unwrap_or_else(|said| panic!("no node:\n{said}"));
        index
    }

    /// The nodes that join from now on have their directories in the cluster's own.
    pub fn nodes_elsewhere(&mut self) {
        self.setup.node_dirs = None;
    }

    /// Starts a node that was stopped or killed.
    pub fn start_node(&mut self, index: usize) {
        self.try_start_node(index).unwrap_or_else(|said| panic!("the node ended:\n{said}"));
    }

    /// The same; the error is what a node that refuses to start said.
    pub fn try_start_node(&mut self, index: usize) -> Result<(), String> {
        let mut command = self.node_command(&self.nodes[index].dir);
        self.run_node(index, &mut command)
    }

    fn run_node(&mut self, index: usize, command: &mut Command) -> Result<(), String> {
        self.earlier.extend(self.nodes[index].process.take().map(|ended| ended.log()));
        let process = Process::start(&format!("p2pdfs-node {}", index + 1), command);
        let ready = process.line_after(NODE_READY)?;
        let address = ready.split_whitespace().last().and_then(|word| word.parse().ok());
        assert!(address.is_some(), "a ready line without an address: {ready:?}");
        self.nodes[index].address = address;
        self.nodes[index].process = Some(process);
        Ok(())
    }

    /// The main server's process.
    pub fn main(&mut self) -> &mut Process {
        self.main.as_mut().expect("the main server was started")
    }

    /// A node's process.
    pub fn node(&mut self, index: usize) -> &mut Process {
        self.nodes[index].process.as_mut().expect("the node was started")
    }

    /// Where a node listens.
    pub fn node_address(&self, index: usize) -> Address {
        self.nodes[index].address.clone().expect("the node was started")
    }

    /// Secret and address of the account that the main server made at its first start.
    fn settings(&self) -> toml::Table {
        let path = self.main_dir().join("client.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        text.parse().expect("client.toml is TOML")
    }

    /// The account's key.
    pub fn key(&self) -> Secret {
        let settings = self.settings();
        settings["key"].as_str().expect("a key").parse().expect("the key is a secret")
    }

    /// False where the main server has a host of its own.
    pub fn is_on_loopback(&self) -> bool {
        self.setup.host == "127.0.0.1"
    }

    fn dialing(&self) -> Dialing {
        Dialing { insecure_plaintext: !self.is_on_loopback(), ..Dialing::default() }
    }

    /// A connection to the main server under the account's key.
    pub fn connect(&self) -> Result<Connection, CallError> {
        let hello = Hello { key: Some(self.key()), ..Hello::new(Role::Client) };
        Connection::open(&self.address, &self.dialing(), &hello)
    }

    /// A connection to a node.
    pub fn connect_to_node(&self, index: usize) -> Result<Connection, CallError> {
        let hello = Hello::new(Role::Client);
        Connection::open(&self.node_address(index), &self.dialing(), &hello)
    }

    /// A new invite for one node.
    pub fn invite(&self) -> String {
        let mut connection = self.connect().expect("the main server runs");
        let reply = connection.call(&Invite { uses: None, valid_s: None }).expect("an invite");
        String::from(reply.invite)
    }

    /// The cluster's state as the main server sees it.
    pub fn status(&self) -> StatusReply {
        let mut connection = self.connect().expect("the main server runs");
        connection.call(&Status::default()).expect("a status")
    }

    /// Waits until `holds` is true of the state.
    pub fn wait_status(&self, what: &str, holds: impl Fn(&StatusReply) -> bool) -> StatusReply {
        let last = std::cell::RefCell::new(None);
        let said = SaidOnPanic(&last);
        until(what, || {
            let status = self.connect().and_then(|mut c| c.call(&Status::default())).ok()?;
            let holds = holds(&status);
            last.replace(Some(status));
            holds.then_some(())
        });
        drop(said);
        last.take().expect("it was just put there")
    }

    /// Waits until exactly `count` nodes are alive.
    pub fn wait_alive(&self, count: usize) {
        let alive = |s: &StatusReply| s.nodes.iter().filter(|n| n.state == "alive").count();
        self.wait_status(&format!("{count} nodes are alive"), |s| alive(s) == count);
    }

    /// Stops everything that runs, in order, and expects orderly ends.
    pub fn stop(&mut self) {
        for index in 0..self.nodes.len() {
            self.stop_node(index);
        }
        if let Some(mut main) = self.main.take() {
            let status = main.stop();
            self.earlier.push(main.log());
            assert!(status.success(), "the main server ended with {status}:\n{}", main.said());
        }
    }

    /// Stops a node in order, if it runs.
    pub fn stop_node(&mut self, index: usize) {
        if let Some(mut node) = self.nodes[index].process.take() {
            let status = node.stop();
            self.earlier.push(node.log());
            assert!(status.success(), "the node ended with {status}:\n{}", node.said());
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.earlier.iter().for_each(|log| eprintln!("{log}"));
        let running = self.main.iter().chain(self.nodes.iter().filter_map(|n| n.process.as_ref()));
        running.for_each(|process| eprintln!("{}", process.log()));
    }
}

/// Shows the last status of a wait that was in vain.
struct SaidOnPanic<'a>(&'a std::cell::RefCell<Option<StatusReply>>);

impl Drop for SaidOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last status: {:#?}", self.0.borrow());
        }
    }
}

/// A moment of a server's start, in processor time.
fn moment(random: &mut Random) -> Duration {
    Duration::from_micros(random.below(START_WORK_US))
}

/// The same command, run by another program. Its environment stays as it is.
fn run_by(runner: &[&str], command: Command) -> Command {
    let Some((program, options)) = runner.split_first() else { return command };
    let mut outer = Command::new(program);
    outer.args(options).arg(command.get_program()).args(command.get_args()).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer.current_dir(command.get_current_dir().expect("it was set"));
    outer
}

/// An address that nobody listens on. Its port is below those that the kernel gives to outgoing
/// connections: a main server that comes back finds it free, and nobody who dials it meanwhile
/// connects to himself.
fn free_address(host: &str) -> Address {
    let mut random = Random::new(u64::from_le_bytes({
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        bytes
    }));
    loop {
        let port = 15_000 + random.below(15_000) as u16;
        if let Ok(listener) = std::net::TcpListener::bind((host, port)) {
            return listener.local_addr().expect("it is bound").into();
        }
    }
}
