//! How the cluster is, in one line, and what to type about each notice.

use serde::Serialize;

use crate::cli::output::{counted, span};
use crate::wire::to_main::{NodeStatus, Notice, StatusReply};

/// The state of the whole, the worst that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// A chunk of a file has no copy left.
    Damaged,
    /// Something was stopped until a person decides, or does something.
    Waiting,
    /// One more loss could make a file unreadable, or some are until a node comes back.
    AtRisk,
    /// Copies are missing.
    Repairing,
    Healthy,
}

impl Health {
    /// As it is said to people.
    pub fn words(self) -> &'static str {
        match self {
            Health::Damaged => "damaged",
            Health::Waiting => "waiting for somebody",
            Health::AtRisk => "at risk",
            Health::Repairing => "repairing",
            Health::Healthy => "healthy",
        }
    }
}

/// How the cluster is, and why, in words.
pub fn health(status: &StatusReply, nodes: &[NodeStatus]) -> (Health, String) {
    if status.lost_chunks > 0 {
        let chunks = counted(status.lost_chunks, "chunk");
        return (Health::Damaged, format!("{chunks} of files: no node has a copy any more"));
    }
    if let Some(notice) = status.notices.iter().find(|notice| waits_for_somebody(notice)) {
        return (Health::Waiting, notice.message.clone());
    }
    if nodes.is_empty() {
        return (Health::Waiting, "no node has joined yet".to_string());
    }
    if status.unreadable_chunks > 0 {
        let chunks = counted(status.unreadable_chunks, "chunk");
        let why = format!("{chunks} of files cannot be read until nodes that are away come back");
        return (Health::AtRisk, why);
    }
    if status.files_at_risk > 0 || status.single_copy_chunks > 0 {
        let files = counted(status.files_at_risk, "file");
        let chunks = counted(status.single_copy_chunks, "chunk");
        let why = format!("{files} with {chunks} of one copy each; {}", repair_goes(status));
        return (Health::AtRisk, why);
    }
    if status.under_copied_chunks > 0 {
        let chunks = counted(status.under_copied_chunks, "chunk");
        let why = format!("{chunks} with fewer copies than wanted; {}", repair_goes(status));
        return (Health::Repairing, why);
    }
    let why = match status.is_surveyed {
        true => "every chunk of every file has its copies",
        false => "no chunk is known to lack a copy, and not all were looked at yet",
    };
    (Health::Healthy, why.to_string())
}

fn repair_goes(status: &StatusReply) -> String {
    match status.repair.left_s {
        Some(seconds) => format!("repair is done in about {}", span(seconds * 1000)),
        None => "no repair goes on just now".to_string(),
    }
}

fn waits_for_somebody(notice: &Notice) -> bool {
    let codes = ["mass_silence", "deletes_held", "clock", "unadopted", "no_space"];
    codes.contains(&notice.code.as_str())
}

/// The next thing to type about a notice, where there is one.
pub fn next_step(notice: &Notice) -> Option<&'static str> {
    Some(match notice.code.as_str() {
        "mass_silence" => {
            "start the nodes again; or, if they are gone for good: p2pdfs admin adopt silence"
        }
        "deletes_held" => "if these copies may go: p2pdfs admin adopt deletes",
        "clock" => {
            "set the clock of the main server's machine; or, if it is right: p2pdfs admin adopt clock"
        }
        "unadopted" => "if this is the main server that shall go on: p2pdfs admin adopt nodes",
        "journal" => "see which nodes are alive: p2pdfs admin nodes",
        "failed_disk" => "have its copies moved off: p2pdfs admin drain NODE --wait",
        "no_space" => "start another node: p2pdfs admin invite",
        "lost_chunks" => "see which files: p2pdfs verify /",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::{node, status};
    use super::*;
    use crate::wire::to_main::RepairStatus;

    fn notice(code: &str) -> Notice {
        Notice { code: code.to_string(), message: format!("{code} is the matter") }
    }

    #[test]
    fn health_is_the_worst_that_is_true() {
        let nodes = [node(1)];
        let mut status = status();
        let mut is = |change: fn(&mut StatusReply), expected| {
            change(&mut status);
            assert_eq!(health(&status, &nodes).0, expected, "{status:?}");
        };
        is(|_| {}, Health::Healthy);
        is(|s| s.under_copied_chunks = 5, Health::Repairing);
        is(|s| (s.files_at_risk, s.single_copy_chunks) = (1, 2), Health::AtRisk);
        is(|s| s.unreadable_chunks = 1, Health::AtRisk);
        is(|s| s.notices.push(notice("failed_disk")), Health::AtRisk);
        is(|s| s.notices.push(notice("mass_silence")), Health::Waiting);
        is(|s| s.lost_chunks = 1, Health::Damaged);
    }

    #[test]
    fn repair_says_when_it_is_done_or_that_it_stands_still() {
        let mut status = StatusReply { under_copied_chunks: 2, ..status() };
        assert!(health(&status, &[node(1)]).1.contains("no repair goes on"));
        status.repair = RepairStatus { left_s: Some(180), ..RepairStatus::default() };
        assert!(health(&status, &[node(1)]).1.contains("about 3 min"));
    }

    #[test]
    fn a_cluster_without_nodes_waits_for_somebody() {
        assert_eq!(health(&status(), &[]).0, Health::Waiting);
    }

    #[test]
    fn whatever_waits_for_somebody_says_what_to_type() {
        for code in ["mass_silence", "deletes_held", "clock", "unadopted", "no_space"] {
            assert!(waits_for_somebody(&notice(code)));
            let next = next_step(&notice(code)).expect("something");
            assert!(next.contains("p2pdfs admin "), "{next}");
        }
        assert_eq!(next_step(&notice("of_a_later_version")), None);
    }
}
