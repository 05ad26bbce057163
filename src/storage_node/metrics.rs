//! What a node tells a Prometheus server.

use super::shared::Shared;
use crate::metrics::Page;

/// Fills in all of the page. What is on disk is left out before the node has joined, and once it
/// stops.
pub fn fill(shared: &Shared, connections: usize, page: &mut Page) {
    let help = "Connections that are open.";
    page.gauge("p2pdfs_node_connections", help, connections as f64);
    shared.counters.fill(page);
    let Some(member) = shared.member() else { return };
    let space = member.space();
    page.gauge("p2pdfs_node_chunks", "Chunks that are kept.", space.chunks as f64);
    let kinds = [
        ("offered", space.offered_bytes),
        ("used", space.used_bytes),
        ("free", space.free_bytes),
        ("trash", space.trash_bytes),
    ];
    let values = kinds.map(|(kind, bytes)| (kind, bytes as f64));
    page.gauges("p2pdfs_node_space_bytes", "Space on disk.", "kind", values);
    let help = "Syncs of segments, each shared by all that waited for it.";
    page.counter("p2pdfs_node_syncs_total", help, member.store.sync_count());
    let help = "Copies that were dropped since they were damaged.";
    page.counter("p2pdfs_node_dropped_copies_total", help, member.store.dropped_count());
    let scrub = shared.scrub.state();
    let help = "Passes of verifying all that is kept.";
    page.counter("p2pdfs_node_scrub_passes_total", help, scrub.passes);
    let values =
        [("done", scrub.done_bytes), ("total", scrub.total_bytes)].map(|(of, n)| (of, n as f64));
    let help = "Bytes verified in this pass, and bytes that it has to verify.";
    page.gauges("p2pdfs_node_scrub_bytes", help, "of", values);
    let has_failed = u8::from(member.store.has_failed());
    page.gauge("p2pdfs_node_failed", "1 when the disk has failed.", has_failed.into());
}
