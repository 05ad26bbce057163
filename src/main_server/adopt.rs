//! `adopt`: a person's word that something which was stopped for safety may go on; and the main
//! servers that nodes knew and this one does not.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Main;
use super::admin::admins_only;
use super::nodes::Nodes;
use crate::catalog::{AccountRecord, CatalogError, NodeStart, Refusal};
use crate::ids::{BooksMark, Incarnation, NodeId};
use crate::wire::Fault;
use crate::wire::admin::{Adopt, Adopted, Notice};
use crate::wire::node_to_main::AddMe;
use crate::wire::to_main::Done;

/// The most nodes that a notice names.
const MAX_NAMED: usize = 16;

/// The nodes that saw a start of a main server last which is not in this one's history, or later
/// books of it than these. At most one
/// entry for each node.
#[derive(Default)]
pub struct Strangers {
    seen: Mutex<BTreeMap<NodeId, Stranger>>,
}

#[derive(Clone)]
struct Stranger {
    /// The start of the main server that it saw last, and how far that one's books were.
    main: (Incarnation, BooksMark),
    /// Its own start, where that could not be registered: the catalog lacks the one before it.
    refused: Option<NodeStart>,
}

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Stranger>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node named a main server that is not known. `refused` when it was not taken for it.
    pub fn note(&self, node: NodeId, request: &AddMe, refused: Option<NodeStart>) {
        if let Some(main) = request.main_incarnation {
            let main = (main, request.main_mark.unwrap_or(BooksMark(0)));
            self.lock().insert(node, Stranger { main, refused });
        }
    }

    /// The node named one that is known.
    pub fn forget(&self, node: NodeId) {
        self.lock().remove(&node);
    }
}

impl Nodes {
    /// Has the node say `add_me` again: until then it does not work for this main server.
    fn ask_anew(&self, node: NodeId) {
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            (node.is_added, node.signs.connected, node.signs.compared) = (false, false, false);
            if let Some(control) = node.control.take() {
                control.bell.ring();
            }
        }
    }
}

impl Main {
    /// Serves `adopt`. What is not held up by anything is a success.
    pub(super) fn adopt(&self, account: &AccountRecord, request: Adopt) -> Result<Done, Fault> {
        admins_only(account, "adopt anything")?;
        let adopted = match request.what {
            Adopted::Nodes => self.adopt_nodes(),
            Adopted::Clock => self.adopt_clock(),
            Adopted::Deletes => self.adopt_deletes(),
            Adopted::Silence => {
                self.adopt_silence();
                Ok(())
            }
        };
        adopted.map_err(|error| self.fault(error))?;
        self.collecting.waker.wake();
        self.wake_upkeep();
        Ok(Done {})
    }

    /// The node is being added, as one that obeys this main server or as one that deletes nothing by its
    /// word.
    pub(super) fn note_adopted(&self, node: NodeId, request: &AddMe, is_adopted: bool) {
        match is_adopted {
            true => self.strangers.forget(node),
            false => self.strangers.note(node, request, None),
        }
    }

    fn adopt_nodes(&self) -> Result<(), CatalogError> {
        let strangers = self.strangers.lock().clone();
        // The starts that were refused come first: once a main server that a node saw is known, a
        // node whose last start is not would be told that its directory is a stale copy, and end.
        let registered = self.catalog.nodes()?;
        for (id, stranger) in &strangers {
            let Some(start) = stranger.refused.clone() else { continue };
            let last = registered.iter().find(|node| node.id == *id).and_then(|n| n.incarnation);
            let previous = last.into_iter().chain(start.previous).collect();
            match self.catalog.start_node(*id, &NodeStart { previous, ..start }) {
                Ok(()) | Err(CatalogError::Refused(Refusal::NodeLeft(_))) => {}
                Err(error) => return Err(error),
            }
        }
        let mains: Vec<(Incarnation, BooksMark)> =
            strangers.values().map(|stranger| stranger.main).collect();
        self.catalog.adopt_incarnations(&mains, self.clock.wall())?;
        for (node, stranger) in &strangers {
            let (incarnation, mark) = stranger.main;
            log::warn!("main server adopted incarnation={incarnation} mark={mark} node={node}");
            self.nodes.ask_anew(*node);
        }
        // One that named another meanwhile stays.
        let mut seen = self.strangers.lock();
        seen.retain(|node, now| strangers.get(node).is_none_or(|then| then.main != now.main));
        Ok(())
    }

    /// What waits for a person's word here, or is held up by it.
    pub(super) fn brakes_notices(&self) -> Result<Vec<Notice>, CatalogError> {
        let notices = [self.clock_notice(), self.deletes_notice()?, self.strangers_notice()];
        Ok(notices.into_iter().flatten().collect())
    }

    fn strangers_notice(&self) -> Option<Notice> {
        let strangers = self.strangers.lock();
        if strangers.is_empty() {
            return None;
        }
        let named = strangers.keys().take(MAX_NAMED).map(|node| node.to_string());
        let mut names = named.collect::<Vec<_>>().join(", ");
        if strangers.len() > MAX_NAMED {
            names.push_str(&format!(" and {} more", strangers.len() - MAX_NAMED));
        }
        let refused = strangers.values().filter(|stranger| stranger.refused.is_some()).count();
        let at_work = strangers.len() - refused;
        let message = format!(
            "nodes {names} last worked for a main server that this one's history lacks, or saw later \
             books of it than these are: this catalog may be an old backup or a copy. {at_work} of them work for this one but delete nothing, \
             {refused} only serve reads. If this is the main server to go on with, type: p2pdfs admin \
             adopt nodes"
        );
        Some(Notice { code: "unadopted".to_string(), message })
    }
}
