//! What the main server tells a Prometheus server: what `status` answers, and what was asked of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Main;
use crate::metrics::Page;
use crate::wire::FaultCode;
use crate::wire::to_main::{NodeStatus, Status, StatusReply, ToMain};

/// Requests since the start, by name, and the faults that they were answered with.
pub struct Requests {
    by_name: BTreeMap<&'static str, AtomicU64>,
    /// Requests that could not be read, or that no protocol knows.
    others: AtomicU64,
    faults: Mutex<HashMap<FaultCode, u64>>,
}

impl Default for Requests {
    fn default() -> Self {
        let zero = |name: &&'static str| (*name, AtomicU64::new(0));
        let by_name = ToMain::NAMES.iter().map(zero).collect();
        Requests { by_name, others: AtomicU64::new(0), faults: Mutex::default() }
    }
}

impl Requests {
    /// A request was answered.
    pub fn count(&self, name: &str, fault: Option<FaultCode>) {
        self.by_name.get(name).unwrap_or(&self.others).fetch_add(1, Ordering::Relaxed);
        if let Some(code) = fault {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            *faults.entry(code).or_default() += 1;
        }
    }

    fn fill(&self, page: &mut Page) {
        let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let named = self.by_name.iter().map(|(name, sum)| (*name, of(sum)));
        let all = named.chain([("unreadable", of(&self.others))]);
        page.counters("p2pdfs_main_requests_total", "Requests, by their name.", "request", all);
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = faults.iter().map(|(code, count)| (code_name(*code), *count));
        let help = "Requests that were answered with a fault, by its code.";
        page.counters("p2pdfs_main_faults_total", help, "code", faults);
    }
}

/// The code as it is on the wire.
fn code_name(code: FaultCode) -> String {
    let json = serde_json::to_string(&code).expect("a code is plain text");
    json.trim_matches('"').to_string()
}

/// Fills in all of the page.
pub fn fill(main: &Main, connections: usize, page: &mut Page) {
    let help = "Connections that are open.";
    page.gauge("p2pdfs_main_connections", help, connections as f64);
    main.requests.fill(page);
    let mut nodes: Vec<NodeStatus> = Vec::new();
    loop {
        let after = nodes.last().map(|node| node.node);
        let mut status = match main.cluster_state(Status { after }) {
            Ok(status) => status,
            // It is logged, and what is counted in memory is there all the same.
            Err(_) => return,
        };
        nodes.extend(std::mem::take(&mut status.nodes).into_vec());
        if !status.more {
            fill_status(&status, page);
            return fill_nodes(&nodes, page);
        }
    }
}

fn fill_status(status: &StatusReply, page: &mut Page) {
    let mut gauge = |name: &str, help: &str, value: u64| page.gauge(name, help, value as f64);
    gauge("p2pdfs_main_files", "Files that can be seen.", status.files);
    gauge("p2pdfs_main_files_at_risk", "Files with a chunk of one copy.", status.files_at_risk);
    gauge("p2pdfs_main_chunks", "Chunks.", status.chunks);
    gauge("p2pdfs_main_copies", "Copies of chunks.", status.copies);
    gauge(
        "p2pdfs_main_surveyed",
        "1 once all chunks were looked at since nodes changed: until then classes may be too low.",
        status.is_surveyed.into(),
    );
    let repair = &status.repair;
    gauge("p2pdfs_main_repair_left_chunks", "Chunks to be copied.", repair.chunks_left);
    gauge("p2pdfs_main_repair_left_bytes", "Bytes of copies to be made.", repair.bytes_left);
    gauge(
        "p2pdfs_main_repair_bytes_per_second",
        "How fast copies were made of late.",
        repair.bytes_per_second,
    );
    gauge("p2pdfs_main_moves_left_chunks", "Chunks to be moved elsewhere.", repair.moves_left);
    gauge("p2pdfs_main_copy_orders", "Chunks that nodes have orders to copy.", repair.orders);
    gauge("p2pdfs_main_surplus_copies", "Copies that are too many.", repair.surplus_copies);
    let deletes = &status.deletes;
    gauge(
        "p2pdfs_main_condemned_copies",
        "Copies that nodes are to delete.",
        deletes.condemned_copies,
    );
    gauge(
        "p2pdfs_main_unexplained_deletes",
        "Of these, copies that no removal or expiry explains, and that were not let go.",
        deletes.unexplained_copies,
    );
    let journal = &status.journal;
    gauge(
        "p2pdfs_main_journal_keepers",
        "Nodes that keep the catalog's journal.",
        journal.keepers.len() as u64,
    );
    let help = "Age of the oldest change of the catalog that is not on two nodes.";
    page.gauge("p2pdfs_main_journal_lag_seconds", help, journal.lag_ms as f64 / 1000.0);
    if let Some(ms) = status.last_commit_ms {
        let help = "Age of the last durable change of the catalog.";
        page.gauge("p2pdfs_main_last_commit_age_seconds", help, ms as f64 / 1000.0);
    }
    let classes = [
        ("under_copied", status.under_copied_chunks),
        ("single_copy", status.single_copy_chunks),
        ("unreadable", status.unreadable_chunks),
        ("lost", status.lost_chunks),
    ];
    let help = "Chunks of files that lack copies; under_copied includes the other classes.";
    let values = classes.map(|(class, count)| (class, count as f64));
    page.gauges("p2pdfs_main_troubled_chunks", help, "class", values);
    let mut notices: BTreeMap<&str, f64> = BTreeMap::new();
    for notice in &status.notices {
        *notices.entry(&notice.code).or_default() += 1.0;
    }
    let help = "What waits for something or for somebody, by its code.";
    page.gauges("p2pdfs_main_notices", help, "code", notices);
}

fn fill_nodes(nodes: &[NodeStatus], page: &mut Page) {
    let known = ["alive", "returning", "suspect", "dead", "stopped", "left"];
    let mut states: BTreeMap<&str, f64> = known.map(|state| (state, 0.0)).into();
    nodes.iter().for_each(|node| *states.entry(&node.state).or_default() += 1.0);
    page.gauges("p2pdfs_main_nodes", "Nodes, by their state.", "state", states);
    let draining = nodes.iter().filter(|node| node.draining).count();
    page.gauge("p2pdfs_main_draining_nodes", "Nodes that are drained.", draining as f64);
    let present = || nodes.iter().filter(|n| !matches!(n.state.as_str(), "dead" | "left"));
    let sum = |of: fn(&NodeStatus) -> u64| present().map(|node| of(node) as f64).sum::<f64>();
    let space = [
        ("offered", sum(|node| node.space.offered_bytes)),
        ("used", sum(|node| node.space.used_bytes)),
        ("free", sum(|node| node.space.free_bytes)),
        ("trash", sum(|node| node.space.trash_bytes)),
    ];
    let help = "Space of the nodes that are neither dead nor struck off.";
    page.gauges("p2pdfs_main_space_bytes", help, "kind", space);
}
