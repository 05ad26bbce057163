//! `bench`: how fast a cluster is, beside what the machine itself can do in the same minutes.
//!
//! Each round stores fresh content, compares all that it reads with what was put, and is removed.

pub mod content;
pub mod interrupt;
pub mod machine;
pub mod measure;
pub mod place;
pub mod report;
mod stored;
pub mod tree;
pub mod usage;
pub mod workloads;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args;

use super::client::Common;
use super::countdown::Countdown;
use super::exit::{Exit, Failure};
use super::output::{counted, failure, print, print_json, shown};
use super::size::ByteSize;
use crate::client::Client;
use crate::ids::MAX_COPIES;
use crate::remote_path::RemotePath;
use content::Content;
use interrupt::Interrupt;
use place::{Given, Own, Scratch, file_system};
use report::{Cluster, ComparedTotals, Document, Row};
use usage::Process;
use workloads::{Compared, Measured, Round, Sizes, Workload};

/// Measure how fast a cluster is, and how fast this machine could be
///
/// Runs workloads on your cluster, in a directory of the store that is purged afterwards, or with
/// --local on a cluster of its own that is there for the bench alone. Just before each workload it
/// measures the machine's own limit for it: synced writes, raw TCP, created and synced files. All
/// content is fresh, and everything is read back and compared. Interrupted, it leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs bench --local                        a main server and 3 nodes of its own
  p2pdfs bench --local --dir /dev/shm         the same in memory, without a disk
  p2pdfs bench --local --quick                a first look, in seconds
  p2pdfs bench --rounds 5 --json > result     your own cluster, for a program
  p2pdfs bench --only put-small-1,put-small-16 --seconds 10")]
pub struct BenchArgs {
    /// Bring up a main server and storage nodes for the bench, anew in each round, and remove them
    #[arg(long)]
    local: bool,
    /// How many storage nodes with --local [default: 3]
    #[arg(long, value_name = "N", requires = "local",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Option<u32>,
    /// Where sources, the limits' files and a local cluster are kept meanwhile
    /// [default: where temporary files are; for a cluster of `up`, its own directory]
    #[arg(long, env = "P2PDFS_BENCH_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only these workloads
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_enum)]
    only: Vec<Workload>,
    /// Rounds: in each, every limit and its workload run one after the other; shown are medians
    /// [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Size of the large file [default: 1G]
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Files in the tree [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    files: Option<u64>,
    /// How long single puts and gets run, each [default: 3]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// Copies of each chunk
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_COPIES)))]
    copies: u8,
    /// Smaller defaults: 1 round, 64M, 500 files, 0.5 seconds
    #[arg(long)]
    quick: bool,
}

/// A duration as the command line has it.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| format!("a number of seconds from 0.01 to 86400, not {text:?}"))
}

impl BenchArgs {
    fn sizes(&self) -> Sizes {
        let (size, files, seconds) = match self.quick {
            true => (ByteSize(64 << 20), 500, 0.5),
            false => (ByteSize(1 << 30), 10_000, 3.0),
        };
        Sizes {
            size_bytes: self.size.unwrap_or(size).0,
            files: self.files.unwrap_or(files),
            seconds: self.seconds.unwrap_or(seconds),
            copies: self.copies,
        }
    }

    /// What lies on the disk at most at a time: sources, the limits' files, and the copies of a cluster
    /// of its own.
    fn bytes_on_disk(&self) -> u64 {
        let sizes = self.sizes();
        let each = sizes.size_bytes.saturating_add(sizes.files.saturating_mul(8192));
        let copies = if self.local { u64::from(sizes.copies) } else { 1 };
        each.saturating_mul(1 + copies).saturating_add(64 << 20)
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut chosen = match self.only.as_slice() {
            [] => <Workload as clap::ValueEnum>::value_variants().to_vec(),
            only => only.to_vec(),
        };
        // What is got was put before.
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

/// Where a bench works in the store of a cluster of its own.
const OWN_DIRECTORY: &str = "/bench";

/// What all rounds share.
struct Bench<'a> {
    common: &'a Common,
    workloads: Vec<Workload>,
    sizes: Sizes,
    rounds: u32,
    interrupt: Interrupt,
    scratch: Scratch,
    results: BTreeMap<Workload, Vec<Measured>>,
    compared: ComparedTotals,
}

/// The command.
pub fn bench(common: &Common, args: &BenchArgs) -> Result<Exit, Failure> {
    let interrupt = Interrupt::listen()?;
    let given = if args.local { None } else { Some(Given::find(common)?) };
    let up_directory = given.as_ref().and_then(|given| given.up.as_ref()).map(|(dir, _)| dir);
    let above = args.dir.as_deref().or(up_directory.map(PathBuf::as_path));
    let mut bench = Bench {
        common,
        workloads: args.workloads(),
        sizes: args.sizes(),
        rounds: args.rounds(),
        interrupt,
        scratch: Scratch::new(above)?,
        results: BTreeMap::new(),
        compared: ComparedTotals::default(),
    };
    bench.scratch.has_room_for(args.bytes_on_disk())?;
    let cluster = match &given {
        Some(given) => bench.on_given(given)?,
        None => bench.on_own(args.nodes.unwrap_or(3))?,
    };
    let document = bench.finish(cluster)?;
    match common.json {
        true => print_json(&document)?,
        false => print(&document.in_words())?,
    }
    Ok(Exit::Done)
}

impl Bench<'_> {
    /// Runs all rounds on clusters of its own, a new one for each, so that none finds what another
    /// left.
    fn on_own(&mut self, nodes: u32) -> Result<Cluster, Failure> {
        if u32::from(self.sizes.copies) > nodes {
            let text = format!("{} copies need as many nodes", self.sizes.copies);
            return Err(Failure::new(Exit::Usage, text).hint("give fewer --copies or more --nodes"));
        }
        let space = ByteSize(self.sizes.size_bytes.saturating_mul(2).saturating_add(10 << 30));
        for round in 1..=self.rounds {
            self.note_round(round, &format!("a cluster of {}", counted(nodes.into(), "node")));
            let own = Own::start(self.scratch.path(), nodes, self.sizes.copies, space)?;
            let client = own.client(&self.interrupt)?;
            let mut processes = vec![Process::client()];
            processes.extend(own.processes());
            let store: RemotePath = OWN_DIRECTORY.parse().expect("it is a plain path");
            let made = client.make_directory(&store, true);
            made.map_err(|error| failure(&format!("cannot make {store}"), &error))?;
            self.round(round, &client, &processes, store)?;
            own.remove()?;
        }
        Ok(self.cluster("local", None, nodes, true))
    }

    /// Runs all rounds on the user's cluster.
    fn on_given(&mut self, given: &Given) -> Result<Cluster, Failure> {
        let client = given.client(&self.interrupt);
        let status = client.status();
        let (_, nodes) = status.map_err(|e| failure("cannot see the state of the cluster", &e))?;
        let mut processes = vec![Process::client()];
        processes.extend(given.up.iter().flat_map(|(_, servers)| servers.iter().cloned()));
        for round in 1..=self.rounds {
            let directory = given.make_directory(&client)?;
            self.note_round(round, &format!("{} in {}", directory.path, given.main()));
            self.round(round, &client, &processes, directory.path.clone())?;
            directory.remove()?;
        }
        let nodes = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let kind = if given.up.is_some() { "up" } else { "given" };
        Ok(self.cluster(kind, Some(given.main().to_string()), nodes, given.up.is_some()))
    }

    fn note_round(&self, round: u32, on: &str) {
        if !self.common.quiet {
            let place = shown(self.scratch.path());
            eprintln!("round {round} of {}: {on}; files are in {place}", self.rounds);
        }
    }

    fn cluster(
        &self,
        kind: &'static str,
        main: Option<String>,
        nodes: u32,
        sees_servers: bool,
    ) -> Cluster {
        let directory = self.scratch.path();
        Cluster {
            kind,
            main,
            nodes,
            limits_of: if sees_servers { "nodes" } else { "client" },
            directory: shown(directory.parent().unwrap_or(directory)),
            file_system: file_system(directory),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn round(
        &mut self,
        number: u32,
        client: &Client,
        processes: &[Process],
        store: RemotePath,
    ) -> Result<(), Failure> {
        let progress = Countdown::spinner(self.common);
        let place = self.scratch.path();
        let content = Content::random()
            .map_err(|e| Failure::because(Exit::Failed, "the system gives no random number", &e))?;
        let mut round = Round {
            client,
            interrupt: &self.interrupt,
            store,
            sources: place,
            disk: place,
            sizes: &self.sizes,
            processes,
            content,
            compared: Compared::default(),
            has_large: false,
            has_tree: false,
        };
        for &workload in &self.workloads {
            let name = workload.name();
            let said = |step: &str| progress.say(&format!("round {number}: {name}: {step}"));
            let measured = round.measure(workload, &said);
            // What ends because of a signal fails in many ways.
            self.interrupt.check()?;
            self.results.entry(workload).or_default().push(measured?);
        }
        self.compared.files += round.compared.files.load(Ordering::Relaxed);
        self.compared.bytes += round.compared.bytes.load(Ordering::Relaxed);
        Ok(())
    }

    fn finish(self, cluster: Cluster) -> Result<Document, Failure> {
        let sees_servers = cluster.limits_of == "nodes";
        let copies = self.sizes.copies;
        let row = |(name, measured): (&Workload, &Vec<Measured>)| {
            Row::of(*name, measured, copies, sees_servers, sees_servers)
        };
        let workloads = self.results.iter().filter_map(row).collect();
        self.scratch.remove()?;
        Ok(Document {
            version: env!("CARGO_PKG_VERSION"),
            rounds: self.rounds,
            sizes: self.sizes,
            cluster,
            workloads,
            compared: self.compared,
        })
    }
}
