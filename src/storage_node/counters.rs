//! What a node did since its start, for its operator and for tests.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::metrics::Page;
use crate::segments::Compaction;

/// Sums since the start.
#[derive(Debug, Default)]
pub struct Counters {
    client_bytes: AtomicU64,
    node_bytes: AtomicU64,
    stored: AtomicU64,
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    damaged: AtomicU64,
    unreadable: AtomicU64,
    compacted: AtomicU64,
    compacted_bytes: AtomicU64,
    freed_bytes: AtomicU64,
    transfers: AtomicU32,
}

/// A transfer under way, counted until it is dropped.
pub(super) struct Transfer<'a>(&'a Counters);

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.0.transfers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    /// Payload bytes that came from clients in `store`.
    pub fn client_bytes(&self) -> u64 {
        self.client_bytes.load(Ordering::Relaxed)
    }

    /// Payload bytes that came from other nodes.
    pub fn node_bytes(&self) -> u64 {
        self.node_bytes.load(Ordering::Relaxed)
    }

    /// Chunks that became durable here.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Copies found damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Copies that the disk could not read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Transfers under way now.
    pub fn transfers(&self) -> u32 {
        self.transfers.load(Ordering::Relaxed)
    }

    pub(super) fn begin_transfer(&self) -> Transfer<'_> {
        self.transfers.fetch_add(1, Ordering::Relaxed);
        Transfer(self)
    }

    pub(super) fn count_received(&self, bytes: u64, from_client: bool) {
        let sum = if from_client { &self.client_bytes } else { &self.node_bytes };
        sum.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_stored(&self, chunks: u64) {
        self.stored.fetch_add(chunks, Ordering::Relaxed);
    }

    pub(super) fn count_fetched(&self, chunks: u64, bytes: u64) {
        self.fetched.fetch_add(chunks, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_unreadable(&self) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_compaction(&self, done: &Compaction) {
        self.compacted.fetch_add(u64::from(done.freed_bytes > 0), Ordering::Relaxed);
        self.compacted_bytes.fetch_add(done.copied_bytes, Ordering::Relaxed);
        self.freed_bytes.fetch_add(done.freed_bytes, Ordering::Relaxed);
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        write!(
            f,
            "client_bytes={} node_bytes={} stored={} fetched={} fetched_bytes={} damaged={} \
             unreadable={}",
            of(&self.client_bytes),
            of(&self.node_bytes),
            of(&self.stored),
            of(&self.fetched),
            of(&self.fetched_bytes),
            of(&self.damaged),
            of(&self.unreadable)
        )
    }
}

impl Counters {
    /// Writes all of them into a page of metrics.
    pub(super) fn fill(&self, page: &mut Page) {
        let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let help = "Payload bytes that came in to be stored, by who sent them.";
        let received = [("client", of(&self.client_bytes)), ("node", of(&self.node_bytes))];
        page.counters("p2pdfs_node_received_bytes_total", help, "from", received);
        let help = "Chunks that became durable here.";
        page.counter("p2pdfs_node_stored_chunks_total", help, of(&self.stored));
        page.counter("p2pdfs_node_fetched_chunks_total", "Chunks read.", of(&self.fetched));
        let help = "Bytes of chunks that were read.";
        page.counter("p2pdfs_node_fetched_bytes_total", help, of(&self.fetched_bytes));
        let help = "Copies that were found damaged.";
        page.counter("p2pdfs_node_damaged_copies_total", help, of(&self.damaged));
        let help = "Copies that the disk could not read.";
        page.counter("p2pdfs_node_unreadable_copies_total", help, of(&self.unreadable));
        let help = "Segments that compaction took away.";
        page.counter("p2pdfs_node_compacted_segments_total", help, of(&self.compacted));
        let help = "Bytes that compaction wrote anew.";
        page.counter("p2pdfs_node_compaction_copied_bytes_total", help, of(&self.compacted_bytes));
        let help = "Bytes of the segments that compaction took away.";
        page.counter("p2pdfs_node_compaction_freed_bytes_total", help, of(&self.freed_bytes));
        let help = "Transfers under way.";
        page.gauge("p2pdfs_node_transfers", help, self.transfers().into());
    }
}
