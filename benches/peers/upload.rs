//! SeaweedFS's own program as the client: a process of its own, whose work is the client's.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use p2pdfs::cli::bench::interrupt::Interrupt;
use p2pdfs::cli::bench::usage::Usage;
use p2pdfs::cli::exit::{Exit, Failure};
use p2pdfs::cli::process::Running;
use rustix::param::clock_ticks_per_second;
use serde::Deserialize;

use crate::native::Place;
use crate::weed::{SeaweedFs, parse};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What it says of each file.
#[derive(Deserialize)]
struct Uploaded {
    /// With the path behind the address.
    url: String,
    fid: String,
}

/// Puts a file; returns where it is.
pub fn upload(cluster: &SeaweedFs, file: &Path, interrupt: &Interrupt) -> Result<Place, Failure> {
    let cannot =
        |error: &std::io::Error| Failure::because(Exit::Failed, "cannot run `weed upload`", error);
    let mut child = cluster.upload_command(file).spawn().map_err(|error| cannot(&error))?;
    let waited = Running::open(child.id()).map(|running| {
        while !running.wait(LOOK_EVERY) {
            if interrupt.is_requested() {
                running.kill();
            }
        }
    });
    if waited.is_err() {
        // It ends without us, or with this.
        let _ = child.kill();
    }
    let ended = waited.and(child.wait()).map_err(|error| cannot(&error))?;
    interrupt.check()?;
    // A line or two, which the pipe has held meanwhile.
    let mut said = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut said).map_err(|error| cannot(&error))?;
    }
    let uploaded: Vec<Uploaded> = parse(&said)?;
    match uploaded.into_iter().next() {
        Some(Uploaded { url, fid }) if ended.success() => {
            let address = url.split('/').next().unwrap_or_default().to_string();
            Ok(Place { fid, url: address })
        }
        _ => Err(Failure::new(Exit::Failed, format!("`weed upload` failed: {ended}"))),
    }
}

/// Processor time of those children of this process that have ended and were waited for.
pub fn children_cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // `cutime` and `cstime` of proc(5), counted from behind the program's name.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / clock_ticks_per_second() as f64
}

/// Counts what a child used as the client's, and no longer as that of others.
pub fn charge_client(usage: &mut Usage, child_seconds: f64, run_seconds: f64) {
    if let Some(client) = usage.processes.first_mut() {
        client.cpu_seconds += child_seconds;
    }
    usage.other_cores = usage.other_cores.map(|o| (o - child_seconds / run_seconds).max(0.0));
}
