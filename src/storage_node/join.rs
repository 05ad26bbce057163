//! `add_me`: how a node joins, and how it takes up work again after a start of its own or of the
//! main server.

use std::path::Path;

use crate::ids::{Incarnation, Secret};
use crate::segments::{OpenReport, Store, StoreError, StoreId, StoreOptions};
use crate::wire::node_to_main::{AddMe, AddMeReply};
use crate::wire::{CallError, Connection, Fault, FaultCode};

use super::config::NodeConfig;
use super::error::NodeError;
use super::identity::{Membership, OWN_FILES};
use super::shared::{Member, Shared};
use crate::wire::Dialled;

/// Why `add_me` came to nothing.
#[derive(Debug)]
pub(super) enum AddMeError {
    /// The main server did not take it; another try may do better.
    Call(CallError),
    /// There is no use in going on.
    Fatal(NodeError),
}

impl From<CallError> for AddMeError {
    fn from(error: CallError) -> Self {
        AddMeError::Call(error)
    }
}

impl From<NodeError> for AddMeError {
    fn from(error: NodeError) -> Self {
        AddMeError::Fatal(error)
    }
}

/// Opens the store of a node that has joined, and finishes a join that was cut off after the store
/// was made. `None` when the directory has yet to join.
pub(super) fn open_store(
    shared: &Shared,
    config: &NodeConfig,
) -> Result<Option<Member>, NodeError> {
    let file = shared.identity.get();
    let options = options(config, file.space_bytes);
    let (store, report) = match Store::open(&config.directory, options) {
        Ok(opened) => opened,
        // The store is made before the number is noted, so there never was one.
        Err(StoreError::NotAStore(_)) if file.member.is_none() => return Ok(None),
        Err(StoreError::Locked(directory)) => return Err(NodeError::Locked(directory)),
        Err(error) => return Err(error.into()),
    };
    let found = Membership { cluster: report.id.cluster, node: report.id.node };
    match file.member {
        None => shared.identity.update(|file| file.member = Some(found))?,
        Some(own) if own == found => {}
        Some(own) => {
            let directory = config.directory.clone();
            return Err(NodeError::Mixed { directory, store: found.node, file: own.node });
        }
    }
    tell(&report, &config.directory);
    // What they cost, the inventory tells.
    report.damaged.iter().for_each(|_| shared.counters.count_damaged());
    Ok(Some(Member::new(found, store, report.highest_serial, config.clock.clone())))
}

fn options(config: &NodeConfig, space_bytes: u64) -> StoreOptions {
    StoreOptions {
        segment_bytes: config.segment_bytes,
        trash_hold: config.trash_hold,
        clock: config.clock.clone(),
        ..StoreOptions::offering(space_bytes)
    }
}

fn tell(report: &OpenReport, directory: &Path) {
    log::info!(
        "store opened directory={} node={} segments={} scanned={} chunks={}",
        directory.display(),
        report.id.node,
        report.segments,
        report.scanned,
        report.chunks
    );
    for tail in &report.cut {
        log::warn!("torn tail cut {tail}");
    }
    for damage in &report.damaged {
        log::error!("segment damaged {damage}");
    }
    for missing in &report.missing {
        log::error!("segments missing from={} to={}", missing.start(), missing.end());
    }
}

/// Joins: the main server gives a number, and the directory becomes that node's. Every step can be
/// cut off and repeated: the secret is on disk already, and by it the main server knows the node
/// again; the number is noted last.
pub(super) fn join(
    shared: &Shared,
    config: &NodeConfig,
) -> Result<(Dialled, AddMeReply, Member), NodeError> {
    let directory = &config.directory;
    let invite = config.invite.ok_or_else(|| NodeError::JoinUnfinished(directory.to_path_buf()))?;
    let main = shared.identity.get().main;
    let failed = |error| match error {
        AddMeError::Call(source) => {
            NodeError::Join { main: main.clone(), source: Box::new(source) }
        }
        AddMeError::Fatal(error) => error,
    };
    let mut connection = shared.dial_control().map_err(|error| failed(error.into()))?;
    let reply = add_me(shared, &mut connection, Some(invite)).map_err(failed)?;
    let id = StoreId { cluster: reply.cluster, node: reply.node };
    let options = options(config, shared.identity.get().space_bytes);
    Store::create(directory, id, reply.time, &OWN_FILES)?;
    let (store, report) = Store::open(directory, options)?;
    let membership = Membership { cluster: reply.cluster, node: reply.node };
    shared.identity.update(|file| file.member = Some(membership))?;
    registered(shared, &reply)?;
    log::info!("joined node={} cluster={} main={main}", reply.node, reply.cluster);
    let clock = config.clock.clone();
    Ok((connection, reply, Member::new(membership, store, report.highest_serial, clock)))
}

/// Takes up work again, as the node that this one is.
pub(super) fn return_to(
    shared: &Shared,
    connection: &mut Connection,
) -> Result<AddMeReply, AddMeError> {
    // What this one is held against must not go with this process.
    shared.save_heard();
    let reply = add_me(shared, connection, None)?;
    registered(shared, &reply)?;
    Ok(reply)
}

/// Says `add_me`; what came of it is not noted yet, but for the keys and the time.
fn add_me(
    shared: &Shared,
    connection: &mut Connection,
    invite: Option<Secret>,
) -> Result<AddMeReply, AddMeError> {
    // On disk before the main server hears of it: after a crash either may be the registered one.
    let (previous, is_new) = shared.identity.add_candidate(shared.incarnation)?;
    let file = shared.identity.get();
    let member = shared.member();
    let space = member.as_ref().map(|member| shared.space(member)).unwrap_or_else(|| {
        crate::wire::node_to_main::Space {
            offered_bytes: file.space_bytes,
            free_bytes: file.space_bytes,
            ..Default::default()
        }
    });
    let request = AddMe {
        invite,
        secret: file.secret,
        previous,
        incarnation: shared.incarnation,
        address: shared.address.clone(),
        zone: file.zone,
        space,
        highest_serial: member.as_ref().and_then(|member| member.highest_serial),
        cluster: member.map(|member| member.membership.cluster),
        main_incarnation: file.main_incarnation,
        main_mark: shared.identity.heard(),
        time: Some(shared.clock.wall()),
    };
    let reply = match connection.call(&request) {
        Ok(reply) => reply,
        Err(CallError::Fault(fault)) if fault.code == FaultCode::StaleDirectory => {
            return Err(shared.identity.stale().into());
        }
        Err(CallError::Fault(fault)) if is_new && is_unregistered(&fault) => {
            shared.identity.forget_candidate(shared.incarnation)?;
            return Err(CallError::Fault(fault).into());
        }
        Err(error) => return Err(error.into()),
    };
    shared.time.tell(reply.time);
    shared.keys.announce(&reply.keys, reply.time)?;
    Ok(reply)
}

/// True for an answer to `add_me` after which this start is surely not the registered one.
fn is_unregistered(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::Denied | FaultCode::Invalid | FaultCode::Unreachable)
}

/// Notes that this start is the registered one, and by whom.
fn registered(shared: &Shared, reply: &AddMeReply) -> Result<(), NodeError> {
    shared.set_adopted(reply.is_adopted);
    if let Some(member) = shared.member().filter(|_| reply.is_adopted) {
        member.store.wake_compaction();
    }
    let own: Incarnation = shared.incarnation;
    let file = shared.identity.get();
    let (main, mark) = match reply.is_adopted {
        true => (Some(reply.incarnation), reply.mark),
        false => (file.main_incarnation, shared.identity.heard()),
    };
    if !reply.is_adopted {
        log::error!(
            "the main server does not know the one that was here before, or not all of it: it may be \
             an old copy or a blank one, and is obeyed in nothing that would delete main={}",
            file.main
        );
    }
    shared.identity.hear_anew(mark);
    if file.incarnations != [own] || file.main_incarnation != main {
        shared.identity.update(|file| {
            file.incarnations = vec![own];
            (file.main_incarnation, file.main_mark) = (main, mark);
        })?;
    }
    Ok(())
}
