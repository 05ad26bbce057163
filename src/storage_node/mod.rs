//! The storage node: takes chunks in for tokens, gives them out for tokens, has more copies made,
//! and tells the main server what it holds. The bytes themselves are `segments`' business, and who
//! may connect how often is `server`'s.
//!
//! In reading order: `node` (start and stop), `identity` and `keys` (what it knows of itself),
//! `join` and `control` (its life with the main server), `service` (a connection), `store` and
//! `fetch` (what a connection asks), `confirmer`, `exchange` and `forward` (what a stored chunk sets off),
//! `orders`; `journal` and `read_journal` (what it keeps of the catalog).

mod answer;
mod aside;
mod batch;
mod bookmark;
mod buffers;
mod compaction;
mod config;
mod confirmer;
mod control;
mod copying;
mod counters;
mod error;
mod exchange;
mod fault;
mod fetch;
mod forward;
mod identity;
mod inventory;
mod join;
mod journal;
mod keys;
mod leaving;
mod metrics;
mod node;
mod orders;
mod parting;
mod read_journal;
mod recent;
mod scrub;
mod service;
mod shared;
mod store;
mod verifier;

#[cfg(test)]
mod tests;

pub use config::{NodeConfig, NodeLimits, ScrubConfig, ScrubRate};
pub use error::NodeError;
pub use leaving::Leaving;
pub use node::Node;
