//! `p2pdfs-main`: flags become the main server's configuration.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use crossbeam_channel::select;
use log::LevelFilter;

use super::allocator;
use super::exit::{Exit, Failure};
use super::limits;
use super::logging::{self, Verbosity};
use super::recovery::RecoveryFlags;
use super::retention::RetentionFlags;
use super::{metrics_endpoint, signals};
use crate::clock::Clock;
use crate::main_server::{
    self, CatalogError, Config, Directory, DirectoryError, JournalKeys, JournalSetup, MainServer,
    RepairSpeed,
};
use crate::policy::placement::Placement;
use crate::server::Limits;
use crate::size::ByteSize;

const PROGRAM: &str = "p2pdfs-main";

const EXAMPLES: &str = "\
Examples:
  p2pdfs-main --dir /srv/p2pdfs/main
      Serve on 127.0.0.1:7000. The first start makes the catalog, and client.toml beside it with the
      key of the first account, `admin`.
  p2pdfs --config /srv/p2pdfs/main/client.toml admin invite
      Make an invite with which a storage node can join.
  p2pdfs-main --dir /srv/p2pdfs/new --recover --from 10.0.0.7:7001 --recovery-key-file key
      Build the catalog anew from what the nodes keep of it, when the main server's disk is gone, and
      serve. The key is the one that the first start printed.
  p2pdfs-main check /srv/p2pdfs/main
      Say what is in a stopped main server's directory, and what is wrong with it.

It prints `p2pdfs-main ready ADDRESS` once it serves, and logs to stderr. SIGINT and SIGTERM stop it in
order; a second one at once.";

/// The main server of a p2pdfs cluster: it keeps the books, and says where chunks go and are
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, after_help = EXAMPLES, subcommand_negates_reqs = true)]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,

    /// Directory of the catalog; it is made at the first start
    #[arg(long, value_name = "DIR", required = true, env = "P2PDFS_MAIN_DIR")]
    dir: Option<PathBuf>,

    /// Address and port to serve on
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7000",
        env = "P2PDFS_MAIN_LISTEN"
    )]
    listen: SocketAddr,

    /// How nodes are chosen for new copies
    #[arg(long, value_name = "HOW", default_value = "balanced", env = "P2PDFS_MAIN_PLACEMENT")]
    placement: PlacementFlag,

    /// Milliseconds between a node's heartbeats; a node is suspect after 3 of them, dead after 12
    #[arg(long, value_name = "MS", default_value_t = 5000, env = "P2PDFS_MAIN_HEARTBEAT_MS",
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    heartbeat_ms: u64,

    /// How fast missing copies are made at most: bytes a second, such as 100M, or `unlimited`. Without
    /// it, as fast as it goes beside what clients do
    #[arg(long, value_name = "SPEED", env = "P2PDFS_MAIN_REPAIR_SPEED", value_parser = repair_speed)]
    repair_speed: Option<RepairSpeed>,

    /// Serve other machines too, though nothing is encrypted
    #[arg(long, env = "P2PDFS_MAIN_INSECURE_PLAINTEXT")]
    insecure_plaintext: bool,

    /// Connections open at once; a tenth of them are kept for nodes
    #[arg(long, value_name = "N", default_value_t = 10_000, env = "P2PDFS_MAIN_MAX_CONNECTIONS",
          value_parser = clap::value_parser!(u32).range(10..))]
    max_connections: u32,

    /// Address and port at which metrics for Prometheus can be got, at /metrics
    #[arg(long, value_name = "ADDRESS", env = "P2PDFS_MAIN_METRICS")]
    metrics: Option<SocketAddr>,

    #[command(flatten)]
    recovery: RecoveryFlags,

    #[command(flatten)]
    retention: RetentionFlags,

    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is in a stopped main server's directory, and what is wrong with it
    Check {
        dir: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PlacementFlag {
    /// The emptier of two nodes drawn by the space they offer, in other zones where there are any
    Balanced,
    /// One node after the other
    RoundRobin,
}

/// The program.
pub fn main() -> ExitCode {
    allocator::return_large_buffers();
    let flags = Flags::parse();
    let done = match (&flags.command, &flags.dir) {
        (Some(Command::Check { dir, json }), _) => check(dir, *json),
        (None, Some(dir)) => serve(&flags, dir),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(PROGRAM),
    }
}

fn config(flags: &Flags) -> Config {
    let connections = flags.max_connections as usize;
    let limits =
        Limits { connections, node_connections: connections.div_ceil(10), ..Limits::default() };
    Config {
        placement: match flags.placement {
            PlacementFlag::Balanced => Placement::Balanced,
            PlacementFlag::RoundRobin => Placement::RoundRobin,
        },
        heartbeat: Duration::from_millis(flags.heartbeat_ms),
        limits,
        repair_speed: flags.repair_speed.unwrap_or_default(),
        insecure_plaintext: flags.insecure_plaintext,
        keep_removed: flags.retention.keep_removed,
        collect_every: flags.retention.collect_every,
        upload_lease: flags.retention.upload_lease,
    }
}

fn repair_speed(text: &str) -> Result<RepairSpeed, String> {
    if text == "unlimited" {
        return Ok(RepairSpeed::Unlimited);
    }
    let size: ByteSize = text.parse().map_err(|error| format!("{error}, and not `unlimited`"))?;
    Ok(RepairSpeed::BytesPerSecond(size.0))
}

fn serve(flags: &Flags, dir: &Path) -> Result<Exit, Failure> {
    logging::start(flags.verbosity.level(LevelFilter::Info));
    limits::raise_open_files();
    let signals = signals::stop_requests()
        .map_err(|error| Failure::because(Exit::Failed, "cannot wait for signals", &error))?;
    let listener =
        main_server::bind(flags.listen, flags.insecure_plaintext).map_err(cannot_listen)?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::because(Exit::Failed, "cannot listen", &error))?;
    flags.recovery.recover(dir, address, flags.insecure_plaintext)?;
    let metrics = metrics_endpoint::listen(flags.metrics, flags.insecure_plaintext)?;
    let directory = Directory::open(dir, address).map_err(|error| cannot_open(dir, &error))?;
    if directory.is_new {
        let file = directory.client_file.display();
        log::info!("first start: the key of account admin is in {file}");
    }
    let catalog = Arc::new(directory.catalog);
    let catalog_failures = catalog.failures();
    let keys = JournalKeys::open(dir, |key| flags.recovery.show(key));
    let keys = keys.map_err(|error| cannot_open(dir, &error))?;
    let journal = JournalSetup { catalog, directory: dir.join("journal"), keys };
    let server = MainServer::start_with_journal(config(flags), journal, listener, Clock::system());
    let mut server = server
        .map_err(|error| Failure::because(Exit::Failed, "cannot start the main server", &error))?;
    let metrics = metrics_endpoint::start(metrics, server.metrics())?;
    announce(address);
    let failures = server.failures();
    let why = select! {
        recv(signals) -> _ => None,
        recv(failures) -> why => why.ok(),
        recv(catalog_failures) -> why => why.ok(),
    };
    drop(metrics);
    server.stop();
    match why {
        None => Ok(Exit::Done),
        Some(why) => Err(Failure::new(
            Exit::Failed,
            format!("stopped, since the catalog in {} failed: {why}", dir.display()),
        )
        .hint(format!("see to the disk, then try {PROGRAM} check {}", dir.display()))),
    }
}

/// Whoever started us and reads no longer does not care.
fn announce(address: SocketAddr) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{PROGRAM} ready {address}").and_then(|()| out.flush());
}

fn cannot_listen(error: DirectoryError) -> Failure {
    let hint = match &error {
        DirectoryError::NotLoopback(_) => {
            "listen on 127.0.0.1, or add --insecure-plaintext where the network can be trusted"
        }
        _ => "another program may serve there: choose another address with --listen",
    };
    Failure::because(Exit::Failed, "cannot start the main server", &error).hint(hint)
}

fn cannot_open(dir: &Path, error: &DirectoryError) -> Failure {
    let (exit, hint) = match error {
        DirectoryError::Catalog(error) => of_catalog(error, dir),
        _ => (Exit::Failed, None),
    };
    let what = format!("cannot use the directory {}", dir.display());
    Failure { hint, ..Failure::because(exit, what, error) }
}

/// The exit code for an error of the catalog, and what to type next.
pub(super) fn of_catalog(error: &CatalogError, dir: &Path) -> (Exit, Option<String>) {
    let dir = dir.display();
    match error {
        CatalogError::Missing(_) => {
            (Exit::NotFound, Some(format!("{PROGRAM} --dir {dir} makes one at its first start")))
        }
        CatalogError::Locked(_) => {
            (Exit::Unavailable, Some("stop the main server that runs on it first".to_string()))
        }
        CatalogError::Damaged(_) => (Exit::Damaged, Some(format!("try {PROGRAM} check {dir}"))),
        CatalogError::Format { .. } => {
            (Exit::Failed, Some("use the version of p2pdfs that wrote it".to_string()))
        }
        CatalogError::AlreadyThere(_)
        | CatalogError::Refused(_)
        | CatalogError::Failed(_)
        | CatalogError::Engine { .. }
        | CatalogError::Io { .. } => (Exit::Failed, None),
    }
}

fn check(dir: &Path, json: bool) -> Result<Exit, Failure> {
    let report = main_server::check(dir).map_err(|error| {
        let (exit, hint) = of_catalog(&error, dir);
        Failure {
            hint,
            ..Failure::because(exit, format!("cannot check {}", dir.display()), &error)
        }
    })?;
    let mut out = io::stdout().lock();
    let written = if json {
        let text = serde_json::to_string(&report).expect("a report has no failing serializers");
        writeln!(out, "{text}")
    } else {
        write_report(&mut out, &report)
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::because(Exit::Failed, "cannot write the report", &error))
        }
        _ if report.problems.is_empty() => Ok(Exit::Done),
        _ => Ok(Exit::Damaged),
    }
}

fn write_report(out: &mut impl Write, report: &main_server::CatalogReport) -> io::Result<()> {
    let lines: [(&str, &dyn std::fmt::Display); 11] = [
        ("cluster", &report.cluster),
        ("format", &report.format),
        ("accounts", &report.accounts),
        ("nodes", &report.nodes),
        ("files", &report.files),
        ("directories", &report.directories),
        ("versions", &report.versions),
        ("chunks", &report.chunks),
        ("copies", &report.copies),
        ("under-copied", &report.under_copied),
        ("problems", &report.problems.len()),
    ];
    for (name, value) in lines {
        writeln!(out, "{name:<14}{value}")?;
    }
    for problem in &report.problems {
        writeln!(out, "problem: {problem}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent_and_each_has_its_variable() {
        let command = Flags::command();
        command.clone().debug_assert();
        let own = ["help", "version", "verbose", "quiet"];
        for flag in command.get_arguments().filter(|flag| !own.contains(&flag.get_id().as_str())) {
            let variable = flag.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            let name = flag.get_id().as_str().to_uppercase();
            assert_eq!(variable, format!("P2PDFS_MAIN_{name}"));
        }
    }

    #[test]
    fn check_needs_no_other_flag() {
        let flags = Flags::try_parse_from([PROGRAM, "check", "/x", "--json"]).expect("good flags");
        assert!(matches!(flags.command, Some(Command::Check { json: true, .. })));
        assert!(Flags::try_parse_from([PROGRAM]).is_err());
    }
}
