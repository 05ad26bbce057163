//! `explain`: where copies are and why there, what speaks against the other nodes, and what is being
//! done about copies that are missing.

use std::collections::BTreeMap;

use super::Main;
use super::admin::admins_only;
use super::fault::path;
use super::node::Node;
use crate::catalog::{AccountRecord, ChunkRecord, EntryKind, Standing};
use crate::ids::{Address, ChunkId, NodeId};
use crate::policy::liveness::State;
use crate::policy::placement::{Explained, Placer, Reason, Wish};
use crate::wire::admin::*;
use crate::wire::to_main::Addresses;
use crate::wire::{Fault, FaultCode, MAX_ITEMS};

/// How many chunks an answer explains; with the most copies and nodes they fit into a message.
const PAGE: usize = 128;
/// The chunk for which a node is explained that is asked about alone: as long as clients cut them.
const USUAL_LENGTH: u32 = 4 << 20;
/// The most nodes that the words about one chunk name.
const MAX_NAMED: usize = 8;

/// The nodes at one moment, as chunks are explained by.
struct Scene<'a> {
    main: &'a Main,
    nodes: BTreeMap<NodeId, Stand>,
    placer: Placer,
}

/// How a node stands.
struct Stand {
    state: &'static str,
    address: Option<Address>,
    is_live: bool,
    counts: bool,
    is_draining: bool,
    orders: u64,
}

impl Main {
    /// Serves `explain`.
    pub(super) fn explain(
        &self,
        account: &AccountRecord,
        request: Explain,
    ) -> Result<ExplainReply, Fault> {
        admins_only(account, "ask where copies are")?;
        match request {
            Explain::File { path, from } => self.explain_file(account, &path, from),
            Explain::Chunk { id } => self.explain_chunk(account, id),
            Explain::Node { node } => self.explain_node(node),
        }
    }

    fn explain_file(
        &self,
        account: &AccountRecord,
        text: &str,
        from: u64,
    ) -> Result<ExplainReply, Fault> {
        let found = self.catalog.look_up(account.id, &path(text)?);
        let info = match found.map_err(|error| self.fault(error))?.kind {
            EntryKind::File(info) => info,
            EntryKind::Directory => {
                return Err(Fault::new(FaultCode::IsADirectory, format!("{text} is a directory")));
            }
        };
        let records = self.catalog.manifest(account.id, info.version, from, PAGE);
        let records = records.map_err(|error| self.fault(error))?;
        let more = from + (records.len() as u64) < info.chunk_count && !records.is_empty();
        Ok(ExplainReply { more, ..self.explain_records(&records) })
    }

    fn explain_chunk(&self, account: &AccountRecord, id: ChunkId) -> Result<ExplainReply, Fault> {
        let located = self.catalog.locate(account.id, &[id]).map_err(|error| self.fault(error))?;
        match located.into_iter().flatten().next() {
            Some(record) => Ok(self.explain_records(&[record])),
            None => {
                let why = format!("account {} never stored chunk {id}", account.name);
                Err(Fault::new(FaultCode::NotFound, why))
            }
        }
    }

    fn explain_node(&self, node: NodeId) -> Result<ExplainReply, Fault> {
        let scene = Scene::new(self);
        if !scene.nodes.contains_key(&node) {
            let why = format!("no node {node} has joined this cluster");
            return Err(Fault::new(FaultCode::NotFound, why));
        }
        let nodes = scene.explain_nodes(USUAL_LENGTH, &[]);
        let nodes: Vec<ExplainedNode> = nodes.into_iter().filter(|n| n.node == node).collect();
        let addresses = scene.addresses([node]);
        Ok(ExplainReply { nodes, addresses, ..ExplainReply::default() })
    }

    fn explain_records(&self, records: &[ChunkRecord]) -> ExplainReply {
        let scene = Scene::new(self);
        let chunks = records.iter().map(|record| scene.explain_chunk(record)).collect();
        let (length, holders) = match records.first() {
            Some(first) => (first.length, first.copies.iter().map(|copy| copy.node).collect()),
            None => (USUAL_LENGTH, Vec::new()),
        };
        let mut nodes = scene.explain_nodes(length, &holders);
        nodes.truncate(MAX_ITEMS);
        let held = records.iter().flat_map(|record| record.copies.iter().map(|copy| copy.node));
        let addresses = scene.addresses(held.chain(nodes.iter().map(|node| node.node)));
        ExplainReply { chunks, more: false, nodes, addresses }
    }
}

impl<'a> Scene<'a> {
    fn new(main: &'a Main) -> Scene<'a> {
        let (now, interval) = (main.clock.now(), main.nodes.interval());
        let table = main.nodes.lock();
        let stand = |node: &Node| {
            let state = node.state(interval, now);
            let is_live = state == State::Alive && !node.has_left();
            Stand {
                state: if node.has_left() { "left" } else { state.name() },
                address: node.address.clone(),
                is_live,
                counts: is_live && node.standing == Standing::Member,
                is_draining: node.standing == Standing::Draining,
                orders: node.orders.len() as u64,
            }
        };
        let nodes = table.nodes.values().map(|node| (node.id, stand(node))).collect();
        drop(table);
        Scene { main, nodes, placer: main.placer() }
    }

    fn is_live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|stand| stand.is_live)
    }

    fn counts(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|stand| stand.counts)
    }

    fn addresses(&self, named: impl IntoIterator<Item = NodeId>) -> Addresses {
        let address = |node| Some((node, self.nodes.get(&node)?.address.clone()?));
        named.into_iter().filter_map(address).collect()
    }

    fn explain_chunk(&self, record: &ChunkRecord) -> ExplainedChunk {
        let copies = record.copies.iter().map(|copy| ExplainedCopy {
            node: copy.node,
            reason: Reason::text(copy.reason).to_string(),
            state: self.nodes.get(&copy.node).map_or("left", |stand| stand.state).to_string(),
            counts: self.counts(copy.node),
        });
        let (state, detail) = self.judge(record);
        ExplainedChunk {
            id: record.id,
            serial: record.serial,
            length: record.length,
            wanted: record.wanted,
            copies: copies.collect(),
            state: state.to_string(),
            detail,
        }
    }

    /// How the chunk fares, in one word and in more.
    fn judge(&self, record: &ChunkRecord) -> (&'static str, String) {
        let holders: Vec<NodeId> = record.copies.iter().map(|copy| copy.node).collect();
        let counting = holders.iter().filter(|node| self.counts(**node)).count();
        let wanted = usize::from(record.wanted);
        if holders.is_empty() {
            return ("lost", "no node has a copy".to_string());
        }
        if !holders.iter().any(|node| self.is_live(*node)) {
            let why = "each node that has a copy is away";
            return ("unreadable", format!("{why}: {}", self.states(&holders)));
        }
        match counting.checked_sub(wanted) {
            Some(0) => ("enough", format!("{counting} of {wanted} copies count")),
            Some(more) => {
                let why = "trimmed as soon as enough others count";
                ("surplus", format!("{more} copies more than the {wanted} wanted, to be {why}"))
            }
            None => self.judge_few(record, &holders, wanted - counting),
        }
    }

    fn judge_few(
        &self,
        record: &ChunkRecord,
        holders: &[NodeId],
        missing: usize,
    ) -> (&'static str, String) {
        let lacks = format!("{missing} of {} copies missing", record.wanted);
        let targets = self.main.under_way().targets(record.serial, self.main.clock.now());
        if !targets.under_way.is_empty() {
            let to = named(targets.under_way.iter().map(|node| node.to_string()));
            return ("under_way", format!("{lacks}; copies are on their way to node {to}"));
        }
        let mut taken = holders.to_vec();
        taken.extend(&targets.failed);
        let wish =
            Wish { length: record.length, copies: missing, holders: &taken, apart_from: &[] };
        let explained = self.placer.explain(&wish);
        if explained.iter().all(|node| node.unfit.is_some()) {
            return (
                "waiting",
                format!("{lacks}, and no node can take one: {}", unfit(&explained)),
            );
        }
        let away: Vec<NodeId> =
            holders.iter().copied().filter(|node| !self.is_live(*node)).collect();
        let is_queued = self.main.repair.lock().queue.contains(record.serial);
        match is_queued {
            true => ("queued", format!("{lacks}; {}", self.when_repaired())),
            false if !away.is_empty() => {
                let why = "are waited for before they are made anew";
                ("waiting", format!("{lacks}, those that {why}: {}", self.states(&away)))
            }
            false => ("queued", format!("{lacks}; the survey is about to find it")),
        }
    }

    /// When what is queued is done, as far as can be told.
    fn when_repaired(&self) -> String {
        let status = self.main.repair_status();
        let chunks = status.chunks_left;
        match status.left_s {
            Some(left_s) => format!("one of {chunks} chunks in the queue, done in {left_s} s"),
            None => format!("one of {chunks} chunks in the queue"),
        }
    }

    /// The nodes that are not alive, with their states.
    fn states(&self, nodes: &[NodeId]) -> String {
        named(nodes.iter().map(|node| {
            let state = self.nodes.get(node).map_or("left", |stand| stand.state);
            format!("node {node} {state}")
        }))
    }

    /// What stands for and against each node, by number.
    fn explain_nodes(&self, length: u32, holders: &[NodeId]) -> Vec<ExplainedNode> {
        let wish = Wish { length, copies: 1, holders, apart_from: &[] };
        let explained = self.placer.explain(&wish);
        let mut explained: BTreeMap<NodeId, Explained> =
            explained.into_iter().map(|node| (node.node, node)).collect();
        let nodes = self.nodes.iter().map(|(&node, stand)| {
            let (refused, mut detail) = match explained.remove(&node) {
                Some(found) => (found.unfit.map(|unfit| unfit.name().to_string()), found.detail),
                None => (Some("left".to_string()), "it was struck off".to_string()),
            };
            if stand.is_draining {
                detail.push_str(", its copies are being moved off");
            }
            let (state, orders) = (stand.state.to_string(), stand.orders);
            ExplainedNode { node, state, refused, detail, orders }
        });
        nodes.collect()
    }
}

fn unfit(explained: &[Explained]) -> String {
    named(explained.iter().map(|node| {
        let why = node.unfit.map_or("ok", |unfit| unfit.name());
        format!("node {} {why} ({})", node.node, node.detail)
    }))
}

/// The first few, and that there are more.
fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let mut text = names.take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
