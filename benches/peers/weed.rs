//! SeaweedFS on this machine: a master, three volume servers in one rack and a filer, each a process
//! of its own, all over one directory that is there as long as they are.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use p2pdfs::cli::bench::interrupt::Interrupt;
use p2pdfs::cli::bench::place::Scratch;
use p2pdfs::cli::bench::usage::Process;
use p2pdfs::cli::exit::{Exit, Failure};
use p2pdfs::cli::output::shown;
use p2pdfs::cli::process::{Running, tail};
use serde::Deserialize;

use crate::http::{Http, HttpError};

/// Where what is put straight to volume servers is kept, apart from what the filer puts.
pub const COLLECTION: &str = "native";
const VOLUME_SERVERS: usize = 3;
/// How long all of it may take to be ready, and how often it is looked at meanwhile.
const READY: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Servers listen for gRPC at their own port and this: their default.
const GRPC: u16 = 10_000;

fn failed(what: impl AsRef<str>) -> impl Fn(&dyn std::error::Error) -> Failure {
    move |error| Failure::because(Exit::Failed, what.as_ref(), error)
}

/// A request to SeaweedFS that failed.
pub fn refused(error: &HttpError) -> Failure {
    match error {
        HttpError::Interrupted => Failure::new(Exit::Interrupted, "interrupted"),
        error => Failure::because(Exit::Failed, "SeaweedFS did not do what was asked", error),
    }
}

struct Server {
    name: String,
    child: Child,
    running: Running,
    log: PathBuf,
}

/// Killed when they are dropped: what they store is for one round alone.
struct Servers(Vec<Server>);

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.iter().for_each(|server| server.running.kill());
        for server in &mut self.0 {
            // It has been killed; this only takes its remains away.
            let _ = server.child.wait();
        }
    }
}

/// Ends when it is dropped, and all of it is removed.
pub struct SeaweedFs {
    program: PathBuf,
    pub master: String,
    pub filer: String,
    interrupt: Interrupt,
    // Dropped in this order: what runs in the directory ends before the directory does.
    servers: Servers,
    directory: Scratch,
}

/// The program's own word about its version.
pub fn version(program: &Path) -> Result<String, Failure> {
    let cannot = failed(format!("cannot run {}", shown(program)));
    let output = Command::new(program).arg("version").output().map_err(|error| cannot(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("version ")).map(str::trim);
    line.map(str::to_string).ok_or_else(|| {
        let text = format!("{} is not the program `weed` of SeaweedFS", shown(program));
        Failure::new(Exit::Usage, text)
    })
}

impl SeaweedFs {
    /// Starts it below `above`, and waits until it takes puts.
    pub fn start(
        program: &Path,
        above: &Path,
        interrupt: &Interrupt,
    ) -> Result<SeaweedFs, Failure> {
        let ports = free_ports(2 + VOLUME_SERVERS)?;
        let at = |port: u16| format!("{}:{port}", Ipv4Addr::LOCALHOST);
        let mut all = SeaweedFs {
            program: program.to_path_buf(),
            servers: Servers(Vec::new()),
            master: at(ports[0]),
            filer: at(ports[1]),
            interrupt: interrupt.clone(),
            directory: Scratch::new(Some(above))?,
        };
        let master = all.master.clone();
        let flags = "-peers=none -telemetry=false -defaultReplication=001 -volumeSizeLimitMB=1024";
        all.spawn("master", "master", ports[0], "-mdir", flags)?;
        for (number, port) in (1..).zip(&ports[2..]) {
            // Without the last flag a volume server accepts no copy from a loopback address.
            let flags = format!(
                "-max=40 -rack=r1 -dataCenter=d1 -master={master} \
                 -volume.allowUntrustedRemoteEndpoints"
            );
            all.spawn(&format!("volume {number}"), "volume", *port, "-dir", &flags)?;
        }
        all.wait_for_volume_servers()?;
        // Ready before they are measured, as they would be in a store that is in use: those for
        // the filer, which uses no collection, and those for what goes straight to them.
        for collection in ["", COLLECTION] {
            let path = format!("/vol/grow?collection={collection}&count=6&replication=001");
            all.ask_master(&path)?;
        }
        let socket = all.directory.path().join("filer.sock");
        let flags = format!(
            "-master={master} -defaultReplicaPlacement=001 -localSocket={}",
            socket.display()
        );
        all.spawn("filer", "filer", ports[1], "-defaultStoreDir", &flags)?;
        Ok(all)
    }

    /// Starts one server and waits until it takes connections.
    fn spawn(
        &mut self,
        name: &str,
        role: &str,
        port: u16,
        directory_flag: &str,
        flags: &str,
    ) -> Result<(), Failure> {
        let cannot = failed(format!("cannot start SeaweedFS's {name}"));
        let directory = self.directory.path().join(name.replace(' ', "-"));
        std::fs::create_dir(&directory).map_err(|error| cannot(&error))?;
        let log = directory.with_extension("log");
        let output = File::create(&log).map_err(|error| cannot(&error))?;
        let child = Command::new(&self.program)
            .arg(role)
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-port={port}"))
            .arg(format!("{directory_flag}={}", directory.display()))
            .args(flags.split_whitespace())
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(|error| cannot(&error))?)
            .stderr(output)
            // What a terminal sends to us is not for it: we end it ourselves.
            .process_group(0)
            .spawn()
            .map_err(|error| cannot(&error))?;
        let running = Running::open(child.id()).map_err(|error| cannot(&error))?;
        self.servers.0.push(Server { name: name.to_string(), child, running, log });
        let address = (Ipv4Addr::LOCALHOST, port);
        self.wait(&format!("{name} takes no connections"), || {
            Ok(TcpStream::connect(address).is_ok().then_some(()))
        })
    }

    /// Tries until there is a result. The wait between is one for a server's end.
    fn wait<T>(
        &self,
        without: &str,
        mut attempt: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        loop {
            self.interrupt.check()?;
            if let Some(result) = attempt()? {
                return Ok(result);
            }
            let Some(last) = self.servers.0.last() else { continue };
            let has_ended = last.running.wait(LOOK_EVERY);
            if has_ended || begun.elapsed() > READY {
                let text = match has_ended {
                    true => format!("SeaweedFS's {} ended at once", last.name),
                    false => format!("SeaweedFS does not come up: {without}"),
                };
                let mut failure = Failure::new(Exit::Failed, text);
                failure.details = tail(&last.log, 10).iter().map(shown).collect();
                return Err(failure);
            }
        }
    }

    fn wait_for_volume_servers(&self) -> Result<(), Failure> {
        self.wait("the master does not see all volume servers", || {
            let status = self.ask_master("/dir/status")?;
            let status: Status = parse(&status)?;
            let centers = status.topology.data_centers.unwrap_or_default();
            let racks = centers.iter().flat_map(|center| &center.racks);
            let servers: usize = racks.map(|rack| rack.data_nodes.len()).sum();
            Ok((servers == VOLUME_SERVERS).then_some(()))
        })
    }

    fn ask_master(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut reply = Vec::new();
        let asked = self.http(&self.master)?.get(path, &mut reply);
        asked.map_err(|error| refused(&error)).map(|()| reply)
    }

    /// A connection to one of its servers.
    pub fn http(&self, address: &str) -> Result<Http, Failure> {
        Http::new(address, &self.interrupt).map_err(|error| refused(&error))
    }

    /// Fails unless there are two copies of a volume.
    pub fn check_copies(&self, volume: &str) -> Result<(), Failure> {
        let found: Found = parse(&self.ask_master(&format!("/dir/lookup?volumeId={volume}"))?)?;
        match found.locations.len() {
            2 => Ok(()),
            copies => {
                let text = format!("SeaweedFS has {copies} copies of volume {volume}, and not 2");
                Err(Failure::new(Exit::Failed, text))
            }
        }
    }

    /// Fails unless there are two copies of all volumes in which the filer has put a file.
    pub fn check_copies_of(&self, path: &str) -> Result<(), Failure> {
        let mut reply = Vec::new();
        let asked = self.http(&self.filer)?.get(&format!("{path}?metadata=true"), &mut reply);
        asked.map_err(|error| refused(&error))?;
        let entry: Entry = parse(&reply)?;
        let volume = |chunk: &Chunk| chunk.file_id.split(',').next().map(str::to_string);
        let volumes: BTreeSet<String> = entry.chunks.iter().filter_map(volume).collect();
        volumes.iter().try_for_each(|volume| self.check_copies(volume))
    }

    /// What its own program is started with to put a file; output comes by a pipe.
    pub fn upload_command(&self, file: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["upload", "-replication=001", "-maxMB=32"])
            .arg(format!("-master={}", self.master))
            .arg(file)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        command
    }

    /// The servers.
    pub fn processes(&self) -> Vec<Process> {
        let process = |s: &Server| Process { name: s.name.clone(), pid: s.child.id() };
        self.servers.0.iter().map(process).collect()
    }

    /// Ends it and removes all of it.
    pub fn remove(self) -> Result<(), Failure> {
        let SeaweedFs { servers, directory, .. } = self;
        drop(servers);
        directory.remove()
    }
}

/// What `/dir/status` says, as far as it is of interest.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    topology: Topology,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Topology {
    data_centers: Option<Vec<DataCenter>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DataCenter {
    racks: Vec<Rack>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rack {
    data_nodes: Vec<serde::de::IgnoredAny>,
}

/// What `/dir/lookup` says.
#[derive(Deserialize)]
struct Found {
    locations: Vec<serde::de::IgnoredAny>,
}

/// What the filer says of a file.
#[derive(Deserialize)]
struct Entry {
    chunks: Vec<Chunk>,
}

#[derive(Deserialize)]
struct Chunk {
    file_id: String,
}

/// Reads a reply.
pub fn parse<'a, T: Deserialize<'a>>(reply: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(reply).map_err(|error| {
        let text = format!("SeaweedFS answered {}", shown(String::from_utf8_lossy(reply).as_ref()));
        Failure::because(Exit::Failed, text, &error)
    })
}

/// Ports that are free now, and whose gRPC ports are. Below those that the system gives to
/// connections, so that none is taken between now and its use.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    const FROM: u16 = 12_000;
    const RANGE: u16 = GRPC;
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(|error| {
        failed("the system gives no random number")(&std::io::Error::other(error))
    })?;
    let start = u16::from_le_bytes(random) % RANGE;
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    let candidates = (0..RANGE).map(|step| FROM + (start + step) % RANGE);
    // Bound until all are found, so that none is found twice.
    let bound = candidates.filter_map(|port| Some((port, bind(port)?, bind(port + GRPC)?)));
    let bound: Vec<_> = bound.take(count).collect();
    if bound.len() < count {
        return Err(Failure::new(Exit::Unavailable, "too few ports are free for SeaweedFS"));
    }
    Ok(bound.into_iter().map(|(port, _, _)| port).collect())
}
