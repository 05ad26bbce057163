//! `stored`, `duplicated` and `bad_copy`: what becomes of copies.

use super::Main;
use super::node::{Given, OrderState, Purpose};
use super::nodes::claims;
use crate::catalog::{AccountRecord, ChunkRecord, Confirmation, Copy, LiveNodes, Refusal};
use crate::ids::{NodeId, Serial};
use crate::policy::placement::{Placer, Wish};
use crate::token::{Claims, Operation, Token};
use crate::wire::node_to_main::*;
use crate::wire::to_main::{Addresses, BadCopy, Done};
use crate::wire::{Fault, FaultCode, Outcome};

/// Picks the nodes that further copies go to, for the chunks of one request.
struct Targeting<'a> {
    main: &'a Main,
    live: LiveNodes,
    placer: Placer,
    addresses: Addresses,
}

impl Main {
    /// Serves `stored`: the copies count from now on, and those that clients sent are to be
    /// duplicated.
    pub(super) fn stored(&self, node: NodeId, request: Stored) -> Result<StoredReply, Fault> {
        let proof = |token| self.proof(node, token, &[Operation::Store, Operation::Duplicate]);
        let proofs: Vec<Result<Claims, Fault>> = request.tokens.iter().map(proof).collect();
        let good: Vec<Confirmation> = proofs.iter().flatten().map(confirmation).collect();
        let confirmed = self
            .catalog
            .confirm_copies(&good, self.clock.wall() + self.config.upload_lease)
            .map_err(|error| self.fault(error))?;
        // Counted or not, the bytes are there, and no more to come.
        self.nodes.redeem(node, proofs.iter().flatten());
        // A copy that came too late may have been condemned for it.
        if confirmed.iter().any(|result| matches!(result, Err(Refusal::Superseded { .. }))) {
            self.condemned_on([node]);
        }

        let mut targeting = Targeting::new(self);
        // One that came late, or that two had made: nobody else looks at the chunk again so soon.
        let live = &targeting.live;
        let live_copies = |record: &ChunkRecord| {
            record.copies.iter().filter(|copy| live.contains(&copy.node)).count()
        };
        let is_surplus = |record: &&ChunkRecord| live_copies(record) > record.wanted.into();
        let surplus: Vec<Serial> =
            confirmed.iter().flatten().filter(is_surplus).map(|record| record.serial).collect();
        let mut confirmed = confirmed.into_iter();
        let outcome = |proof: Result<Claims, Fault>| {
            let claims = proof?;
            let record = confirmed.next().expect("the catalog answers for each copy")?;
            self.under_way().end(record.serial, node);
            let targets = match claims.operation {
                // One that has yet to be compared tells of earlier copies again, and forwards nothing.
                Operation::Store if targeting.live.contains(&node) => targeting.targets(&record),
                Operation::Store | Operation::Duplicate | Operation::Fetch | Operation::Remove => {
                    Vec::new()
                }
            };
            Ok(Confirmed { targets })
        };
        let chunks: Outcomes = proofs.into_iter().map(outcome).map(Outcome::from).collect();
        self.placed(&targeting.placer);
        if !surplus.is_empty() {
            self.see_to(surplus);
            self.wake_upkeep();
        }
        Ok(StoredReply { nodes: targeting.addresses, chunks: chunks.into() })
    }

    /// Serves `duplicated`: for the targets that failed there are others, as long as there are.
    /// Those where it is done have said so themselves.
    pub(super) fn duplicated(
        &self,
        node: NodeId,
        request: Duplicated,
    ) -> Result<DuplicatedReply, Fault> {
        let proof = |chunk: &DuplicatedChunk| {
            self.proof(node, &chunk.token, &[Operation::Store, Operation::Fetch])
        };
        let proofs: Vec<Result<Claims, Fault>> = request.chunks.iter().map(proof).collect();
        let serials: Vec<Serial> = proofs.iter().flatten().map(|claims| claims.serial).collect();
        let records = self.catalog.chunks(&serials).map_err(|error| self.fault(error))?;

        let now = self.clock.now();
        let mut targeting = Targeting::new(self);
        let mut short = Vec::new();
        let outcome = |(proof, chunk): (Result<Claims, Fault>, &DuplicatedChunk)| {
            let claims = proof?;
            for failed in &chunk.failed {
                self.under_way().fail(claims.serial, failed.node, now);
                let why: String = failed.why.chars().take(200).collect();
                log::info!(
                    "copy not made chunk={} from={node} to={} why={why:?}",
                    claims.id,
                    failed.node
                );
            }
            let record = records.iter().find(|record| record.serial == claims.serial);
            let targets = match record {
                Some(record) if !chunk.failed.is_empty() => targeting.targets(record),
                Some(_) | None => Vec::new(),
            };
            if targets.is_empty() && !chunk.failed.is_empty() {
                short.push(claims.serial);
            }
            Ok(Confirmed { targets })
        };
        let outcomes = proofs.into_iter().zip(request.chunks.iter()).map(outcome);
        let chunks: Outcomes = outcomes.map(Outcome::from).collect();
        self.placed(&targeting.placer);
        if !short.is_empty() {
            self.see_to(short);
            self.wake_upkeep();
        }
        Ok(DuplicatedReply { nodes: targeting.addresses, chunks: chunks.into() })
    }

    fn proof(
        &self,
        node: NodeId,
        token: &Token,
        operations: &[Operation],
    ) -> Result<Claims, Fault> {
        let claims = self.nodes.check_proof(node, token)?;
        match operations.contains(&claims.operation) {
            true => Ok(claims),
            false => Err(crate::token::TokenError::Denied.into()),
        }
    }

    /// Serves `bad_copy`: the node is told to look at its copy. The word of a client alone never
    /// costs a copy, and each can speak of its own account's chunks only.
    pub(super) fn bad_copy(
        &self,
        account: &AccountRecord,
        request: BadCopy,
    ) -> Result<Done, Fault> {
        let denied = || Fault::new(FaultCode::Denied, "the token is not one of this account's");
        let node = request.token.claimed_node().ok_or_else(denied)?;
        let proof = self.proof(node, &request.token, &[Operation::Fetch]);
        let claims = proof.map_err(|_| denied())?;
        if claims.account != account.id {
            return Err(denied());
        }
        let what: String = request.what.chars().take(200).collect();
        log::warn!("copy reported bad chunk={} node={node} what={what:?}", claims.id);
        let Some(reach) = self.nodes.reach(node) else { return Ok(Done {}) };
        let serial = claims.serial;
        let token = reach.mint(Claims { expires: self.nodes.expiry(), ..claims });
        let order = Order { order: self.next_order(), token, action: Action::Verify {} };
        let (purpose, since) = (Purpose::Verify { serial }, self.clock.now());
        if self.nodes.give(node, Given { order, purpose, since, state: OrderState::ToSend }) {
            self.wake_upkeep();
        }
        Ok(Done {})
    }
}

type Outcomes = Vec<Outcome<Confirmed>>;

fn confirmation(claims: &Claims) -> Confirmation {
    Confirmation {
        account: claims.account,
        id: claims.id,
        serial: claims.serial,
        length: claims.length,
        wanted: claims.wanted,
        node: claims.node,
        reason: claims.reason,
    }
}

impl<'a> Targeting<'a> {
    fn new(main: &'a Main) -> Targeting<'a> {
        let (live, placer) = (main.nodes.live(), main.placer_of_puts());
        Targeting { main, live, placer, addresses: Addresses::new() }
    }

    /// Nodes for the copies that are wanted, not confirmed on a live node and not on their way.
    /// They are on their way from now on.
    fn targets(&mut self, record: &ChunkRecord) -> Vec<Target> {
        let now = self.main.clock.now();
        let mut under_way = self.main.under_way();
        let known = under_way.targets(record.serial, now);
        let is_live = |copy: &&Copy| self.live.contains(&copy.node);
        let have = record.copies.iter().filter(is_live).count() + known.under_way.len();
        let missing = usize::from(record.wanted).saturating_sub(have);
        if missing == 0 {
            return Vec::new();
        }
        let mut holders: Vec<NodeId> = record.copies.iter().map(|copy| copy.node).collect();
        holders.extend(known.under_way.iter().chain(&known.failed));
        let wish = Wish {
            length: record.length,
            copies: missing,
            holders: &holders,
            apart_from: &holders,
        };
        let chosen = self.placer.place(&wish).into_iter();
        let copies = chosen.map(|c| Copy { node: c.node, reason: c.reason.code() });
        let copies: Vec<Copy> = copies.collect();
        for copy in &copies {
            under_way.begin(record.serial, copy.node, now);
        }
        drop(under_way);
        self.main.targets_for(record, &copies, &mut self.addresses)
    }
}

impl Main {
    /// The tokens with which the chunk can be copied to these nodes, and their addresses.
    pub(super) fn targets_for(
        &self,
        record: &ChunkRecord,
        copies: &[Copy],
        addresses: &mut Addresses,
    ) -> Vec<Target> {
        let expires = self.nodes.expiry();
        let target = |copy: &Copy| {
            let reach = self.nodes.reach(copy.node)?;
            let token = reach.mint(claims(Operation::Duplicate, record, *copy, expires));
            self.nodes.promise(copy.node, record.length, expires);
            addresses.insert(copy.node, reach.address);
            Some(Target { node: copy.node, token })
        };
        copies.iter().filter_map(target).collect()
    }
}
