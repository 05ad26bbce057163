//! How each step is carried out.

use std::time::Duration;

use super::*;

/// Applies a step, and shows the answer.
pub(in crate::catalog::contract) fn apply(
    catalog: &dyn Catalog,
    now: &mut WallTime,
    step: &Step,
) -> String {
    let show = |answer: &dyn std::fmt::Debug| format!("{answer:?}");
    let serial = |number: &u64| Serial(*number);
    // Time goes on, so that what one step ends the next can find over.
    *now = *now + Duration::from_secs(60);
    let now_is = *now;
    let lease = now_is + hours(5);
    let after_serial = |after: &Option<u64>| after.map(Serial);
    match step {
        Step::Reserve { account, copies, length, chunks } => {
            let chunks: Vec<_> = chunks.iter().map(|number| (id(*number), *length)).collect();
            show(&catalog.reserve(*account, *copies, lease, &chunks))
        }
        Step::Confirm { account, chunk, serial, length, node } => {
            let said = Confirmation {
                account: *account,
                id: id(*chunk),
                serial: Serial(serial.unwrap_or_default()),
                length: *length,
                wanted: 2,
                node: NodeId(*node),
                reason: *chunk as u8,
            };
            show(&catalog.confirm_copies(&[said], lease))
        }
        Step::Store { account, chunk, nodes } => {
            let mut reserved =
                catalog.reserve(*account, 2, lease, &[(id(*chunk), 1)]).expect("answers");
            let Ok(record) = reserved.remove(0) else { return "at another length".to_string() };
            let said: Vec<_> = nodes.iter().map(|n| confirmation(&record, NodeId(*n))).collect();
            show(&catalog.confirm_copies(&said, lease))
        }
        Step::Lose { node, serials } => {
            let serials: Vec<_> = serials.iter().map(serial).collect();
            show(&catalog.lose_copies(NodeId(*node), &serials))
        }
        Step::Reconcile { node, from, to, held } => {
            let held: Vec<_> = held
                .iter()
                .map(|(serial, chunk)| Holding {
                    serial: Serial(*serial),
                    length: 1 + chunk / 4,
                    fingerprint: Holding::fingerprint_of(&id(*chunk)),
                })
                .collect();
            show(&catalog.reconcile(
                NodeId(*node),
                Serial(*from),
                Serial(*to),
                &held,
                now_is + hours(10),
            ))
        }
        Step::Stage { account, upload, part, chunks } => {
            let chunks: Vec<_> = chunks.iter().map(|number| id(*number)).collect();
            show(&catalog.stage_part(*account, request(*upload), *part, &chunks, now_is))
        }
        Step::Commit { account, request: number, live: nodes, files } => {
            let (number, nodes) = (request(*number), live(nodes));
            let mut files = files.clone();
            for file in &mut files {
                if let Condition::Version(version) = &mut file.condition
                    && version.0 % 2 == 0
                {
                    *version = current(catalog, *account, &file.path);
                }
            }
            show(&catalog.commit_files(*account, number, now_is, &nodes, &files))
        }
        Step::MakeDirectory { account, request: number, at, parents } => {
            show(&catalog.make_directory(*account, request(*number), now_is, at, *parents))
        }
        Step::Move { account, request: number, from, to, replace } => {
            show(&catalog.move_entry(*account, request(*number), now_is, from, to, *replace))
        }
        Step::Remove { account, request: number, at, recursive, version, purge } => {
            let version_asked = |is_current| match is_current {
                true => current(catalog, *account, at),
                false => Version(1),
            };
            let (number, version) = (request(*number), version.map(version_asked));
            show(&catalog.remove_entry(*account, number, now_is, at, *recursive, version, *purge))
        }
        Step::Removed { account, at, after, limit } => {
            show(&catalog.removed(*account, at, after.map(Version), *limit))
        }
        Step::Undelete { account, request: number, at, earlier } => {
            let removed = catalog.removed(*account, at, None, usize::MAX).expect("a list");
            let version = earlier.then(|| removed.last().map_or(Version(1), |r| r.info.version));
            show(&catalog.undelete(*account, request(*number), now_is, at, version))
        }
        Step::SetCopies { account, request: number, at, copies, limit, pages } => {
            let mut answers = Vec::new();
            let mut after = None;
            for page in 0..*pages {
                let id = request(number.wrapping_add(page));
                let set = catalog.set_copies(*account, id, now_is, at, *copies, after, *limit);
                after = set.as_ref().ok().and_then(|set| set.next);
                answers.push(show(&set));
                if after.is_none() {
                    break;
                }
            }
            answers.join("\n")
        }
        Step::SeenFiles { after, limit } => show(&catalog.seen_files(*after, *limit)),
        Step::Trim { copies, live: nodes } => {
            let copies: Vec<_> = copies.iter().map(|(s, n)| (Serial(*s), NodeId(*n))).collect();
            show(&catalog.trim_copies(&copies, &live(nodes)))
        }
        Step::Expire { hours_ago, limit } => {
            show(&catalog.expire_versions(now_is - hours(*hours_ago), now_is, *limit))
        }
        Step::Collect { after, limit } => {
            show(&catalog.collect(after_serial(after), now_is, *limit))
        }
        Step::CondemnedOn { node, after, with_unknown, limit } => {
            let (node, after) = (NodeId(*node), after_serial(after));
            show(&catalog.condemned_on(node, after, *with_unknown, now_is, *limit))
        }
        Step::Deleted { node, serials } => {
            let serials: Vec<_> = serials.iter().map(serial).collect();
            show(&catalog.deleted_copies(NodeId(*node), &serials))
        }
        Step::Strip { node, after, limit } => {
            show(&catalog.strip_node(NodeId(*node), after_serial(after), *limit))
        }
        Step::SetStanding { node, standing } => {
            show(&catalog.set_standing(NodeId(*node), *standing))
        }
        Step::NoteTime { hours_ago, is_confirmed } => {
            show(&catalog.note_time(now_is - hours(*hours_ago), *is_confirmed))
        }
        Step::Join { invite, secret } => {
            show(&catalog.join_node(&[*invite; 32], &[*secret; 32], now_is))
        }
        Step::Start { node, previous, incarnation, highest } => {
            let start = NodeStart {
                previous: previous.iter().map(|n| Incarnation::from_bytes([*n; 16])).collect(),
                incarnation: Incarnation::from_bytes([*incarnation; 16]),
                address: "localhost:1".parse().expect("an address"),
                zone: format!("zone {incarnation}"),
                offered_bytes: 7,
                highest_serial: highest.map(Serial),
            };
            show(&catalog.start_node(NodeId(*node), &start))
        }
        Step::Begin { seconds } => {
            // So early that the clock adds few numbers, or none.
            let at = WallTime((1_577_836_800 + seconds / 39) * 1000);
            show(&catalog.begin_incarnation(Incarnation::from_bytes([*seconds as u8; 16]), at))
        }
        Step::Manifest { account, at, from, limit } => {
            let version = current(catalog, *account, at);
            let serials = catalog.serials_of(version, *from, *limit);
            show(&(serials, catalog.manifest(*account, version, *from, *limit)))
        }
        Step::UnderCopied { after, limit } => {
            show(&catalog.under_copied(after.as_ref().map(serial), *limit))
        }
        Step::CopiesOn { node, from, to, limit } => {
            show(&catalog.copies_on(NodeId(*node), Serial(*from), Serial(*to), *limit))
        }
        Step::Wait { hours: waited } => {
            *now = *now + hours(*waited);
            String::new()
        }
    }
}

/// The version of the file at `path`, or one of nothing.
fn current(catalog: &dyn Catalog, account: AccountId, path: &RemotePath) -> Version {
    match catalog.look_up(account, path).map(|entry| entry.kind) {
        Ok(EntryKind::File(info)) => info.version,
        _ => Version(2),
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}
