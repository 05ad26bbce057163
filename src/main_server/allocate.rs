//! `allocate`: where to store chunks.

use std::collections::HashMap;

use super::Main;
use super::fault::{check_copies, invalid, no_place};
use super::nodes::{Reach, claims};
use crate::catalog::{AccountRecord, ChunkRecord, Copy, LiveNodes};
use crate::clock::WallTime;
use crate::ids::{MAX_CHUNK_BYTES, NodeId, Serial, min_copies};
use crate::policy::placement::{Placer, Reason, Wish};
use crate::size::ByteSize;
use crate::token::Operation;
use crate::wire::to_main::{Addresses, Allocate, AllocateChunk, AllocateReply, Allocated, Place};
use crate::wire::{Fault, FaultCode, Outcome};

/// The allocation of one request's chunks, one after the other.
struct Allocation<'a> {
    main: &'a Main,
    copies: u8,
    live: LiveNodes,
    placer: Placer,
    expires: WallTime,
    reach: HashMap<NodeId, Option<Reach>>,
    addresses: Addresses,
    /// What was said of a chunk before: one that is named twice goes to one place.
    said: HashMap<Serial, Allocated>,
}

impl Main {
    /// Serves `allocate`.
    pub(super) fn allocate(
        &self,
        account: &AccountRecord,
        request: Allocate,
    ) -> Result<AllocateReply, Fault> {
        check_copies(request.copies)?;
        let lease_until = self.clock.wall() + self.config.upload_lease;
        let good = request.chunks.iter().filter(|chunk| check_length(chunk).is_ok());
        let good: Vec<_> = good.map(|chunk| (chunk.id, chunk.length)).collect();
        let reserved = self.catalog.reserve(account.id, request.copies, lease_until, &good);
        let mut reserved = reserved.map_err(|error| self.fault(error))?.into_iter();

        let mut allocation = Allocation::new(self, request.copies);
        let outcomes = request.chunks.iter().map(|chunk| {
            check_length(chunk)?;
            let record = reserved.next().expect("the catalog answers for each chunk")?;
            allocation.place(&record)
        });
        let outcomes: Vec<Result<Allocated, Fault>> = outcomes.collect();
        self.placed(&allocation.placer);
        let chunks = without_repeated_nodes(outcomes)?;
        Ok(AllocateReply { nodes: allocation.addresses, chunks: chunks.into(), lease_until })
    }
}

fn check_length(chunk: &AllocateChunk) -> Result<(), Fault> {
    match chunk.length {
        1..=MAX_CHUNK_BYTES => Ok(()),
        length => Err(invalid(format!(
            "a chunk has 1 to {MAX_CHUNK_BYTES} bytes, and {} would have {length}",
            chunk.id
        ))),
    }
}

/// When no chunk has a place, the first fault is the answer to all of it, with what is wrong with
/// each node; when some have, the others' faults are short.
fn without_repeated_nodes(
    outcomes: Vec<Result<Allocated, Fault>>,
) -> Result<Vec<Outcome<Allocated>>, Fault> {
    let has_no_place = |outcome: &Result<Allocated, Fault>| match outcome {
        Err(fault) => matches!(fault.code, FaultCode::NoSpace | FaultCode::TooFewNodes),
        Ok(_) => false,
    };
    if !outcomes.is_empty() && outcomes.iter().all(has_no_place) {
        let first = outcomes.into_iter().next().expect("it is not empty");
        return Err(first.expect_err("it has no place"));
    }
    let short = |outcome: Result<Allocated, Fault>| {
        Outcome::from(outcome.map_err(|mut fault| {
            fault.nodes.clear();
            fault
        }))
    };
    Ok(outcomes.into_iter().map(short).collect())
}

impl<'a> Allocation<'a> {
    fn new(main: &'a Main, copies: u8) -> Allocation<'a> {
        Allocation {
            main,
            copies,
            live: main.nodes.live(),
            placer: main.placer_of_puts(),
            expires: main.nodes.expiry(),
            reach: HashMap::new(),
            addresses: Addresses::new(),
            said: HashMap::new(),
        }
    }

    fn place(&mut self, record: &ChunkRecord) -> Result<Allocated, Fault> {
        if let Some(said) = self.said.get(&record.serial) {
            return Ok(said.clone());
        }
        let held: Vec<NodeId> = record.copies.iter().map(|copy| copy.node).collect();
        let live: Vec<NodeId> =
            held.iter().copied().filter(|node| self.live.contains(node)).collect();
        let said = if live.len() >= usize::from(min_copies(self.copies)) {
            Allocated::Stored { copies: live.len() as u8 }
        } else {
            let copy = self.choose(record, &held, &live)?;
            Allocated::Store(self.place_at(record, copy)?)
        };
        self.said.insert(record.serial, said.clone());
        Ok(said)
    }

    /// A node that holds the chunk already is asked first: storing there is a success without a
    /// byte written, and has the missing copies made.
    fn choose(
        &mut self,
        record: &ChunkRecord,
        held: &[NodeId],
        live: &[NodeId],
    ) -> Result<Copy, Fault> {
        let missing = usize::from(self.copies).saturating_sub(live.len()).max(1);
        let wish = Wish { length: record.length, copies: missing, holders: held, apart_from: held };
        let chosen = self.placer.place(&wish);
        let needed = usize::from(min_copies(self.copies));
        if live.len() + chosen.len() < needed {
            return Err(self.no_place(&wish, needed));
        }
        match (live.first(), chosen.first()) {
            (Some(&node), _) => Ok(Copy { node, reason: Reason::Holder.code() }),
            (None, Some(first)) => Ok(Copy { node: first.node, reason: first.reason.code() }),
            (None, None) => Err(self.no_place(&wish, needed)),
        }
    }

    fn no_place(&self, wish: &Wish<'_>, needed: usize) -> Fault {
        let size = ByteSize(u64::from(wish.length));
        let explained = self.placer.explain(wish);
        let copies = if needed == 1 { "1 copy is" } else { "2 copies are" };
        let (alive, with_room) =
            (self.placer.fit_nodes(), explained.iter().filter(|node| node.unfit.is_none()).count());
        let (code, why) = if explained.is_empty() {
            (FaultCode::TooFewNodes, "no node has joined this cluster yet".to_string())
        } else if alive < needed {
            let nodes = if alive == 0 { "no node is" } else { "only 1 node is" };
            (FaultCode::TooFewNodes, format!("{nodes} there to take it"))
        } else {
            let nodes = if with_room == 0 { "no node has" } else { "only 1 node has" };
            (FaultCode::NoSpace, format!("{nodes} {size} free"))
        };
        no_place(code, format!("it counts as stored once {copies} safe, but {why}"), explained)
    }

    fn place_at(&mut self, record: &ChunkRecord, copy: Copy) -> Result<Place, Fault> {
        let main = self.main;
        let reach = self.reach.entry(copy.node).or_insert_with(|| main.nodes.reach(copy.node));
        let Some(reach) = reach else {
            return Err(Fault::new(FaultCode::Busy, "the node that was chosen has just gone"));
        };
        let token = reach.mint(claims(Operation::Store, record, copy, self.expires));
        main.nodes.promise(copy.node, record.length, self.expires);
        self.addresses.entry(copy.node).or_insert_with(|| reach.address.clone());
        Ok(Place { node: copy.node, token, reason: None })
    }
}
