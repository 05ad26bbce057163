//! What was found: a markdown table for people, one JSON document for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use p2pdfs::cli::bench::measure::{Latency, Run};
use p2pdfs::cli::bench::report::{ComparedTotals, Spread, limit_of, short, spread, time};
use p2pdfs::cli::bench::usage::{Usage, Used};
use p2pdfs::cli::bench::workloads::{Sizes, Workload};
use p2pdfs::cli::output::counted;
use p2pdfs::cli::size::ByteSize;
use serde::Serialize;

use crate::way::Way;

/// Whose figures a row shows, in the order in which they stand in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    P2pdfs,
    /// What the machine itself can do, measured just before p2pdfs.
    Machine,
    #[serde(rename = "seaweedfs")]
    SeaweedFs(Way),
}

/// What was found in each round, in order.
#[derive(Default)]
pub struct Results(BTreeMap<(Workload, System), Vec<Round>>);

/// One workload of one system in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Bytes or operations a second.
    pub rate: f64,
    pub operations: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub latency: Option<Latency>,
    #[serde(flatten)]
    pub used: Option<UsedByRoles>,
}

/// What was used by whom.
#[derive(Debug, Clone, Serialize)]
pub struct UsedByRoles {
    pub server_cpu_seconds: f64,
    pub client_cpu_seconds: f64,
    /// The server that had most memory, and how much that was.
    pub largest_server: Option<String>,
    pub largest_server_bytes: Option<u64>,
    /// Cores that were busy with what is neither the client nor one of the servers.
    pub other_cores: Option<f64>,
}

impl From<&Usage> for UsedByRoles {
    fn from(usage: &Usage) -> UsedByRoles {
        let cpu = |used: &[Used]| used.iter().map(|used| used.cpu_seconds).sum();
        // The client is always the first.
        let (client, servers) = usage.processes.split_at(1.min(usage.processes.len()));
        let largest = servers.iter().max_by_key(|server| server.peak_memory_bytes);
        UsedByRoles {
            server_cpu_seconds: cpu(servers),
            client_cpu_seconds: cpu(client),
            largest_server: largest.map(|server| server.name.clone()),
            largest_server_bytes: largest.and_then(|server| server.peak_memory_bytes),
            other_cores: usage.other_cores,
        }
    }
}

impl Results {
    /// Notes one round. A limit is divided by what all copies share: `limit_of` says it.
    pub fn add(&mut self, workload: Workload, system: System, run: &Run, usage: Option<&Usage>) {
        let amount = if workload.is_bulk() { run.bytes } else { run.operations };
        let divisor = match system {
            System::Machine => limit_of(workload, COPIES, true).0,
            System::P2pdfs | System::SeaweedFs(_) => 1.0,
        };
        self.0.entry((workload, system)).or_default().push(Round {
            rate: amount as f64 / run.seconds / divisor,
            operations: run.operations,
            bytes: run.bytes,
            seconds: run.seconds,
            latency: run.latency,
            used: usage.map(UsedByRoles::from),
        });
    }

    /// The last round's rate as text, for those who wait.
    pub fn last(&self, workload: Workload, system: System) -> String {
        let rate = self.0.get(&(workload, system)).and_then(|rounds| rounds.last());
        let (by, unit) = unit(workload);
        rate.map_or_else(String::new, |round| format!("{} {unit}", short(round.rate / by)))
    }

    /// The rows, each with the ratios of its rounds to p2pdfs's.
    pub fn rows(self) -> Vec<Row> {
        let row = |((workload, system), rounds): (&(Workload, System), &Vec<Round>)| {
            let own =
                self.0.get(&(*workload, System::P2pdfs)).filter(|_| *system != System::P2pdfs);
            Row::of(*workload, *system, rounds.clone(), own.map_or(&[], Vec::as_slice))
        };
        self.0.iter().filter_map(row).collect()
    }
}

/// Copies of everything, in both systems.
pub const COPIES: u8 = 2;

/// One line of the table.
#[derive(Debug, Serialize)]
pub struct Row {
    pub workload: Workload,
    pub system: System,
    /// Of `rate`.
    pub unit: &'static str,
    pub rate: Spread,
    /// Medians over the rounds of p50 and p99, the largest `max`; of single operations only.
    pub latency: Option<Latency>,
    /// For each GiB, or for each file of 4 KiB.
    pub server_cpu_seconds_per_unit: Option<Spread>,
    pub client_cpu_seconds_per_unit: Option<Spread>,
    /// The most in any round.
    pub largest_server_bytes: Option<u64>,
    pub largest_server: Option<String>,
    pub other_cores: Option<Spread>,
    /// p2pdfs's rate by this one of the same round.
    pub p2pdfs_is_times: Option<Spread>,
    pub rounds: Vec<Round>,
}

impl Row {
    fn of(workload: Workload, system: System, rounds: Vec<Round>, own: &[Round]) -> Option<Row> {
        let units = |round: &Round| match workload.is_bulk() {
            true => round.bytes as f64 / (1u64 << 30) as f64,
            false => round.operations as f64,
        };
        let used = |get: &dyn Fn(&UsedByRoles, f64) -> Option<f64>| {
            let of = |round: &Round| round.used.as_ref().and_then(|used| get(used, units(round)));
            Spread::of(rounds.iter().filter_map(of))
        };
        let latencies: Vec<Latency> = rounds.iter().filter_map(|round| round.latency).collect();
        let latency = |get: &dyn Fn(&Latency) -> f64| Spread::of(latencies.iter().map(get));
        let largest = rounds.iter().filter_map(|round| round.used.as_ref());
        let largest = largest.max_by_key(|used| used.largest_server_bytes);
        Some(Row {
            workload,
            system,
            unit: if workload.is_bulk() { "bytes/s" } else { "operations/s" },
            rate: Spread::of(rounds.iter().map(|round| round.rate))?,
            latency: latency(&|l| l.p50_us)
                .zip(latency(&|l| l.p99_us))
                .zip(latency(&|l| l.max_us))
                .map(|((p50, p99), max)| Latency {
                    p50_us: p50.median,
                    p99_us: p99.median,
                    max_us: max.max,
                }),
            server_cpu_seconds_per_unit: used(&|used, units| Some(used.server_cpu_seconds / units)),
            client_cpu_seconds_per_unit: used(&|used, units| Some(used.client_cpu_seconds / units)),
            largest_server_bytes: largest.and_then(|used| used.largest_server_bytes),
            largest_server: largest.and_then(|used| used.largest_server.clone()),
            other_cores: used(&|used, _| used.other_cores),
            p2pdfs_is_times: Spread::of(
                own.iter().zip(&rounds).map(|(own, it)| own.rate / it.rate),
            ),
            rounds,
        })
    }

    fn system_in_words(&self) -> String {
        let is_put = matches!(
            self.workload,
            Workload::PutLarge | Workload::PutTree | Workload::PutSmall1 | Workload::PutSmall16
        );
        match self.system {
            System::P2pdfs if is_put => "**p2pdfs**, durable".to_string(),
            System::P2pdfs => "**p2pdfs**".to_string(),
            System::Machine => format!("the machine: {}", limit_of(self.workload, COPIES, true).1),
            System::SeaweedFs(way) => way.in_words(self.workload),
        }
    }

    fn rate_in_words(&self) -> String {
        let (by, unit) = unit(self.workload);
        format!("{} {unit}", spread(&self.rate, self.rounds.len(), |rate| short(rate / by)))
    }

    fn cells(&self) -> [String; 10] {
        let none = || "-".to_string();
        let cpu = |of: &Option<Spread>| match (of, self.workload.is_bulk()) {
            (None, _) => none(),
            (Some(of), true) => format!("{} s/GiB", short(of.median)),
            (Some(of), false) => format!("{} us each", short(of.median * 1e6)),
        };
        let memory = self.largest_server_bytes.map(|bytes| {
            format!("{} ({})", ByteSize(bytes), self.largest_server.as_deref().unwrap_or("?"))
        });
        let count = self.rounds.len();
        let is = |ratio: &Spread| format!("{}x", spread(ratio, count, short));
        [
            self.workload.name(),
            self.system_in_words(),
            self.rate_in_words(),
            self.latency.map_or_else(none, |latency| time(latency.p50_us)),
            self.latency.map_or_else(none, |latency| time(latency.p99_us)),
            cpu(&self.server_cpu_seconds_per_unit),
            cpu(&self.client_cpu_seconds_per_unit),
            memory.unwrap_or_else(none),
            self.other_cores.map_or_else(none, |cores| short(cores.median)),
            self.p2pdfs_is_times.as_ref().map_or_else(none, is),
        ]
    }
}

/// Rates of a workload are shown as so many of this unit, by that name.
fn unit(workload: Workload) -> (f64, &'static str) {
    if workload.is_bulk() { (1e6, "MB/s") } else { (1.0, "/s") }
}

/// The document. Fields are only ever added.
#[derive(Serialize)]
pub struct Document {
    pub p2pdfs: &'static str,
    pub seaweedfs: String,
    pub system: String,
    pub cores: usize,
    pub directory: String,
    pub file_system: String,
    /// With which this program was called.
    pub arguments: Vec<String>,
    pub rounds: u32,
    pub sizes: Sizes,
    pub compared: ComparedTotals,
    pub rows: Vec<Row>,
}

impl Document {
    /// As markdown.
    pub fn in_words(&self) -> String {
        let heads = "workload|system|rate|p50|p99|server CPU|client CPU|\
                     largest server's peak memory|other cores|p2pdfs is";
        let mut text = format!("| {} |\n", heads.replace('|', " | "));
        text.push_str(&format!("|{}\n", "---|".repeat(heads.split('|').count())));
        for row in &self.rows {
            // Into memory, which takes all.
            let _ = writeln!(text, "| {} |", row.cells().join(" | "));
        }
        let sizes = &self.sizes;
        let _ = write!(
            text,
            "\np2pdfs {}, SeaweedFS {}; {}, {}, {} ({}).\n\
             {}: median (least-most); large file {}, {} of 4 KiB in the tree, single puts and gets \
             for {} s each; {} copies of everything.\n\
             Read back and compared with what was put: {}, {}; all the same.\n\
             `cargo bench --bench peers -- {}`\n",
            self.p2pdfs,
            self.seaweedfs,
            self.system,
            counted(self.cores as u64, "core"),
            self.directory,
            self.file_system,
            counted(self.rounds.into(), "round"),
            ByteSize(sizes.size_bytes),
            counted(sizes.files, "file"),
            sizes.seconds,
            sizes.copies,
            counted(self.compared.files, "file"),
            ByteSize(self.compared.bytes),
            self.arguments.join(" "),
        );
        text
    }
}
