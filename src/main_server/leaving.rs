//! `drain`, `forget` and `drop_me`: how nodes go, for a while or for good.

use std::collections::HashSet;
use std::time::Duration;

use super::Main;
use super::admin::admins_only;
use super::view::View;
use crate::catalog::{AccountRecord, CatalogError, ChunkRecord, Standing};
use crate::ids::{NodeId, Serial};
use crate::policy::placement::Wish;
use crate::wire::admin::*;
use crate::wire::node_to_main::{DropMe, DropMeReply};
use crate::wire::to_main::Done;
use crate::wire::{Fault, FaultCode};

/// How long a node that stops is waited for when it does not say.
const BACK_IN: Duration = Duration::from_secs(600);
/// The longest that one is waited for.
const LONGEST_AWAY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many copies are looked at together.
const PAGE: usize = 1024;
/// How many copies of a node that drains are looked at to say how far it is.
const MOST_LOOKED_AT: u64 = 1 << 18;
/// How many chunks with their only copy on a node are kept to name their files.
const MOST_ONLY: usize = 4096;
/// How many files are looked at for that: for the progress, and for a refusal.
const FILES_FOR_PROGRESS: usize = 10_000;
const FILES_FOR_REFUSAL: usize = 200_000;
/// How many nodes a reason to wait names.
const NAMED_NODES: usize = 4;

/// What still depends on a node.
#[derive(Default)]
struct Dependent {
    chunks: u64,
    bytes: u64,
    /// Chunks of which no other node that may be there has a copy.
    only: u64,
    /// Some of these.
    only_serials: HashSet<Serial>,
    /// One of the chunks that have not enough other copies.
    example: Option<ChunkRecord>,
    copies: u64,
    is_whole: bool,
}

impl Main {
    /// Serves `drain`.
    pub(super) fn drain(
        &self,
        account: &AccountRecord,
        request: Drain,
    ) -> Result<DrainReply, Fault> {
        admins_only(account, "drain nodes")?;
        let node = request.node;
        let standing = self.member(node)?;
        if request.undo {
            if standing == Standing::Draining {
                self.decide(node, Standing::Member).map_err(|error| self.fault(error))?;
            }
            return Ok(DrainReply::default());
        }
        if standing == Standing::Member {
            self.decide(node, Standing::Draining).map_err(|error| self.fault(error))?;
        }
        self.progress(node).map_err(|error| self.fault(error))
    }

    /// Serves `forget`.
    pub(super) fn forget(&self, account: &AccountRecord, request: Forget) -> Result<Done, Fault> {
        admins_only(account, "strike nodes off")?;
        if self.nodes.standing(request.node) != Some(Standing::Left) {
            self.member(request.node)?;
            self.strike_off(request.node, request.force)?;
        }
        Ok(Done {})
    }

    /// Serves `drop_me`.
    pub(super) fn drop_me(&self, node: NodeId, request: DropMe) -> Result<DropMeReply, Fault> {
        // The node may rely on its confirmations from here on.
        self.catalog.sync().map_err(|error| self.fault(error))?;
        if !request.leave {
            let away = request.back_in_s.map_or(BACK_IN, Duration::from_secs).min(LONGEST_AWAY);
            self.nodes.stopped(node, self.clock.now() + away);
            log::info!("node stops node={node} back_in_s={}", away.as_secs());
            self.nodes_changed();
            return Ok(DropMeReply::default());
        }
        if !request.force {
            if self.nodes.standing(node) == Some(Standing::Member) {
                self.decide(node, Standing::Draining).map_err(|error| self.fault(error))?;
            }
            let drain = self.progress(node).map_err(|error| self.fault(error))?;
            if !drain.is_done {
                return Ok(DropMeReply { left: false, drain: Some(drain) });
            }
        }
        self.strike_off(node, request.force)?;
        Ok(DropMeReply { left: true, drain: None })
    }

    /// What was decided about a node that belongs to the cluster.
    fn member(&self, node: NodeId) -> Result<Standing, Fault> {
        match self.nodes.standing(node) {
            Some(Standing::Left) => {
                Err(Fault::new(FaultCode::NotFound, format!("node {node} was struck off")))
            }
            Some(standing) => Ok(standing),
            None => {
                let why = format!("no node {node} has joined this cluster");
                Err(Fault::new(FaultCode::NotFound, why))
            }
        }
    }

    /// Notes durably what was decided about a node, and acts by it from now on.
    fn decide(&self, node: NodeId, standing: Standing) -> Result<(), CatalogError> {
        self.catalog.set_standing(node, standing)?;
        let orders = self.nodes.set_standing(node, standing);
        orders.into_iter().for_each(|given| self.close_order(given, self.clock.now()));
        log::info!("node decided on node={node} standing={standing:?}");
        self.nodes_changed();
        Ok(())
    }

    /// Strikes a node off: refused when something would be lost by it, unless forced.
    fn strike_off(&self, node: NodeId, force: bool) -> Result<(), Fault> {
        let standing = self.nodes.standing(node).unwrap_or(Standing::Left);
        if !force {
            // First, so that no other copy is trimmed for the sake of those here from now on.
            if standing == Standing::Member {
                self.decide(node, Standing::Draining).map_err(|error| self.fault(error))?;
            }
            if let Err(fault) = self.check_nothing_lost(node) {
                if standing == Standing::Member {
                    self.decide(node, standing).map_err(|error| self.fault(error))?;
                }
                return Err(fault);
            }
        }
        self.decide(node, Standing::Left).map_err(|error| self.fault(error))?;
        self.survey.strip(node);
        Ok(())
    }

    fn check_nothing_lost(&self, node: NodeId) -> Result<(), Fault> {
        let dependent = self.dependent_on(node, u64::MAX).map_err(|error| self.fault(error))?;
        let lost = self.referred(&dependent.only_serials).map_err(|error| self.fault(error))?;
        if lost.is_empty() {
            return Ok(());
        }
        let files = self.name_files(&lost, MAX_NAMED_FILES, FILES_FOR_REFUSAL);
        let files = files.map_err(|error| self.fault(error))?;
        let more = if lost.len() >= MOST_ONLY { " or more" } else { "" };
        let why = format!(
            "node {node} has the only copy of {}{more} chunks: drain it first, or force it and \
             lose them",
            lost.len()
        );
        Err(Fault { files, ..Fault::new(FaultCode::WouldLose, why) })
    }

    /// Those of these chunks that some version refers to.
    fn referred(&self, serials: &HashSet<Serial>) -> Result<HashSet<Serial>, CatalogError> {
        let mut referred = HashSet::new();
        for &serial in serials {
            let found = self.catalog.survey(serial.0.checked_sub(1).map(Serial), 1)?;
            if found.iter().any(|c| c.record.serial == serial && c.is_referred) {
                referred.insert(serial);
            }
        }
        Ok(referred)
    }

    /// How far the draining of a node is.
    fn progress(&self, node: NodeId) -> Result<DrainReply, CatalogError> {
        let mut dependent = self.dependent_on(node, MOST_LOOKED_AT)?;
        if !dependent.is_whole {
            let space = self.nodes.space(node).unwrap_or_default();
            dependent.chunks = dependent.chunks.max(space.chunks);
            dependent.bytes = dependent.bytes.max(space.used_bytes);
        }
        let files =
            self.name_files(&dependent.only_serials, MAX_NAMED_FILES, FILES_FOR_PROGRESS)?;
        Ok(DrainReply {
            chunks_left: dependent.chunks,
            bytes_left: dependent.bytes,
            only_copies: dependent.only,
            files,
            is_done: dependent.is_whole && dependent.chunks == 0,
            waits_for: self.waits_for(node, &dependent),
        })
    }

    fn dependent_on(&self, node: NodeId, most: u64) -> Result<Dependent, CatalogError> {
        // Also while silence is not believed: what is on dead nodes alone may be gone.
        let view = self.nodes.view(false);
        let mut dependent = Dependent { is_whole: true, ..Dependent::default() };
        let (mut from, to) = (Serial(0), Serial(u64::MAX));
        loop {
            let page = self.catalog.copies_on(node, from, to, PAGE)?;
            let serials: Vec<Serial> = page.iter().map(|holding| holding.serial).collect();
            for record in self.catalog.chunks(&serials)? {
                dependent.take(node, record, &view);
            }
            dependent.copies += page.len() as u64;
            match page.last() {
                Some(last) if page.len() == PAGE => from = Serial(last.serial.0.saturating_add(1)),
                Some(_) | None => return Ok(dependent),
            }
            if dependent.copies >= most {
                return Ok(Dependent { is_whole: false, ..dependent });
            }
        }
    }

    /// Why nothing moves, where nothing does.
    fn waits_for(&self, node: NodeId, dependent: &Dependent) -> Option<String> {
        let record = dependent.example.as_ref()?;
        if let Some(why) = self.why_patient() {
            return Some(why);
        }
        let view = self.view();
        let holders = view.holders(record);
        if holders.live() == 0 {
            return Some(format!("no node that is there has chunk {}", record.id));
        }
        let nodes: Vec<NodeId> = record.copies.iter().map(|copy| copy.node).collect();
        let wish = Wish { length: record.length, copies: 1, holders: &nodes, apart_from: &[] };
        let explained = self.placer().explain(&wish);
        if explained.iter().any(|other| other.unfit.is_none()) {
            return None;
        }
        let others = explained.iter().filter(|other| other.node != node);
        let named = others.take(NAMED_NODES).map(|other| {
            let why = other.unfit.map_or("ok", |unfit| unfit.name());
            format!("node {} {why} ({})", other.node, other.detail)
        });
        let named: Vec<String> = named.collect();
        Some(match named.is_empty() {
            true => "there is no other node: start one".to_string(),
            false => format!("no other node can take its chunks: {}", named.join(", ")),
        })
    }
}

impl Dependent {
    /// Takes in a chunk that has a copy on the node.
    fn take(&mut self, node: NodeId, record: ChunkRecord, view: &View) {
        let holders = view.holders(&record);
        let other = |holder: &&NodeId| **holder != node;
        let counts = holders.counts.iter().filter(other).count();
        let away = holders.leaving.iter().chain(&holders.away).filter(other).count();
        let possible = view.counting_without(node);
        if counts + away == 0 {
            self.only += 1;
            if self.only_serials.len() < MOST_ONLY {
                self.only_serials.insert(record.serial);
            }
        }
        if counts < usize::from(record.wanted).min(possible.max(1)) {
            self.chunks += 1;
            self.bytes += u64::from(record.length);
            self.example.get_or_insert(record);
        }
    }
}
