//! p2pdfs beside SeaweedFS: both on this machine at the same time, measured in turns, workload by
//! workload, by one load generator: that of `p2pdfs bench`. README.md beside this says how to run it
//! and what is compared.

mod http;
mod native;
mod pair;
mod report;
mod round;
mod upload;
mod way;
mod weed;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use p2pdfs::cli::bench::interrupt::Interrupt;
use p2pdfs::cli::bench::parse_seconds;
use p2pdfs::cli::bench::place::{Scratch, file_system};
use p2pdfs::cli::bench::report::ComparedTotals;
use p2pdfs::cli::bench::workloads::{Sizes, Workload};
use p2pdfs::cli::exit::{Exit, Failure};
use p2pdfs::cli::output::{print, shown};
use p2pdfs::cli::process::become_server;
use p2pdfs::cli::size::ByteSize;
use pair::Pair;
use report::{COPIES, Document, Results};

/// Measure p2pdfs beside SeaweedFS
#[derive(Debug, Parser)]
#[command(
    name = "peers",
    bin_name = "cargo bench --bench peers --",
    after_help = "\
Examples:
  cargo bench --bench peers -- --weed ./weed --json result.json
  cargo bench --bench peers -- --weed ./weed --rounds 1 --size 64M --files 500 --seconds 0.5"
)]
struct Args {
    /// SeaweedFS's program
    #[arg(long, value_name = "FILE")]
    weed: PathBuf,
    /// Where both clusters and the sources are meanwhile [default: where temporary files are]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Rounds: in each both are brought up anew, and take turns workload by workload
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only these workloads
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_enum)]
    only: Vec<Workload>,
    /// Size of the large file
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    size: ByteSize,
    /// Files in the tree
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    files: u64,
    /// How long single puts and gets run, each
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Write every figure of every round to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn sizes(&self) -> Sizes {
        Sizes { size_bytes: self.size.0, files: self.files, seconds: self.seconds, copies: COPIES }
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut chosen = match self.only.as_slice() {
            [] => Workload::value_variants().to_vec(),
            only => only.to_vec(),
        };
        // What is got was put before.
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    /// What lies on the disk at most at a time: a source, p2pdfs's copies, those of SeaweedFS in
    /// each of its three ways, and room for the small files.
    fn bytes_on_disk(&self) -> u64 {
        let each = self.size.0.saturating_add(self.files.saturating_mul(8192));
        each.saturating_mul(1 + 4 * u64::from(COPIES)).saturating_add(1 << 30)
    }
}

fn main() -> ExitCode {
    p2pdfs::cli::allocator::return_large_buffers();
    if let Some(failed) = become_server(env!("CARGO_BIN_EXE_p2pdfs")) {
        return failed.report("peers");
    }
    let is_meant =
        |word: &str| ["--weed", "--help", "-h"].iter().any(|flag| word.starts_with(flag));
    // `cargo bench` runs all benches, and gives all of them the words meant for one.
    if !std::env::args().any(|word| is_meant(&word)) {
        eprintln!("peers: not run: it needs SeaweedFS's program, as in");
        eprintln!("  cargo bench --bench peers -- --weed PATH/TO/weed");
        return ExitCode::SUCCESS;
    }
    match compare(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("peers"),
    }
}

fn compare(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let weed = args.weed.canonicalize().map_err(|error| {
        Failure::because(Exit::NotFound, format!("cannot find {}", shown(&args.weed)), &error)
    })?;
    let seaweedfs = weed::version(&weed)?;
    let scratch = Scratch::new(args.dir.as_deref())?;
    scratch.has_room_for(args.bytes_on_disk())?;
    let sizes = args.sizes();
    let (mut results, mut compared) = (Results::default(), ComparedTotals::default());
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}: both in {}", args.rounds, shown(scratch.path()));
        let pair = Pair {
            number,
            weed: &weed,
            interrupt: &interrupt,
            place: scratch.path(),
            sizes: &sizes,
        };
        let done = pair.measure(&args.workloads(), &mut results, &mut compared);
        // What ends because of a signal fails in many ways.
        interrupt.check()?;
        done?;
    }
    let directory = scratch.path();
    let document = Document {
        p2pdfs: env!("CARGO_PKG_VERSION"),
        seaweedfs,
        system: system(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        directory: shown(directory.parent().unwrap_or(directory)),
        file_system: file_system(directory),
        arguments: std::env::args().skip(1).filter(|word| word != "--bench").collect(),
        rounds: args.rounds,
        sizes,
        compared,
        rows: results.rows(),
    };
    scratch.remove()?;
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&document).unwrap_or_default();
        std::fs::write(path, text).map_err(|error| {
            Failure::because(Exit::Failed, format!("cannot write {}", shown(path)), &error)
        })?;
    }
    print(&document.in_words())
}

/// The kernel's name and release.
fn system() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}
