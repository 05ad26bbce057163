//! Whether a catalog that was put together may lack what nodes have that do not answer.

use std::collections::BTreeSet;

use crate::ids::NodeId;

/// True when the members that are `silent` may have a change that was on two nodes and that no node
/// which answered has, or has heard of. `keepers` are those that the last head known names.
///
/// What is on two nodes is on two keepers of its time, so it is hidden only if both are silent.
///
/// - If both were keepers by that head already, two of its keepers are silent: that is refused,
///   always.
/// - Otherwise one of them became a keeper later. All nodes hear at once who the keepers are, so by
///   then none of those that answered was in touch with the main server. Two keepers that answer
///   would both have to have been cut off while it went on, which is not believed of two at a time;
///   so other nodes may be silent then, as many as there are. Of one keeper, or none, it is believed,
///   and any two that are silent are refused.
///
/// So one node that was cut off never passes for the last state alone, unless at most one of all that
/// its catalog names is silent: nodes that joined later are known to nobody who answers.
pub fn may_hide(
    keepers: &BTreeSet<NodeId>,
    answered: &BTreeSet<NodeId>,
    silent: &BTreeSet<NodeId>,
) -> bool {
    let are_vouched_for = keepers.intersection(answered).count() >= 2;
    keepers.intersection(silent).count() >= 2 || (silent.len() >= 2 && !are_vouched_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hides(keepers: &[u32], answered: &[u32], silent: &[u32]) -> bool {
        let set = |numbers: &[u32]| numbers.iter().map(|number| NodeId(*number)).collect();
        may_hide(&set(keepers), &set(answered), &set(silent))
    }

    #[test]
    fn one_silent_node_hides_nothing_and_two_of_the_last_keepers_may() {
        assert!(!hides(&[1, 2, 3], &[1, 2, 3], &[]));
        assert!(!hides(&[1, 2, 3], &[1, 2], &[3]));
        assert!(!hides(&[1, 2], &[1], &[2]));
        assert!(!hides(&[], &[1], &[2]));
        assert!(hides(&[1, 2, 3], &[1], &[2, 3]));
        assert!(hides(&[1, 2, 3, 4], &[1, 2], &[3, 4]));
    }

    #[test]
    fn others_that_are_silent_count_unless_two_keepers_answer() {
        assert!(!hides(&[4, 5], &[1, 4, 5], &[2, 3]));
        assert!(!hides(&[1, 2, 3], &[1, 2], &[3, 4, 5]));
        assert!(hides(&[4, 5], &[1, 4], &[2, 5]));
        assert!(hides(&[4], &[4], &[2, 3]));
        assert!(hides(&[], &[1], &[2, 3]));
    }
}
