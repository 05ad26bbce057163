//! What `status` says of nodes and copies that a person should know.

use super::Main;
use super::census::Trouble;
use crate::policy::placement::Wish;
use crate::wire::admin::Notice;

/// How many nodes a notice names.
const NAMED_NODES: usize = 8;
/// A chunk as long as our own client cuts them.
const USUAL_LENGTH: u32 = 4 << 20;

impl Main {
    /// What a person should know of nodes and copies.
    pub(super) fn repair_notices(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut say =
            |code: &str, message: String| notices.push(Notice { code: code.to_string(), message });
        if self.is_in_doubt()
            && let Some(why) = self.why_patient()
        {
            say("mass_silence", why);
        }
        for (node, why) in self.nodes.failures() {
            say(
                "failed_disk",
                format!(
                    "node {node} cannot store any more: {why}; replace it, or have its copies moved \
                     off: p2pdfs admin drain {node}"
                ),
            );
        }
        let waiting = self.repair.lock().queue.waiting();
        if waiting > 0 {
            let others: Vec<String> = self.why_full();
            say(
                "no_space",
                format!(
                    "{waiting} chunks have not the copies that they should, since no node can take \
                     one: {}; start another node",
                    others.join(", ")
                ),
            );
        }
        let lost = self.survey.lock().census.tally(Trouble::Lost).chunks;
        if lost > 0 {
            say(
                "lost_chunks",
                format!(
                    "{lost} chunks of files have no copy on any node: p2pdfs verify says which files \
                     these are"
                ),
            );
        }
        notices
    }

    /// What speaks against each node, for a chunk of the usual length that none of them has.
    fn why_full(&self) -> Vec<String> {
        let (holders, apart_from) = (&[], &[]);
        let wish = Wish { length: USUAL_LENGTH, copies: 1, holders, apart_from };
        let explained = self.placer().explain(&wish).into_iter().take(NAMED_NODES);
        let said = explained.map(|node| {
            let why = node.unfit.map_or("has or had one", |unfit| unfit.name());
            format!("node {} {why} ({})", node.node, node.detail)
        });
        said.collect()
    }
}
