//! `p2pdfs-node --leave`: sees a node through until nothing depends on it any more.

use std::path::Path;
use std::time::Instant;

use crossbeam_channel::{Receiver, select};

use crate::causes::with_causes;
use crate::cli::countdown::{Countdown, EVERY};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, shown};
use crate::size::ByteSize;
use crate::storage_node::{Leaving, Node, NodeError};
use crate::wire::to_main::DrainReply;
use crate::wire::{CallError, FaultCode};

/// How it ended, unless the node has left.
pub enum Interrupted {
    /// By a signal.
    Stopped,
    /// The node cannot go on.
    Failed(NodeError),
    /// It must not leave.
    Refused(Failure),
}

/// Returns once the main server has struck the node off.
pub fn see_through<T>(
    node: &Node,
    force: bool,
    is_quiet: bool,
    stop_requests: &Receiver<T>,
) -> Result<(), Interrupted> {
    let mut countdown = Countdown::of(is_quiet, "bytes");
    let mut said: Option<(Instant, DrainReply)> = None;
    loop {
        match node.leave(force) {
            Ok(Leaving::Left) => return Ok(()),
            Ok(Leaving::Draining(drain)) => {
                countdown.left(drain.bytes_left, drain.waits_for.as_deref());
                let is_news = said
                    .as_ref()
                    .is_none_or(|(at, before)| *before != drain && at.elapsed() >= 10 * EVERY);
                if is_news {
                    log::info!("{}", describe(&drain));
                    said = Some((Instant::now(), drain));
                }
            }
            Err(CallError::Fault(fault)) if fault.code == FaultCode::WouldLose => {
                let mut failure = Failure::new(Exit::Failed, format!("cannot leave: {fault}"))
                    .hint("let it run until there is another copy; or lose these: add --force");
                failure.details = fault.files.iter().map(shown).collect();
                return Err(Interrupted::Refused(failure));
            }
            Err(CallError::Fault(fault)) if !fault.retryable => {
                let failure =
                    Failure::new(Exit::of_fault(fault.code), format!("cannot leave: {fault}"));
                return Err(Interrupted::Refused(failure));
            }
            Err(error) => log::warn!("cannot ask to leave just now error={}", with_causes(&error)),
        }
        select! {
            recv(stop_requests) -> _ => return Err(Interrupted::Stopped),
            recv(node.failures()) -> failure => match failure {
                Ok(NodeError::Left(_)) => return Ok(()),
                Ok(error) => return Err(Interrupted::Failed(error)),
                Err(_) => return Err(Interrupted::Stopped),
            },
            default(EVERY) => {}
        }
    }
}

fn describe(drain: &DrainReply) -> String {
    let mut text = format!(
        "leaving: {} ({}) still to be moved, {} of them here alone",
        counted(drain.chunks_left, "chunk"),
        ByteSize(drain.bytes_left),
        drain.only_copies
    );
    if let Some(why) = &drain.waits_for {
        text.push_str(&format!("; waiting: {}", shown(why)));
    }
    text
}

/// What is to be said once the node has left.
pub fn farewell(directory: &Path) {
    let directory = directory.display();
    eprintln!("the node has left: {directory} is of no more use and can be deleted");
}

/// What is to be said when the node was stopped before it had left.
pub fn not_yet(directory: &Path, node: &Node) -> Failure {
    Failure::new(
        Exit::Interrupted,
        format!("node {} was stopped before it had left", node.number()),
    )
    .hint(format!(
        "to go on: p2pdfs-node --dir {} --leave; to stay: p2pdfs admin drain {} --undo",
        directory.display(),
        node.number()
    ))
}
