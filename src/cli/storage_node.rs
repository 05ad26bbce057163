//! `p2pdfs-node`: flags become a storage node's configuration; what goes wrong becomes a message
//! with the next thing to type.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use crossbeam_channel::{Receiver, select};
use log::LevelFilter;

use crate::causes::with_causes;
use crate::cli::allocator;
use crate::cli::exit::{Exit, Failure};
use crate::cli::leave::{self, Interrupted};
use crate::cli::limits;
use crate::cli::logging::{self, Verbosity};
use crate::cli::metrics_endpoint;
use crate::cli::signals;
use crate::cli::span;
use crate::ids::{Address, Secret};
use crate::segments::check::{self, CheckError, CheckReport};
use crate::size::ByteSize;
use crate::storage_node::{Node, NodeConfig, NodeError, NodeLimits, ScrubConfig, ScrubRate};
use crate::wire::{CallError, FaultCode};

const PROGRAM: &str = "p2pdfs-node";

const EXAMPLES: &str = "\
Examples:
  Join a cluster (`p2pdfs admin invite` makes the invite):
    p2pdfs-node --dir /srv/node1 --main 127.0.0.1:7000 --space 100G --invite-file invite
  Start the same node again, with all that it was told:
    p2pdfs-node --dir /srv/node1
  Take it out for good: everything is moved to other nodes first
    p2pdfs-node --dir /srv/node1 --leave
  See what a stopped node's directory holds, and whether it is whole:
    p2pdfs-node check /srv/node1";

/// A storage node of p2pdfs: keeps chunks on this machine's disk for a main server's cluster
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a stopped node's directory, say what is there, and verify all of it
    Check {
        /// The node's directory
        directory: PathBuf,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Where the node keeps its chunks; made if it is not there and the node is invited
    #[arg(long, value_name = "DIR", env = "P2PDFS_NODE_DIR")]
    dir: Option<PathBuf>,
    /// The main server; remembered
    #[arg(long, value_name = "HOST:PORT", env = "P2PDFS_NODE_MAIN")]
    main: Option<Address>,
    /// How much the node may store, as in 500M or 10G; remembered
    #[arg(long, value_name = "SIZE", env = "P2PDFS_NODE_SPACE")]
    space: Option<ByteSize>,
    /// Where to listen; port 0 is the port of the last start, or any
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "P2PDFS_NODE_LISTEN",
        default_value = "127.0.0.1:0"
    )]
    listen: SocketAddr,
    /// Where others reach the node, if that is not where it listens; remembered
    #[arg(long, value_name = "HOST:PORT", env = "P2PDFS_NODE_ADDRESS")]
    address: Option<Address>,
    /// What it shares its fate with, such as a rack or a house: copies go to different zones;
    /// remembered
    #[arg(long, env = "P2PDFS_NODE_ZONE")]
    zone: Option<String>,
    /// The file with the invite to join with; `-` is stdin. Or P2PDFS_NODE_INVITE holds the invite
    #[arg(long, value_name = "FILE", env = "P2PDFS_NODE_INVITE_FILE")]
    invite_file: Option<PathBuf>,
    /// Allow connections from and to other machines, which are not encrypted
    #[arg(long, env = "P2PDFS_NODE_INSECURE_PLAINTEXT")]
    insecure_plaintext: bool,
    /// Connections open at once
    #[arg(
        long,
        value_name = "N",
        env = "P2PDFS_NODE_MAX_CONNECTIONS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(10..)
    )]
    max_connections: u32,
    /// Address and port at which metrics for Prometheus can be got, at /metrics
    #[arg(long, value_name = "ADDR:PORT", env = "P2PDFS_NODE_METRICS")]
    metrics: Option<SocketAddr>,
    /// How fast to read what is kept, to verify it: bytes a second as in 8M, `unlimited`, or `off`.
    /// While chunks are stored or fetched it is a quarter of that
    #[arg(long, value_name = "RATE", env = "P2PDFS_NODE_SCRUB_RATE", default_value = "8M",
        value_parser = scrub_rate)]
    scrub_rate: ScrubRate,
    /// From the begin of verifying everything to that of the next time, as in 12h; 1d if it is not
    /// given, and 1s with `--scrub-rate unlimited`
    #[arg(long, value_name = "TIME", env = "P2PDFS_NODE_SCRUB_EVERY", value_parser = span::parse)]
    scrub_every: Option<Duration>,
    /// The size of the files that chunks are kept in, as in 64M: space is freed a file at a time
    #[arg(long, value_name = "SIZE", env = "P2PDFS_NODE_SEGMENT", default_value = "256M")]
    segment: ByteSize,
    /// How long removed chunks are kept for sure, so that they can be brought back; after that, until
    /// their space is needed
    #[arg(long, value_name = "TIME", env = "P2PDFS_NODE_TRASH_HOLD", default_value = "1h",
        value_parser = span::parse)]
    trash_hold: Duration,
    /// When the node is expected back once it is stopped; for so long nothing of it is copied
    /// elsewhere
    #[arg(long, value_name = "TIME", env = "P2PDFS_NODE_BACK_IN", default_value = "10m",
        value_parser = span::parse)]
    back_in: Duration,
    /// Leave for good: run until everything is moved to other nodes, then end
    #[arg(long)]
    leave: bool,
    /// With --leave: at once, also when files are lost with it
    #[arg(long, requires = "leave")]
    force: bool,
    #[command(flatten)]
    verbosity: Verbosity,
}

fn scrub_rate(text: &str) -> Result<ScrubRate, String> {
    match text {
        "off" => Ok(ScrubRate::Off),
        "unlimited" => Ok(ScrubRate::Unlimited),
        rate => match rate.strip_suffix("/s").unwrap_or(rate).parse::<ByteSize>() {
            Ok(ByteSize(0)) => Err("a rate of nothing is `off`".to_string()),
            Ok(ByteSize(bytes)) => Ok(ScrubRate::BytesPerSecond(bytes)),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// The program.
pub fn main() -> ExitCode {
    allocator::return_large_buffers();
    let Cli { command, run } = Cli::parse();
    let done = match command {
        Some(Command::Check { directory, json }) => check_directory(&directory, json),
        None => run_node(run),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(PROGRAM),
    }
}

fn run_node(flags: Run) -> Result<Exit, Failure> {
    logging::start(flags.verbosity.level(LevelFilter::Info));
    limits::raise_open_files();
    let leaving = flags.leave.then_some(flags.force);
    let is_quiet = flags.verbosity.level(LevelFilter::Info) < LevelFilter::Info;
    let metrics = metrics_endpoint::listen(flags.metrics, flags.insecure_plaintext)?;
    let config = config(flags)?;
    let stop_requests = signals::stop_requests()
        .map_err(|error| Failure::because(Exit::Failed, "cannot handle signals", &error))?;
    let directory = config.directory.clone();
    let node = match Node::start(config) {
        Ok(node) => node,
        // It left before, and whoever waited for that was not told.
        Err(NodeError::Left(_)) if leaving.is_some() => {
            leave::farewell(&directory);
            return Ok(Exit::Done);
        }
        Err(error) => return Err(explain(&directory, &error)),
    };
    if let Some(error) = node.unreachable() {
        log::warn!("no main server yet, tried again and again error={}", with_causes(error));
    }
    let metrics = metrics_endpoint::start(metrics, node.metrics())?;
    say(&format!("{PROGRAM} ready node={} {}\n", node.number(), node.advertised()))?;
    let outcome = match leaving {
        Some(force) => leave(&node, &directory, force, is_quiet, &stop_requests),
        None => select! {
            recv(stop_requests) -> _ => Ok(Exit::Done),
            recv(node.failures()) -> failure => match failure {
                Ok(error) => Err(explain(&directory, &error)),
                Err(_) => Ok(Exit::Failed),
            },
        },
    };
    drop(metrics);
    node.stop();
    outcome
}

fn leave<T>(
    node: &Node,
    directory: &Path,
    force: bool,
    is_quiet: bool,
    stop_requests: &Receiver<T>,
) -> Result<Exit, Failure> {
    match leave::see_through(node, force, is_quiet, stop_requests) {
        Ok(()) => {
            leave::farewell(directory);
            Ok(Exit::Done)
        }
        Err(Interrupted::Stopped) => Err(leave::not_yet(directory, node)),
        Err(Interrupted::Failed(error)) => Err(explain(directory, &error)),
        Err(Interrupted::Refused(failure)) => Err(failure),
    }
}

/// Prints data. Whoever has closed the pipe wants no more of it.
fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::because(Exit::Failed, "cannot print", &error))
        }
        _ => Ok(()),
    }
}

fn config(flags: Run) -> Result<NodeConfig, Failure> {
    let directory = flags.dir.ok_or_else(|| {
        Failure::new(Exit::Usage, "no directory is given")
            .hint(format!("{PROGRAM} --dir DIR; `{PROGRAM} --help` says more"))
    })?;
    let connections = flags.max_connections as usize;
    Ok(NodeConfig {
        main: flags.main,
        space_bytes: flags.space.map(|space| space.0),
        zone: flags.zone,
        listen: flags.listen,
        address: flags.address,
        invite: invite(flags.invite_file.as_deref())?,
        insecure_plaintext: flags.insecure_plaintext,
        scrub: scrub(flags.scrub_rate, flags.scrub_every),
        segment_bytes: flags.segment.0.clamp(64 << 10, 1 << 30),
        trash_hold: flags.trash_hold,
        back_in: flags.back_in,
        limits: NodeLimits { connections, ..NodeLimits::default() },
        ..NodeConfig::new(directory)
    })
}

fn scrub(rate: ScrubRate, every: Option<Duration>) -> ScrubConfig {
    let usual = match rate {
        ScrubRate::Unlimited => Duration::from_secs(1),
        ScrubRate::Off | ScrubRate::BytesPerSecond(_) => ScrubConfig::default().every,
    };
    ScrubConfig { rate, every: every.unwrap_or(usual) }
}

/// The invite of the file, or else of the environment. A file that is gone is no trouble to a node
/// that has joined, so it is taken as no invite when that is all that is wrong with it.
fn invite(file: Option<&Path>) -> Result<Option<Secret>, Failure> {
    let text = match file {
        None => std::env::var("P2PDFS_NODE_INVITE").ok(),
        Some(path) if path == Path::new("-") => {
            Some(std::io::read_to_string(std::io::stdin()).map_err(|error| {
                Failure::because(Exit::Failed, "cannot read the invite from stdin", &error)
            })?)
        }
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                log::warn!("there is no invite file={}", path.display());
                None
            }
            Err(error) => {
                let what = format!("cannot read the invite {}", path.display());
                return Err(Failure::because(Exit::Failed, what, &error));
            }
        },
    };
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    // The text itself stays unsaid: it may be a good invite with a slip in it.
    let invite = text.trim().parse().map_err(|_| {
        Failure::new(Exit::Usage, "the invite is not one: 64 hexadecimal digits are expected")
            .hint("p2pdfs admin invite > FILE, then --invite-file FILE")
    });
    invite.map(Some)
}

/// What went wrong with the node, and what to do about it.
fn explain(directory: &Path, error: &NodeError) -> Failure {
    let shown = directory.display();
    let failure = |exit| Failure::because(exit, "cannot run the storage node", error);
    let join = format!("{PROGRAM} --dir {shown} --main HOST:PORT --space SIZE --invite-file FILE");
    match error {
        NodeError::NoNode(_) => failure(Exit::NotFound)
            .hint(format!("if a node was there, is its disk mounted? To make a new node: {join}")),
        NodeError::JoinUnfinished(_) => failure(Exit::Failed)
            .hint(format!("give it the same invite again, or a new one: {join}")),
        NodeError::NotEmpty { .. } => {
            failure(Exit::Failed).hint("give the node an empty directory of its own")
        }
        NodeError::IdentityMissing(_) => failure(Exit::Damaged)
            .hint("put node.json and keys.json back, or start a new node elsewhere"),
        NodeError::Missing(_) => failure(Exit::Usage).hint(join),
        NodeError::Locked(_) => failure(Exit::Failed)
            .hint("it runs already: stop that one first, or give this one a directory of its own"),
        NodeError::NotLoopback(_) => {
            failure(Exit::Usage).hint("on a network that you trust: add --insecure-plaintext")
        }
        NodeError::NoAddress(_) => {
            failure(Exit::Usage).hint("add --address HOST:PORT, as others reach this machine")
        }
        NodeError::Listen { .. } => {
            failure(Exit::Failed).hint("is it in use? Choose another with --listen ADDR:PORT")
        }
        NodeError::Join { source, .. } => explain_join(failure(exit_of(source)), source),
        NodeError::StaleDirectory(_) => failure(Exit::NotAllowed).hint(
            "run the node from the directory that it started from last; \
             for one more node, join from an empty directory",
        ),
        NodeError::ZoneTooLong(_) => failure(Exit::Usage),
        NodeError::BadFile { .. } | NodeError::Mixed { .. } => {
            failure(Exit::Damaged).hint("was it put together from several directories?")
        }
        NodeError::Store(_) => failure(Exit::Failed)
            .hint(format!("is its disk mounted? `{PROGRAM} check {shown}` says what is there")),
        NodeError::OtherCluster { .. } => failure(Exit::NotAllowed),
        NodeError::Left(_) => {
            failure(Exit::NotAllowed).hint(format!("{shown} can be deleted; to join anew: {join}"))
        }
        NodeError::Io { .. } | NodeError::Thread(_) => failure(Exit::Failed),
    }
}

fn explain_join(failure: Failure, source: &CallError) -> Failure {
    match source {
        CallError::Connect { .. } => {
            failure.hint("is the main server running there? p2pdfs-main --dir DIR")
        }
        CallError::NotLoopback(_) => {
            failure.hint("on a network that you trust: add --insecure-plaintext")
        }
        CallError::Fault(fault) if fault.code == FaultCode::Denied => {
            failure.hint("an invite is good for a while and so many nodes: p2pdfs admin invite")
        }
        CallError::Fault(fault) if fault.code == FaultCode::Unreachable => {
            failure.hint("say where others reach this node: --address HOST:PORT")
        }
        _ => failure,
    }
}

fn exit_of(error: &CallError) -> Exit {
    match error {
        CallError::Fault(fault) => Exit::of_fault(fault.code),
        CallError::NotLoopback(_) => Exit::Usage,
        CallError::Connect { .. } | CallError::Broken { .. } | CallError::Closed(_) => {
            Exit::Unavailable
        }
        CallError::BadReply { .. } => Exit::Failed,
    }
}

fn check_directory(directory: &Path, json: bool) -> Result<Exit, Failure> {
    let what = format!("cannot check {}", directory.display());
    let report = check::check(directory).map_err(|error| match error {
        CheckError::NotAStore(_) => Failure::because(Exit::NotFound, what, &error),
        CheckError::Locked(_) => Failure::because(Exit::Unavailable, what, &error),
        CheckError::BadMarker { .. } | CheckError::Version { .. } | CheckError::Io { .. } => {
            Failure::because(Exit::Failed, what, &error)
        }
    })?;
    if json {
        let text = serde_json::to_string_pretty(&report).expect("a report is plain data");
        say(&(text + "\n"))?;
    } else {
        say(&describe(&report))?;
    }
    Ok(if report.is_sound() { Exit::Done } else { Exit::Damaged })
}

/// The report for people: what is there in four lines, then what is wrong, one a line.
fn describe(report: &CheckReport) -> String {
    use std::fmt::Write;
    let chunk_bytes: u64 = report.chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
    let file_bytes: u64 = report.segments.iter().map(|segment| segment.bytes).sum();
    let mut text = format!(
        "node      {} of cluster {}\nsegments  {}, {}\nchunks    {} whole, {}\nremoved   {}\n",
        report.node,
        report.cluster,
        report.segments.len(),
        ByteSize(file_bytes),
        report.chunks.len(),
        ByteSize(chunk_bytes),
        report.tombstones.len()
    );
    for missing in &report.missing {
        let _ = writeln!(text, "missing   segments {} to {}", missing.start(), missing.end());
    }
    for finding in &report.findings {
        let kind = if finding.kind.is_damage() { "damaged " } else { "leftover" };
        let serial = finding.serial.map(|serial| format!(" serial {serial}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "{kind}  {:?} in segment {} at byte {}, {} bytes{serial}",
            finding.kind, finding.segment, finding.offset, finding.bytes
        );
    }
    text.push_str(if report.is_sound() { "sound\n" } else { "not sound\n" });
    text
}
