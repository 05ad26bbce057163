//! A whole cluster on this machine, as separate processes over one directory: for `up` and `demo`.

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client_config;
use super::exit::{Exit, Failure};
use super::output::{failure, shown};
use super::process::{ProcessRecord, Role, StartError, Started, tail};
use super::size::ByteSize;
use crate::client::Client;
use crate::ids::{DEFAULT_COPIES, Secret};

/// How long a process may take to be ready: it may have much to recover.
const READY: Duration = Duration::from_secs(60);
/// How long a process may take to stop in order.
const STOP: Duration = Duration::from_secs(20);

/// What a cluster is to be like.
pub struct Plan {
    pub directory: PathBuf,
    /// Nodes wanted; those whose directories are there are started in any case.
    pub nodes: Option<u32>,
    pub copies: Option<u8>,
    pub space: Option<ByteSize>,
}

/// What is running in a directory: its file `up.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub processes: Vec<ProcessRecord>,
}

impl State {
    fn path(directory: &Path) -> PathBuf {
        directory.join("up.json")
    }

    /// What was running at last; nothing, where nothing was noted.
    pub fn load(directory: &Path) -> Result<State, Failure> {
        let path = State::path(directory);
        let failed = |error: &dyn std::error::Error| {
            Failure::because(Exit::Failed, format!("cannot read {}", shown(&path)), error)
        };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(failed(&error)),
        }
    }

    fn save(&self, directory: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        write_private(&State::path(directory), &text)
    }

    /// Stops what still runs, the nodes before the main server; returns the names.
    pub fn stop(&self, directory: &Path) -> Vec<String> {
        let (nodes, main): (Vec<_>, Vec<_>) =
            self.processes.iter().partition(|process| process.name.starts_with("node"));
        let mut stopped = Vec::new();
        for group in [nodes, main] {
            let running: Vec<_> =
                group.into_iter().filter_map(|p| p.find().map(|handle| (p, handle))).collect();
            running.iter().for_each(|(_, handle)| handle.ask_to_stop());
            for (process, handle) in running {
                let how = if handle.stop(STOP) { "" } else { " (killed: it did not stop in time)" };
                stopped.push(format!("{}{how}", process.name));
            }
        }
        if let Err(error) = fs::remove_file(State::path(directory))
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("{} cannot be removed: {error}", State::path(directory).display());
        }
        stopped
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut options = fs::OpenOptions::new();
    let open = options.create(true).truncate(true).write(true).mode(0o600).open(&temporary);
    let written = open.and_then(|mut file| file.write_all(bytes));
    written
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| Failure::because(Exit::Failed, format!("cannot write {}", shown(path)), &e))
}

/// A cluster that this process has started. Dropped, it stops it.
pub struct LocalCluster {
    pub directory: PathBuf,
    pub main: ProcessRecord,
    /// The main server first.
    pub processes: Vec<Started>,
    /// Settings for a client.
    pub client_toml: PathBuf,
    pub copies: u8,
    is_left_running: bool,
}

impl LocalCluster {
    /// Starts everything and waits until it is ready. `said` hears of each step.
    pub fn start(plan: &Plan, mut said: impl FnMut(&str)) -> Result<LocalCluster, Failure> {
        let directory = prepare(&plan.directory)?;
        let nodes = node_count(&directory, plan.nodes);
        let copies =
            plan.copies.unwrap_or(DEFAULT_COPIES.min(u8::try_from(nodes).unwrap_or(u8::MAX)));
        let mut cluster = LocalCluster {
            main: ProcessRecord { name: String::new(), pid: 0, started: 0, address: String::new() },
            processes: Vec::new(),
            client_toml: directory.join("client.toml"),
            copies,
            is_left_running: false,
            directory,
        };
        cluster.start_main()?;
        said(&format!("main server at {}", cluster.main.address));
        cluster.write_settings()?;
        cluster.start_nodes(nodes, plan.space)?;
        for process in &cluster.processes[1..] {
            said(&format!("{} at {}", process.record.name, process.record.address));
        }
        Ok(cluster)
    }

    /// Lets it go on when this process ends.
    pub fn leave_running(mut self) {
        self.is_left_running = true;
    }

    /// The processes, for the one that goes on to watch them; they are no longer stopped at the
    /// end.
    pub fn take_processes(mut self) -> Vec<Started> {
        self.is_left_running = true;
        std::mem::take(&mut self.processes)
    }

    /// A client of this cluster.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(client_config::load_file(&self.client_toml)?.settings))
    }

    fn note_state(&self) -> Result<(), Failure> {
        let processes = self.processes.iter().map(|process| process.record.clone()).collect();
        State { processes }.save(&self.directory)
    }

    fn start_process(&mut self, role: Role<'_>) -> Result<usize, Failure> {
        let started = Started::spawn(role).map_err(|error| not_started(&error))?;
        self.processes.push(started);
        // Noted before it is waited for: whatever happens to us, `down` finds it.
        self.note_state()?;
        Ok(self.processes.len() - 1)
    }

    fn start_main(&mut self) -> Result<(), Failure> {
        let directory = self.directory.join("main");
        let listen = listen_address(&directory.join("client.toml"));
        let mut arguments =
            ["--dir".to_string(), text(&directory)?, "--listen".to_string(), listen].to_vec();
        let key = self.directory.join("recovery.key");
        arguments.extend(["--recovery-key-file".to_string(), text(&key)?]);
        let at = self.start_process(Role {
            program: "p2pdfs-main",
            name: "main server".to_string(),
            arguments,
            environment: Vec::new(),
            log: self.directory.join("logs/main.log"),
        })?;
        self.processes[at].wait_ready(READY).map_err(|error| not_started(&error))?;
        self.main = self.processes[at].record.clone();
        self.note_state()
    }

    /// Writes the client's settings from those that the main server wrote.
    fn write_settings(&self) -> Result<(), Failure> {
        let config = client_config::load_file(&self.directory.join("main/client.toml"))?;
        let (main, key) = (&self.main.address, config.settings.key);
        let copies = self.copies;
        let text =
            format!("main = \"{main}\"\nkey = \"{}\"\ncopies = {copies}\n", String::from(key));
        write_private(&self.client_toml, text.as_bytes())
    }

    fn start_nodes(&mut self, nodes: u32, space: Option<ByteSize>) -> Result<(), Failure> {
        let new: Vec<u32> =
            (1..=nodes).filter(|number| is_to_join(&self.node_directory(*number))).collect();
        let invite = match u32::try_from(new.len()) {
            Ok(0) | Err(_) => None,
            Ok(uses) => {
                let invited = self.client()?.invite(uses, Duration::from_secs(3600));
                Some(invited.map_err(|e| failure("cannot make an invite for the nodes", &e))?.0)
            }
        };
        let mut starting = Vec::new();
        for number in 1..=nodes {
            let invite = invite.filter(|_| new.contains(&number));
            let role = self.node_role(number, space, invite)?;
            let at = self.start_process(role)?;
            if invite.is_some() {
                // One by one, so that their numbers are in the order of their directories.
                self.wait_for_node(at)?;
            } else {
                starting.push(at);
            }
        }
        for at in starting {
            self.wait_for_node(at)?;
        }
        self.note_state()
    }

    fn node_directory(&self, number: u32) -> PathBuf {
        self.directory.join(format!("node-{number}"))
    }

    fn wait_for_node(&mut self, at: usize) -> Result<(), Failure> {
        self.processes[at].wait_ready(READY).map_err(|error| not_started(&error))
    }

    fn node_role(
        &self,
        number: u32,
        space: Option<ByteSize>,
        invite: Option<Secret>,
    ) -> Result<Role<'static>, Failure> {
        let directory = self.node_directory(number);
        let mut arguments = vec!["--dir".to_string(), text(&directory)?];
        arguments.extend(["--main".to_string(), self.main.address.clone()]);
        let default = invite.map(|_| ByteSize(10 << 30));
        if let Some(space) = space.or(default) {
            arguments.extend(["--space".to_string(), space.0.to_string()]);
        }
        let invite = invite.map(|invite| ("P2PDFS_NODE_INVITE", String::from(invite)));
        Ok(Role {
            program: "p2pdfs-node",
            name: format!("node {number}"),
            arguments,
            environment: invite.into_iter().collect(),
            log: self.directory.join(format!("logs/node-{number}.log")),
        })
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if !self.is_left_running {
            let processes = self.processes.iter().map(|p| p.record.clone()).collect();
            State { processes }.stop(&self.directory);
            for process in self.processes.drain(..) {
                // It has ended; this only takes its remains away.
                let _ = process.wait();
            }
        }
    }
}

/// Makes the directory and what is in it; returns its absolute path.
fn prepare(directory: &Path) -> Result<PathBuf, Failure> {
    let made = fs::create_dir_all(directory.join("logs")).and_then(|()| directory.canonicalize());
    made.map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NotAllowed,
            _ => Exit::Failed,
        };
        Failure::because(exit, format!("cannot make the directory {}", shown(directory)), &error)
            .hint("choose another one with --dir")
    })
}

/// True for a node that is to be made, or whose join was cut off. A directory that is there and
/// empty is neither: a disk may not be mounted, and the node itself says so.
fn is_to_join(directory: &Path) -> bool {
    let has = |name: &str| directory.join(name).exists();
    !directory.exists() || (has("node.json") && !has("keys.json"))
}

/// Nodes to start: those wanted, and all that are there, since they hold data.
fn node_count(directory: &Path, wanted: Option<u32>) -> u32 {
    let there = (1..).take_while(|n| directory.join(format!("node-{n}")).exists()).last();
    match (there, wanted) {
        (None, wanted) => wanted.unwrap_or(3),
        (Some(there), wanted) => there.max(wanted.unwrap_or(0)),
    }
}

/// The address where the main server was before, if it is free, so that settings stay good.
fn listen_address(settings: &Path) -> String {
    let before = client_config::load_file(settings).ok().map(|config| config.settings.main);
    match before {
        Some(address) if TcpListener::bind(address.as_str()).is_ok() => address.to_string(),
        _ => "127.0.0.1:0".to_string(),
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    let not_text = || Failure::new(Exit::Usage, format!("{} is not UTF-8", shown(path)));
    path.to_str().map(str::to_string).ok_or_else(not_text)
}

fn not_started(error: &StartError) -> Failure {
    let mut failure = Failure::because(Exit::Failed, "the cluster did not come up", error);
    if let StartError::Died { log, .. } | StartError::TooSlow { log, .. } = error {
        failure.details = tail(log, 10).iter().map(shown).collect();
        failure.hint = Some(format!("all of its log is in {}", shown(log)));
    }
    failure
}
