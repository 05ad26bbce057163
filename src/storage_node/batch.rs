//! What is told to the main server: copies that are durable here, duplicated elsewhere, or lost; who
//! waits for the answers; and what of it travels together.

use std::time::Instant;

use crate::ids::{Address, ChunkId, NodeId, Serial};
use crate::token::Token;
use crate::wire::node_to_main::{DuplicatedChunk, Target};
use crate::wire::to_main::Addresses;
use crate::wire::{Fault, FaultCode};

use super::answer::Giver;

/// A node to duplicate to, where it is, and the token to do so.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub node: NodeId,
    pub address: Address,
    pub token: Token,
}

/// The targets with their addresses. A target without one is of no use.
pub(super) fn destinations(targets: Vec<Target>, nodes: &Addresses) -> Vec<Destination> {
    let known = targets.into_iter().filter_map(|target| {
        let address = nodes.get(&target.node).cloned();
        if address.is_none() {
            log::warn!("a target came without an address node={}", target.node);
        }
        Some(Destination { node: target.node, address: address?, token: target.token })
    });
    known.collect()
}

/// A copy that became durable here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredCopy {
    pub serial: Serial,
    pub id: ChunkId,
    /// With which it came.
    pub token: Token,
}

/// For each copy where to duplicate it, or why it does not count.
pub(super) type Answers = Vec<Result<Vec<Destination>, Fault>>;

/// Something to tell.
#[derive(Debug)]
pub(super) struct Job {
    pub what: What,
    /// `None` where nobody waits.
    pub answer: Option<Giver<Answers>>,
    /// When it is not worth sending any more.
    pub until: Option<Instant>,
}

/// What there is to tell.
#[derive(Debug)]
pub(super) enum What {
    /// At most `MAX_CONFIRMATIONS`; `None` in the place of one that is here no more.
    Stored(Vec<Option<StoredCopy>>),
    /// At most `MAX_CONFIRMATIONS`.
    Duplicated(Vec<DuplicatedChunk>),
    Lost(Serial),
}

/// What travels in one exchange: copies that are lost, or else what is there.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub lost: Vec<Job>,
    pub stored: Vec<Job>,
    pub duplicated: Vec<Job>,
}

impl Batch {
    /// Keeps only copies that are held.
    pub fn leave_out(&mut self, is_held: impl Fn(&StoredCopy) -> bool) {
        for job in &mut self.stored {
            if let What::Stored(copies) = &mut job.what {
                copies.iter_mut().for_each(|copy| *copy = copy.take().filter(&is_held));
            }
        }
        let (left, gone) =
            std::mem::take(&mut self.stored).into_iter().partition(|job| job.what.len() > 0);
        self.stored = left;
        let gone: Vec<Job> = gone;
        gone.into_iter().for_each(|job| job.deliver(Vec::new()));
    }

    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.stored.is_empty() && self.duplicated.is_empty()
    }
}

impl What {
    /// What is told, and so answered, one by one.
    pub fn len(&self) -> usize {
        match self {
            What::Stored(copies) => copies.iter().flatten().count(),
            What::Duplicated(chunks) => chunks.len(),
            What::Lost(_) => 1,
        }
    }
}

impl Job {
    /// Hands the answers to whoever waits for them: to all that was told.
    pub fn deliver(self, mut answers: Answers) {
        if let What::Stored(copies) = &self.what {
            let mut told = std::mem::take(&mut answers).into_iter();
            let answer_to = |copy: &Option<StoredCopy>| match copy {
                Some(_) => told.next().unwrap_or_else(|| Err(unheard())),
                None => Err(gone()),
            };
            answers = copies.iter().map(answer_to).collect();
        }
        if let Some(answer) = self.answer {
            answer.give(answers);
        }
    }
}

/// The answer to what was not told in time.
pub(super) fn unheard() -> Fault {
    let message = "the chunk is safe on this node, but the main server could not be told in time";
    Fault::new(FaultCode::Busy, message)
}

/// The answer to a copy that was left out.
pub(super) fn gone() -> Fault {
    let message = "the chunk was taken from this node again before the main server knew of it";
    Fault::new(FaultCode::Busy, message)
}
