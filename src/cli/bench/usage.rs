//! What processes used while something was measured: processor time and memory, from /proc (proc(5)).

use std::fs;
use std::time::Instant;

use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};

use crate::cli::exit::{Exit, Failure};

/// A process to be watched.
#[derive(Debug, Clone)]
pub struct Process {
    pub name: String,
    pub pid: u32,
}

impl Process {
    /// This very process, in which the client works.
    pub fn client() -> Process {
        Process { name: "client".to_string(), pid: std::process::id() }
    }

    /// Processor time that it has used so far.
    fn cpu_seconds(&self) -> Result<f64, Failure> {
        if self.pid == std::process::id() {
            // Of others there are only ticks of 10 ms.
            let time = clock_gettime(ClockId::ProcessCPUTime);
            return Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9);
        }
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok();
        let ticks = text.as_deref().and_then(|text| {
            // The second field, the program's name, can hold anything, and ends with the last bracket.
            let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
            Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
        });
        let gone = || Failure::new(Exit::Failed, format!("{} ended during the bench", self.name));
        Ok(ticks.ok_or_else(gone)? as f64 / clock_ticks_per_second() as f64)
    }

    /// Has the peak of its memory counted from now on, if the system lets us.
    fn forget_peak(&self) {
        if let Err(error) = fs::write(format!("/proc/{}/clear_refs", self.pid), "5") {
            log::debug!("the peak of memory is that since the start pid={} {error}", self.pid);
        }
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}

/// What a process used.
#[derive(Debug, Clone)]
pub struct Used {
    pub name: String,
    pub cpu_seconds: f64,
    pub peak_memory_bytes: Option<u64>,
}

/// What was used during a measurement.
#[derive(Debug, Clone)]
pub struct Usage {
    pub processes: Vec<Used>,
    /// How many cores were busy on average with what is none of these processes: above about 0.3 a
    /// wall-clock figure is not to be trusted.
    pub other_cores: Option<f64>,
}

/// Watches processes from its making to `end`.
pub struct Watch<'a> {
    processes: &'a [Process],
    cpu_before: Vec<f64>,
    busy_before: Option<f64>,
    begun: Instant,
}

impl Watch<'_> {
    pub fn begin(processes: &[Process]) -> Result<Watch<'_>, Failure> {
        processes.iter().for_each(Process::forget_peak);
        let cpu_before = processes.iter().map(Process::cpu_seconds).collect::<Result<_, _>>()?;
        let busy_before = machine_busy_seconds();
        Ok(Watch { processes, cpu_before, busy_before, begun: Instant::now() })
    }

    pub fn end(self) -> Result<Usage, Failure> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let busy = self.busy_before.zip(machine_busy_seconds());
        let mut processes = Vec::new();
        for (process, before) in self.processes.iter().zip(self.cpu_before) {
            processes.push(Used {
                name: process.name.clone(),
                cpu_seconds: process.cpu_seconds()? - before,
                peak_memory_bytes: process.peak_memory_bytes(),
            });
        }
        let own: f64 = processes.iter().map(|used| used.cpu_seconds).sum();
        let other_cores = busy.map(|(before, after)| ((after - before - own) / seconds).max(0.0));
        Ok(Usage { processes, other_cores })
    }
}

/// Processor time that all of the machine has spent, other than idle or waiting for disks.
fn machine_busy_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().next()?.strip_prefix("cpu")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq.
    let busy: u64 = [0, 1, 2, 5, 6].into_iter().filter_map(|at| ticks.get(at)).sum();
    Some(busy as f64 / clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_uses_is_seen() {
        let processes = [Process::client()];
        let watch = Watch::begin(&processes).expect("we run");
        let begun = Instant::now();
        let mut memory = vec![1u8; 32 << 20];
        while begun.elapsed().as_millis() < 50 {
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = byte.wrapping_add(1));
        }
        let usage = watch.end().expect("we run");
        assert!(usage.processes[0].cpu_seconds > 0.0);
        let peak = usage.processes[0].peak_memory_bytes.expect("Linux says");
        assert!(peak > memory.len() as u64, "{peak}");
    }

    #[test]
    fn a_process_that_ended_is_named() {
        let gone = Process { name: "node 7".to_string(), pid: u32::MAX };
        let failure = Watch::begin(&[gone]).err().expect("nobody has that number");
        assert!(failure.message.contains("node 7"), "{}", failure.message);
    }
}
