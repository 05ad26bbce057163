//! What one client puts and gets when the links of four nodes are the limit, and what one node that
//! is ten times slower than the rest costs a get. Needs root, `ip`, `tc` and `nsenter`.

mod network;
mod servers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use network::{NODES, Network};
use p2pdfs::cli::bench::interrupt::Interrupt;
use p2pdfs::cli::bench::place::Scratch;
use p2pdfs::cli::exit::{Exit, Failure};
use p2pdfs::cli::output::{print, shown};
use p2pdfs::cli::size::ByteSize;
use servers::Cluster;

/// What each link carries, and what the slow one does, in Mbit/s.
const MBIT: u32 = 100;
const SLOW_MBIT: u32 = 10;
/// The node that becomes slow.
const SLOW_NODE: usize = NODES;

/// Measure puts and gets over links that are held to a rate
#[derive(Debug, Parser)]
#[command(name = "net", bin_name = "cargo bench --bench net --")]
struct Args {
    /// Size of each file
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    size: ByteSize,
    /// Gets with the slow node, and as many without it
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    times: u32,
    /// Where everything is stored meanwhile [default: where temporary files are]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        // `cargo bench` runs all benches, for everyone.
        eprintln!("net: not run: only root can make network namespaces");
        return ExitCode::SUCCESS;
    }
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("net"),
    }
}

fn measure(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let scratch = Scratch::new(args.dir.as_deref())?;
    // Two sources, three copies, and what is got.
    scratch.has_room_for(args.size.0.saturating_mul(6).saturating_add(1 << 30))?;
    let network = Network::make(MBIT)?;
    let mut cluster = Cluster::start(&network, scratch.path())?;
    let done = measure_rates(&cluster, scratch.path(), args.size.0)
        .and_then(|()| interrupt.check())
        .and_then(|()| measure_slow(&mut cluster, &network, &scratch, args, &interrupt));
    drop(cluster);
    drop(network);
    // What ends because of a signal fails in many ways.
    interrupt.check()?;
    done?;
    scratch.remove()
}

/// One client up and down, one copy: all links could be full.
fn measure_rates(cluster: &Cluster, directory: &Path, bytes: u64) -> Result<(), Failure> {
    let put = put(cluster, directory, "one", bytes, 1)?;
    say_rate("put, 1 copy", bytes, put)?;
    let got = get(cluster, directory, "one")?;
    say_rate("get, 1 copy", bytes, got)
}

/// Gets of a file in two copies with one slow node, and with that one stopped.
fn measure_slow(
    cluster: &mut Cluster,
    network: &Network,
    scratch: &Scratch,
    args: &Args,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let (directory, bytes) = (scratch.path(), args.size.0);
    put(cluster, directory, "two", bytes, 2)?;
    say_rate("get, 2 copies", bytes, get(cluster, directory, "two")?)?;
    network.limit(SLOW_NODE, SLOW_MBIT)?;
    let (mut all_with, mut all_without) = (Vec::new(), Vec::new());
    for _ in 0..args.times {
        interrupt.check()?;
        let with = get(cluster, directory, "two")?;
        say_rate("get, 2 copies, one node slow", bytes, with)?;
        all_with.push(with);
    }
    // Only once: what a node that comes back sets off would share the links.
    cluster.stop_node(SLOW_NODE)?;
    for _ in 0..args.times {
        interrupt.check()?;
        let without = get(cluster, directory, "two")?;
        say_rate("get, 2 copies, that node stopped", bytes, without)?;
        all_without.push(without);
    }
    let (with, without) = (median(all_with), median(all_without));
    let times = with.as_secs_f64() / without.as_secs_f64();
    print(&format!("with the slow node a get takes {times:.2} times as long (medians)\n"))
}

/// Makes a file of random bytes and stores it.
fn put(
    cluster: &Cluster,
    directory: &Path,
    name: &str,
    bytes: u64,
    copies: u8,
) -> Result<Duration, Failure> {
    let path = directory.join(name);
    let mut content = vec![0; bytes as usize];
    getrandom::fill(&mut content)
        .map_err(|error| Failure::because(Exit::Failed, "no random bytes", &error))?;
    std::fs::write(&path, content).map_err(|error| {
        Failure::because(Exit::Failed, format!("cannot write {}", shown(&path)), &error)
    })?;
    let (from, to) = (path.to_string_lossy(), format!("/{name}"));
    let since = Instant::now();
    cluster.client(&["put", "--copies", &copies.to_string(), &from, &to])?;
    Ok(since.elapsed())
}

/// Fetches a file, and sees that it is what was put.
fn get(cluster: &Cluster, directory: &Path, name: &str) -> Result<Duration, Failure> {
    let back = directory.join("back");
    let since = Instant::now();
    cluster.client(&["get", &format!("/{name}"), &back.to_string_lossy()])?;
    let took = since.elapsed();
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            Failure::because(Exit::Failed, format!("cannot read {}", shown(path)), &error)
        })
    };
    if read(&back)? == read(&directory.join(name))? {
        return Ok(took);
    }
    Err(Failure::new(Exit::Damaged, format!("/{name} came back as something else")))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn say_rate(what: &str, bytes: u64, took: Duration) -> Result<(), Failure> {
    let mbit = bytes as f64 * 8.0 / 1e6 / took.as_secs_f64();
    let all = f64::from(MBIT) * NODES as f64;
    let (seconds, part) = (took.as_secs_f64(), mbit / all);
    print(&format!("{what:<34} {seconds:7.2} s {mbit:7.1} Mbit/s  {part:.3} of {all:.0}\n"))
}
