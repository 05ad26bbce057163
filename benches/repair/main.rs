//! How soon a node that was killed is dead, and how fast its copies are made anew, beside a plain copy
//! of as many bytes: read from a file, sent over TCP, written to another file, and synced.

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use p2pdfs::cli::bench::content::Content;
use p2pdfs::cli::bench::interrupt::Interrupt;
use p2pdfs::cli::bench::machine::settle;
use p2pdfs::cli::bench::place::{Own, Scratch};
use p2pdfs::cli::exit::{Exit, Failure};
use p2pdfs::cli::output::print;
use p2pdfs::cli::process::become_server;
use p2pdfs::client::{Client, PutOptions, Quiet, Source, Upload};
use p2pdfs::ids::NodeId;
use p2pdfs::remote_path::RemotePath;
use p2pdfs::size::ByteSize;
use p2pdfs::wire::admin::{NodeStatus, StatusReply};
use rustix::process::{Pid, Signal, kill_process};

const NODES: u32 = 4;
const COPIES: u8 = 2;
/// The flag of the main server with which repair is not held back.
const SPEED: &str = "P2PDFS_MAIN_REPAIR_SPEED";
/// How often the main server is asked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a reader gets at a time meanwhile.
const READ_BYTES: u64 = 1 << 20;
const VICTIM: NodeId = NodeId(2);

/// Measure how fast the copies of a killed node are made anew
#[derive(Debug, Parser)]
#[command(name = "repair", bin_name = "cargo bench --bench repair --")]
struct Args {
    /// Bytes stored, of which half a share for each node
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    size: ByteSize,
    /// Clusters that are measured, one after the other
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    times: u32,
    /// Do not wait until the node is found dead, a minute each time
    #[arg(long)]
    not_dead: bool,
    /// Where everything is stored meanwhile [default: where temporary files are]
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(failure) = become_server(env!("CARGO_BIN_EXE_p2pdfs")) {
        return failure.report("repair");
    }
    let done = match std::env::var_os(SPEED) {
        Some(_) => measure(&Args::parse()),
        None => again_unlimited(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("repair"),
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::because(Exit::Failed, what, error)
}

/// Runs this program with the setting that its main servers are to get.
fn again_unlimited() -> Result<(), Failure> {
    Args::parse();
    let own = std::env::current_exe().map_err(|e| failed("cannot find this program", &e))?;
    let mut command = Command::new(own);
    command.args(std::env::args_os().skip(1)).env(SPEED, "unlimited");
    let ended = command.status().map_err(|e| failed("cannot start this program", &e))?;
    match ended.success() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "nothing was measured")),
    }
}

fn measure(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let scratch = Scratch::new(args.dir.as_deref())?;
    // The source, its copies and those made anew, and the plain copy.
    scratch.has_room_for(args.size.0.saturating_mul(5).saturating_add(4 << 30))?;
    let mut ratios = Vec::new();
    for _ in 0..args.times {
        interrupt.check()?;
        ratios.push(measure_once(args, &scratch, &interrupt)?);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    print(&format!("repair at {median:.2} of the rate of a plain copy (median)\n"))?;
    scratch.remove()
}

fn measure_once(args: &Args, scratch: &Scratch, interrupt: &Interrupt) -> Result<f64, Failure> {
    let own = Own::start(scratch.path(), NODES, COPIES, ByteSize(args.size.0 + (4 << 30)))?;
    let client = own.client(interrupt)?;
    let content = Content::random().map_err(|e| failed("no random bytes", &e))?;
    let source = scratch.path().join("source");
    let written =
        File::create(&source).and_then(|mut file| content.write_to(args.size.0, &mut file));
    written.map_err(|e| failed("cannot write the source", &e))?;
    let path: RemotePath = "/file".parse().expect("a path");
    let options = PutOptions { copies: COPIES, ..PutOptions::default() };
    let upload = Upload { from: Source::Path(source.clone()), to: path.clone() };
    client.put([upload], &options, &Quiet).map_err(|e| refused(&e))?;
    // Nodes say with their heartbeats what they hold: what they said last may be old.
    let stored = args.size.0 * u64::from(COPIES);
    look_until(&client, interrupt, |status, nodes| {
        is_whole(status) && nodes.iter().map(|node| node.space.used_bytes).sum::<u64>() >= stored
    })?;
    settle(scratch.path())?;

    let bytes = used_by(&client, VICTIM)?;
    let reader = own.client(interrupt)?;
    let (going_on, is_over) = crossbeam_channel::bounded::<()>(0);
    let (whole, dead) = thread::scope(|scope| {
        let reads = || read_on(&reader, &path, args.size.0, content, &is_over);
        let reading = scope.spawn(reads);
        let measured = kill_and_look(&own, &client, interrupt, args);
        drop(going_on);
        let reads = reading.join().unwrap_or_else(|_| Err(io::Error::other("its thread failed")));
        let reads = reads.map_err(|e| failed("a read failed meanwhile", &e));
        measured.and_then(|measured| reads.map(|()| measured))
    })?;
    own.remove()?;
    settle(scratch.path())?;
    let plain = plain_copy(&source, scratch.path(), bytes)
        .map_err(|e| failed("cannot copy a file over TCP", &e))?;
    let mib = bytes as f64 / f64::from(1 << 20);
    let ratio = plain.as_secs_f64() / whole.as_secs_f64();
    let dead =
        dead.map_or(String::new(), |dead| format!("; dead after {:.1} s", dead.as_secs_f64()));
    let (whole, plain) = (whole.as_secs_f64(), plain.as_secs_f64());
    print(&format!(
        "{mib:.0} MiB copied anew within {whole:.2} s of the kill; plainly in {plain:.2} s: {ratio:.2}\
         {dead}\n"
    ))?;
    Ok(ratio)
}

fn refused(error: &dyn std::error::Error) -> Failure {
    Failure::because(Exit::Failed, "the cluster refuses", error)
}

/// Kills a node; how long it took until all chunks had their copies, and until it was dead.
fn kill_and_look(
    own: &Own,
    client: &Client,
    interrupt: &Interrupt,
    args: &Args,
) -> Result<(Duration, Option<Duration>), Failure> {
    // The main server comes first.
    let victim = &own.processes()[VICTIM.0 as usize];
    let pid = Pid::from_raw(victim.pid as i32).expect("a process has a number");
    let killed = Instant::now();
    kill_process(pid, Signal::KILL).map_err(|e| failed("cannot kill a node", &e.into()))?;
    let is = |nodes: &[NodeStatus], state: &str| {
        nodes.iter().any(|node| node.node == VICTIM && node.state == state)
    };
    look_until(client, interrupt, |status, nodes| !is(nodes, "alive") && is_whole(status))?;
    let whole = killed.elapsed();
    if args.not_dead {
        return Ok((whole, None));
    }
    look_until(client, interrupt, |_, nodes| is(nodes, "dead"))?;
    Ok((whole, Some(killed.elapsed())))
}

fn is_whole(status: &StatusReply) -> bool {
    status.is_surveyed && status.under_copied_chunks == 0
}

fn look_until(
    client: &Client,
    interrupt: &Interrupt,
    is_so: impl Fn(&StatusReply, &[NodeStatus]) -> bool,
) -> Result<(), Failure> {
    loop {
        interrupt.check()?;
        let (status, nodes) = client.status().map_err(|e| refused(&e))?;
        if is_so(&status, &nodes) {
            return Ok(());
        }
        // It says nothing by itself: it is asked again.
        let _ = crossbeam_channel::never::<()>().recv_timeout(LOOK_EVERY);
    }
}

fn used_by(client: &Client, node: NodeId) -> Result<u64, Failure> {
    let (_, nodes) = client.status().map_err(|e| refused(&e))?;
    let used =
        nodes.iter().find(|status| status.node == node).map(|status| status.space.used_bytes);
    used.ok_or_else(|| Failure::new(Exit::Failed, "the node that was to be killed is not there"))
}

/// Reads one part after the other, and compares it, until it is over. A read that fails ends it.
fn read_on(
    reader: &Client,
    path: &RemotePath,
    size: u64,
    content: Content,
    is_over: &Receiver<()>,
) -> io::Result<()> {
    let mut expected = vec![0; READ_BYTES as usize];
    let mut from = 0;
    // So often that it sees whether reads go on, and takes no processor from what is measured.
    while is_over.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let to = (from + READ_BYTES).min(size);
        let mut bytes = Vec::new();
        reader.read(path, None, from..to, &mut bytes, &Quiet).map_err(io::Error::other)?;
        let expected = &mut expected[..(to - from) as usize];
        content.fill(from, expected);
        if bytes != *expected {
            return Err(io::Error::other(format!("other bytes between {from} and {to}")));
        }
        from = if to == size { 0 } else { to };
    }
    Ok(())
}

fn plain_copy(source: &Path, directory: &Path, bytes: u64) -> io::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut to = TcpStream::connect(listener.local_addr()?)?;
    let (mut from, _) = listener.accept()?;
    let copy = directory.join("plain-copy");
    let mut source = io::Read::take(File::open(source)?, bytes);
    let begun = Instant::now();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut file = File::create(&copy)?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                match io::Read::read(&mut from, &mut buffer)? {
                    0 => return Ok(rustix::fs::fdatasync(&file)?),
                    count => file.write_all(&buffer[..count])?,
                }
            }
        });
        let mut buffer = vec![0; 1 << 20];
        loop {
            match io::Read::read(&mut source, &mut buffer)? {
                0 => break,
                count => to.write_all(&buffer[..count])?,
            }
        }
        to.shutdown(std::net::Shutdown::Write)?;
        receiver.join().unwrap_or_else(|_| Err(io::Error::other("its thread failed")))
    })?;
    let took = begun.elapsed();
    std::fs::remove_file(&copy)?;
    Ok(took)
}
