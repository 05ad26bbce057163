//! `up` and `down`: a cluster on this machine, kept between runs.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;

use clap::Args;
use crossbeam_channel::{Receiver, bounded, select};
use serde::Serialize;

use super::client::Common;
use super::client_config::{load_file, user_directory, user_file};
use super::cluster::{LocalCluster, Plan, State, write_private};
use super::exit::{Exit, Failure};
use super::output::{print, print_json, shown};
use super::process::{ProcessRecord, Started};
use super::signals;
use super::size::ByteSize;
use crate::ids::MAX_COPIES;

/// Run a whole cluster on this machine: a main server and storage nodes over one directory
///
/// What is stored in it is kept between runs. Its settings are written to client.toml in the
/// directory, and become your own when you have none yet, so that `p2pdfs put` needs no flags.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs up                     until Ctrl-C
  p2pdfs up --detach            in the background; `p2pdfs down` stops it
  p2pdfs up --dir /srv/p2pdfs --nodes 5 --space 100G")]
pub struct UpArgs {
    /// Where everything is kept [default: ~/.local/share/p2pdfs]
    #[arg(long, env = "P2PDFS_UP_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many storage nodes [default: 3, or as many as there were]
    #[arg(long, env = "P2PDFS_UP_NODES", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Option<u32>,
    /// Copies that `put` makes of each chunk unless it is told otherwise [default: 3]
    #[arg(long, env = "P2PDFS_UP_COPIES", value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_COPIES)))]
    copies: Option<u8>,
    /// Space that each node offers, as in 500M or 10G [default: 10G, or what it was]
    #[arg(long, env = "P2PDFS_UP_SPACE", value_name = "SIZE")]
    space: Option<ByteSize>,
    /// Return as soon as it is ready
    #[arg(short, long)]
    detach: bool,
    /// Leave the user's own settings alone, even when there are none
    #[arg(long)]
    no_user_config: bool,
}

/// Stop the cluster that `up` started
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  p2pdfs down --dir /srv/p2pdfs")]
pub struct DownArgs {
    /// Where it is kept [default: ~/.local/share/p2pdfs]
    #[arg(long, env = "P2PDFS_UP_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn directory(given: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    let own = || user_directory("XDG_DATA_HOME", ".local/share").map(|dir| dir.join("p2pdfs"));
    given.cloned().or_else(own).ok_or_else(|| {
        Failure::new(Exit::Usage, "no directory is known: HOME is not set")
            .hint("give one with --dir")
    })
}

#[derive(Serialize)]
struct UpDocument<'a> {
    directory: &'a Path,
    main: &'a str,
    client_toml: &'a Path,
    user_config: Option<PathBuf>,
    copies: u8,
    processes: Vec<&'a ProcessRecord>,
}

/// The command `up`.
pub fn up(common: &Common, args: &UpArgs) -> Result<Exit, Failure> {
    let directory = directory(args.dir.as_ref())?;
    refuse_second(&directory)?;
    let requests = signals::stop_requests()
        .map_err(|error| Failure::because(Exit::Failed, "cannot listen for signals", &error))?;
    let plan = Plan { directory, nodes: args.nodes, copies: args.copies, space: args.space };
    let cluster = LocalCluster::start(&plan, |step| {
        if !common.quiet && !common.json {
            eprintln!("{step}");
        }
    })?;
    if requests.try_recv().is_ok() {
        return Ok(Exit::Interrupted);
    }
    let user_config = match args.no_user_config || common.config.is_some() {
        true => None,
        false => adopt_settings(&cluster)?,
    };
    if common.json {
        print_json(&UpDocument {
            directory: &cluster.directory,
            main: &cluster.main.address,
            client_toml: &cluster.client_toml,
            user_config,
            copies: cluster.copies,
            processes: cluster.processes.iter().map(|process| &process.record).collect(),
        })?;
    } else if !common.quiet {
        print(&in_words(&cluster, user_config.as_deref(), args.detach))?;
    }
    if args.detach {
        cluster.leave_running();
        return Ok(Exit::Done);
    }
    watch(cluster, &requests)
}

fn refuse_second(directory: &Path) -> Result<(), Failure> {
    let state = State::load(directory)?;
    let running: Vec<&ProcessRecord> =
        state.processes.iter().filter(|process| process.find().is_some()).collect();
    if running.is_empty() {
        return Ok(());
    }
    let line = |p: &&ProcessRecord| format!("{} (pid {}) {}", p.name, p.pid, p.address);
    let text = format!("a cluster is running in {} already", shown(directory));
    let mut failure = Failure::new(Exit::Failed, text)
        .hint(format!("use it, or stop it with `p2pdfs down --dir {}`", shown(directory)));
    failure.details = running.iter().map(|p| line(p).trim_end().to_string()).collect();
    Err(failure)
}

/// Makes the settings the user's own when there are none, or when those there are this cluster's.
fn adopt_settings(cluster: &LocalCluster) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = user_file() else { return Ok(None) };
    if path.exists() {
        let is_ours = || -> Option<bool> {
            let own = load_file(&path).ok()?.settings;
            let new = load_file(&cluster.client_toml).ok()?.settings;
            Some(own.key.fingerprint() == new.key.fingerprint())
        };
        if is_ours() != Some(true) {
            return Ok(None);
        }
    }
    let failed = |error: &std::io::Error| {
        Failure::because(Exit::Failed, format!("cannot write {}", shown(&path)), error)
            .hint("to leave your own settings alone, add --no-user-config")
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed(&error))?;
    }
    let text = std::fs::read(&cluster.client_toml).map_err(|error| failed(&error))?;
    write_private(&path, &text)?;
    Ok(Some(path))
}

fn in_words(cluster: &LocalCluster, user_config: Option<&Path>, is_detached: bool) -> String {
    let toml = shown(&cluster.client_toml);
    let (settings, flag) = match user_config {
        Some(path) => (format!("{toml}, and yours: {}", shown(path)), String::new()),
        None => (toml.clone(), format!(" --config {toml}")),
    };
    let nodes = cluster.processes.len() - 1;
    let mut text = format!(
        "ready: {} in {}\nsettings: {settings}\nnow type: p2pdfs{flag} put FILE /\n",
        super::output::counted(nodes as u64, "node"),
        shown(&cluster.directory),
    );
    text.push_str(&match is_detached {
        true => format!("to stop: p2pdfs down --dir {}\n", shown(&cluster.directory)),
        false => "to stop: Ctrl-C\n".to_string(),
    });
    text
}

/// Waits for a signal, and tells of processes that end meanwhile.
fn watch(cluster: LocalCluster, requests: &Receiver<i32>) -> Result<Exit, Failure> {
    let directory = cluster.directory.clone();
    let processes = cluster.take_processes();
    let state = State { processes: processes.iter().map(|p| p.record.clone()).collect() };
    let mut left = processes.len();
    let ends = watch_ends(processes)?;
    while left > 0 {
        select! {
            recv(requests) -> _ => {
                eprintln!("stopping");
                state.stop(&directory);
                return Ok(Exit::Done);
            }
            recv(ends) -> end => {
                left -= 1;
                let Ok((name, log, status)) = end else { break };
                if status.is_some_and(|status| status.success()) {
                    eprintln!("{name} was stopped");
                } else {
                    let how = status.map_or("in an unknown way".to_string(), |s| s.to_string());
                    eprintln!("{name} ended: {how}; its log is {}", shown(&log));
                }
            }
        }
    }
    state.stop(&directory);
    Ok(Exit::Done)
}

type End = (String, PathBuf, Option<ExitStatus>);

fn watch_ends(processes: Vec<Started>) -> Result<Receiver<End>, Failure> {
    let (sender, ends) = bounded(processes.len());
    for process in processes {
        let (sender, name, log) =
            (sender.clone(), process.record.name.clone(), process.log.clone());
        let spawned = thread::Builder::new().name(name.clone()).spawn(move || {
            let status = process.wait().ok();
            // Nobody listens any more when all of it is being stopped.
            let _ = sender.send((name, log, status));
        });
        spawned.map_err(|e| Failure::because(Exit::Failed, "cannot watch the processes", &e))?;
    }
    Ok(ends)
}

#[derive(Serialize)]
struct DownDocument {
    stopped: Vec<String>,
}

/// The command `down`.
pub fn down(common: &Common, args: &DownArgs) -> Result<Exit, Failure> {
    let directory = directory(args.dir.as_ref())?;
    if !directory.exists() {
        let text = format!("there is no cluster in {}", shown(&directory));
        return Err(Failure::new(Exit::NotFound, text).hint("say where it is with --dir"));
    }
    let stopped = State::load(&directory)?.stop(&directory);
    if common.json {
        print_json(&DownDocument { stopped })?;
    } else if stopped.is_empty() {
        eprintln!("nothing was running in {}", shown(&directory));
    } else if !common.quiet {
        eprintln!("stopped {}", stopped.join(", "));
    }
    Ok(Exit::Done)
}
