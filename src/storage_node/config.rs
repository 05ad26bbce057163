//! How a node is to be run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::ids::{Address, Secret};

/// What a node is started with. What is `None` is as it was at the last start, which the node's
/// directory remembers.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The node's directory.
    pub directory: PathBuf,
    /// The main server; needed at the first start.
    pub main: Option<Address>,
    /// The bytes offered; needed at the first start.
    pub space_bytes: Option<u64>,
    /// A failure domain; at most `MAX_ZONE_BYTES` bytes.
    pub zone: Option<String>,
    /// Where to listen. Port 0 is the port of the last start if that is free, or else any.
    pub listen: SocketAddr,
    /// Where clients and other nodes reach it, when that is not where it listens.
    pub address: Option<Address>,
    /// What lets it join; needed at the first start and of no effect later.
    pub invite: Option<Secret>,
    /// Allow plain text to and from other machines.
    pub insecure_plaintext: bool,
    /// How long the node is expected to be away when it stops; the main server waits so long before
    /// it has copies made elsewhere.
    pub back_in: Duration,
    pub scrub: ScrubConfig,
    /// The size of the files that chunks are kept in.
    pub segment_bytes: u64,
    /// How long a removed chunk can be restored for sure.
    pub trash_hold: Duration,
    pub limits: NodeLimits,
    pub clock: Clock,
}

/// How the node verifies what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubConfig {
    pub rate: ScrubRate,
    /// From the begin of one pass over everything to that of the next, if there is time to spare.
    pub every: Duration,
}

/// How fast a node reads what it holds, to verify it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrubRate {
    /// Not at all.
    Off,
    BytesPerSecond(u64),
    Unlimited,
}

impl Default for ScrubConfig {
    fn default() -> ScrubConfig {
        let rate = ScrubRate::BytesPerSecond(8 << 20);
        ScrubConfig { rate, every: Duration::from_secs(24 * 3600) }
    }
}

/// The most bytes in the name of a zone.
pub(super) const MAX_ZONE_BYTES: usize = 64;

impl NodeConfig {
    /// A node on this machine's loopback, with everything else as it was.
    pub fn new(directory: impl Into<PathBuf>) -> NodeConfig {
        NodeConfig {
            directory: directory.into(),
            main: None,
            space_bytes: None,
            zone: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            address: None,
            invite: None,
            insecure_plaintext: false,
            back_in: Duration::from_secs(600),
            scrub: ScrubConfig::default(),
            segment_bytes: 256 << 20,
            trash_hold: Duration::from_secs(3600),
            limits: NodeLimits::default(),
            clock: Clock::system(),
        }
    }
}

/// What a node takes on at once, and how long it lets others wait.
#[derive(Debug, Clone)]
pub struct NodeLimits {
    /// Connections open at once; a tenth of them are for nodes alone.
    pub connections: usize,
    /// Payload bytes of clients' stores held at once.
    pub client_bytes: u64,
    /// The same for other nodes' stores. Of their own, so that two nodes which forward to each other
    /// cannot each wait for what only the other can free.
    pub duplicate_bytes: u64,
    /// Payload bytes of fetches held at once.
    pub fetch_bytes: u64,
    /// How long a request waits for such bytes before it is `busy`.
    pub budget_patience: Duration,
    /// Bytes of chunks held at once for copies that the main server ordered.
    pub copy_bytes: u64,
    /// How long a durable copy waits to be confirmed before its store is `busy`.
    pub confirm_patience: Duration,
    /// How long a node that stops waits for the main server to hear its goodbye.
    pub parting_patience: Duration,
}

impl Default for NodeLimits {
    fn default() -> Self {
        NodeLimits {
            connections: 10_000,
            client_bytes: 32 << 20,
            duplicate_bytes: 16 << 20,
            fetch_bytes: 32 << 20,
            budget_patience: Duration::from_secs(10),
            copy_bytes: 32 << 20,
            confirm_patience: Duration::from_secs(10),
            parting_patience: Duration::from_secs(3),
        }
    }
}
