//! What a bench found: one JSON document for programs, tables for people.

use serde::Serialize;

use super::measure::{Latency, Run};
use super::workloads::{Measured, Sizes, Workload};
use crate::cli::output::{counted, table};
use crate::cli::size::ByteSize;

const GIB: f64 = (1u64 << 30) as f64;

/// A figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` without any value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median: f64::midpoint(lower, upper), min, max })
    }
}

/// The document. Fields are only ever added.
#[derive(Debug, Serialize)]
pub struct Document {
    pub version: &'static str,
    pub rounds: u32,
    pub sizes: Sizes,
    pub cluster: Cluster,
    pub workloads: Vec<Row>,
    pub compared: ComparedTotals,
}

/// What was measured on.
#[derive(Debug, Serialize)]
pub struct Cluster {
    /// `local`, made for each round; `up`, one that runs on this machine; or `given`.
    pub kind: &'static str,
    /// The main server's address; `null` when local.
    pub main: Option<String>,
    /// Storage nodes.
    pub nodes: u32,
    /// Whose disk the limits are those of: `nodes` or `client`.
    pub limits_of: &'static str,
    /// The directory in which they were measured, and its kind of file system.
    pub directory: String,
    pub file_system: String,
    /// Cores of this machine.
    pub cores: usize,
}

/// All of it was read back and compared with its input.
#[derive(Debug, Default, Serialize)]
pub struct ComparedTotals {
    pub files: u64,
    pub bytes: u64,
}

/// One workload over all rounds.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: Workload,
    /// Of `rate` and `limit`: `bytes/s` or `operations/s`.
    pub unit: &'static str,
    pub rate: Spread,
    /// What limits it, in words.
    pub limit_is: &'static str,
    pub limit: Spread,
    /// Of the pairs: each round's rate by the limit of the same round.
    pub ratio: Spread,
    /// Of single operations: medians over the rounds of p50 and p99, the largest `max`.
    pub latency: Option<Latency>,
    pub limit_latency: Option<Latency>,
    /// Of all processes that could be seen, in one round.
    pub cpu_seconds: Spread,
    /// The same for each GiB of content.
    pub cpu_seconds_per_gib: Spread,
    /// The same for each operation: a file put or got.
    pub cpu_us_per_operation: Spread,
    pub processes: Vec<ProcessRow>,
    /// Cores that were busy with something else; `null` where the servers' own use is not known.
    pub other_cores: Option<Spread>,
    pub rounds: Vec<RoundRow>,
}

/// A process in one workload.
#[derive(Debug, Serialize)]
pub struct ProcessRow {
    pub name: String,
    pub cpu_seconds: Spread,
    /// The most in any round.
    pub peak_memory_bytes: Option<u64>,
}

/// One workload in one round.
#[derive(Debug, Serialize)]
pub struct RoundRow {
    pub rate: f64,
    pub limit: f64,
    pub ratio: f64,
    pub operations: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub latency: Option<Latency>,
}

/// What a round's limit is divided by, and in words what the limit is.
pub fn limit_of(workload: Workload, copies: u8, disk_is_shared: bool) -> (f64, &'static str) {
    match workload {
        Workload::PutLarge if disk_is_shared => {
            (f64::from(copies), "synced disk writes, divided by the copies")
        }
        Workload::PutLarge => (1.0, "synced disk writes"),
        Workload::GetLarge => (1.0, "raw TCP, one stream"),
        Workload::PutTree => (1.0, "files created, one sync for all"),
        Workload::PutSmall1 => (1.0, "files created and fsynced, 1 at a time"),
        Workload::PutSmall16 => (1.0, "files created and fsynced, 16 at a time"),
        Workload::GetSmall1 => (1.0, "raw TCP round trips of 4 KiB, 1 at a time"),
        Workload::GetSmall16 => (1.0, "raw TCP round trips of 4 KiB, 16 at a time"),
    }
}

impl Row {
    /// `None` without any round. `disk_is_shared`: all copies go to the disk that was measured.
    pub fn of(
        name: Workload,
        measured: &[Measured],
        copies: u8,
        disk_is_shared: bool,
        sees_servers: bool,
    ) -> Option<Row> {
        let (divisor, limit_is) = limit_of(name, copies, disk_is_shared);
        let rate = |run: &Run| {
            let amount = if name.is_bulk() { run.bytes } else { run.operations };
            amount as f64 / run.seconds
        };
        let rounds: Vec<RoundRow> = measured
            .iter()
            .map(|one| RoundRow {
                rate: rate(&one.run),
                limit: rate(&one.limit) / divisor,
                ratio: rate(&one.run) / (rate(&one.limit) / divisor),
                operations: one.run.operations,
                bytes: one.run.bytes,
                seconds: one.run.seconds,
                cpu_seconds: one.usage.processes.iter().map(|used| used.cpu_seconds).sum(),
                latency: one.run.latency,
            })
            .collect();
        let over = |of: &dyn Fn(&RoundRow) -> f64| Spread::of(rounds.iter().map(of));
        Some(Row {
            name,
            unit: if name.is_bulk() { "bytes/s" } else { "operations/s" },
            rate: over(&|round| round.rate)?,
            limit_is,
            limit: over(&|round| round.limit)?,
            ratio: over(&|round| round.ratio)?,
            latency: latency_over(measured.iter().filter_map(|one| one.run.latency).collect()),
            limit_latency: latency_over(
                measured.iter().filter_map(|one| one.limit.latency).collect(),
            ),
            cpu_seconds: over(&|round| round.cpu_seconds)?,
            cpu_seconds_per_gib: over(&|r| r.cpu_seconds / (r.bytes as f64 / GIB))?,
            cpu_us_per_operation: over(&|r| r.cpu_seconds * 1e6 / r.operations as f64)?,
            processes: processes(measured)?,
            other_cores: Spread::of(measured.iter().filter_map(|one| one.usage.other_cores))
                .filter(|_| sees_servers),
            rounds,
        })
    }
}

fn latency_over(all: Vec<Latency>) -> Option<Latency> {
    let median = |of: &dyn Fn(&Latency) -> f64| Spread::of(all.iter().map(of));
    Some(Latency {
        p50_us: median(&|latency| latency.p50_us)?.median,
        p99_us: median(&|latency| latency.p99_us)?.median,
        max_us: median(&|latency| latency.max_us)?.max,
    })
}

fn processes(measured: &[Measured]) -> Option<Vec<ProcessRow>> {
    let first = measured.first()?;
    let row = |at: usize| {
        let of_round = measured.iter().filter_map(|one| one.usage.processes.get(at));
        Some(ProcessRow {
            name: first.usage.processes[at].name.clone(),
            cpu_seconds: Spread::of(of_round.clone().map(|used| used.cpu_seconds))?,
            peak_memory_bytes: of_round.filter_map(|used| used.peak_memory_bytes).max(),
        })
    };
    (0..first.usage.processes.len()).map(row).collect()
}

/// A number in as many digits as say something.
pub fn short(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The median, and the least and the most where there are several.
pub fn spread(of: &Spread, rounds: usize, show: impl Fn(f64) -> String) -> String {
    match rounds {
        1 => show(of.median),
        _ => format!("{} ({}-{})", show(of.median), show(of.min), show(of.max)),
    }
}

/// A duration in the unit that suits it.
pub fn time(us: f64) -> String {
    match us {
        ..1000.0 => format!("{us:.0} us"),
        ..1_000_000.0 => format!("{} ms", short(us / 1000.0)),
        _ => format!("{} s", short(us / 1e6)),
    }
}

impl Document {
    /// The tables.
    pub fn in_words(&self) -> String {
        let mut text = format!("{}\n{}\n", self.rates(), self.used());
        text.push_str("limits, measured in each round just before the workload, ");
        text.push_str(&format!(
            "on the {} disk ({}, {}):\n",
            if self.cluster.limits_of == "nodes" { "nodes'" } else { "client's own" },
            self.cluster.directory,
            self.cluster.file_system,
        ));
        for row in &self.workloads {
            text.push_str(&format!("  {:<14}{}\n", row.name.name(), row.limit_is));
        }
        let compared = &self.compared;
        text.push_str(&format!(
            "read back and compared with what was put: {}, {}; all the same\n",
            counted(compared.files, "file"),
            ByteSize(compared.bytes),
        ));
        text
    }

    fn rates(&self) -> String {
        let heads = "workload,rate,limit,of limit,p50,p99,max,CPU,other cores";
        let mut rows = vec![heads.split(',').map(str::to_string).collect::<Vec<_>>()];
        for row in &self.workloads {
            let show = |value: f64| match row.name.is_bulk() {
                true => short(value / 1e6),
                false => short(value),
            };
            let unit = if row.name.is_bulk() { "MB/s" } else { "/s" };
            let rounds = row.rounds.len();
            let of = |get: &dyn Fn(&Latency) -> f64| {
                row.latency.as_ref().map_or("-".to_string(), |latency| time(get(latency)))
            };
            rows.push(vec![
                row.name.name(),
                format!("{} {unit}", spread(&row.rate, rounds, show)),
                format!("{} {unit}", show(row.limit.median)),
                spread(&row.ratio, rounds, short),
                of(&|latency| latency.p50_us),
                of(&|latency| latency.p99_us),
                of(&|latency| latency.max_us),
                match row.name.is_bulk() {
                    true => format!("{} s/GiB", short(row.cpu_seconds_per_gib.median)),
                    false => format!("{} us each", short(row.cpu_us_per_operation.median)),
                },
                row.other_cores.as_ref().map_or("-".to_string(), |other| short(other.median)),
            ]);
        }
        table(&rows)
    }

    /// Processor time and peak memory by process.
    fn used(&self) -> String {
        let names: Vec<&str> = self.workloads.first().map_or(Vec::new(), |row| {
            row.processes.iter().map(|process| process.name.as_str()).collect()
        });
        let heads = ["CPU, peak memory", "all"].into_iter().chain(names);
        let mut rows = vec![heads.map(str::to_string).collect::<Vec<_>>()];
        for row in &self.workloads {
            let all = format!("{} s", short(row.cpu_seconds.median));
            let mut cells = vec![row.name.name(), all];
            cells.extend(row.processes.iter().map(|process| {
                let memory = process.peak_memory_bytes.map(|bytes| ByteSize(bytes).to_string());
                let cpu = short(process.cpu_seconds.median);
                format!("{cpu} s, {}", memory.unwrap_or_else(|| "-".to_string()))
            }));
            rows.push(cells);
        }
        table(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::usage::{Usage, Used};

    fn measured(seconds: f64, limit_seconds: f64) -> Measured {
        let run = |seconds| Run { operations: 1, bytes: 1 << 30, seconds, latency: None };
        let used = Used {
            name: "client".to_string(),
            cpu_seconds: seconds / 2.0,
            peak_memory_bytes: Some(seconds as u64),
        };
        let usage = Usage { processes: vec![used], other_cores: Some(0.1) };
        Measured { limit: run(limit_seconds), run: run(seconds), usage }
    }

    #[test]
    fn a_spread_has_the_middle_of_two_medians() {
        assert_eq!(Spread::of([]), None);
        let odd = Spread { median: 2.0, min: 1.0, max: 9.0 };
        assert_eq!(Spread::of([9.0, 1.0, 2.0]), Some(odd));
        assert_eq!(Spread::of([9.0, 1.0, 2.0, 4.0]).map(|spread| spread.median), Some(3.0));
    }

    #[test]
    fn the_ratio_is_that_of_pairs_and_copies_share_a_disk() {
        let rounds = [measured(4.0, 1.0), measured(2.0, 1.0), measured(8.0, 8.0)];
        let row = Row::of(Workload::PutLarge, &rounds, 2, true, true).expect("three rounds");
        assert_eq!(row.ratio, Spread { median: 1.0, min: 0.5, max: 2.0 });
        assert_eq!(row.rate.median, GIB / 4.0);
        assert_eq!(row.limit.median, GIB / 2.0);
        assert_eq!(row.cpu_seconds_per_gib.median, 2.0);
        assert_eq!(row.processes[0].peak_memory_bytes, Some(8));
        let apart = Row::of(Workload::PutLarge, &rounds, 2, false, false).expect("three rounds");
        assert_eq!(apart.limit.median, GIB);
        assert_eq!(apart.other_cores, None);
        assert!(Row::of(Workload::PutLarge, &[], 2, true, true).is_none());
    }

    #[test]
    fn figures_are_shown_with_the_digits_that_matter() {
        assert_eq!([0.1234, 12.34, 1234.5].map(short), ["0.12", "12.3", "1234"]);
        assert_eq!([512.4, 2_500.0, 3_000_000.0].map(time), ["512 us", "2.50 ms", "3.00 s"]);
    }
}
