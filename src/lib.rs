//! p2pdfs: one store made of many disks. A main server keeps the books, storage nodes hold the
//! bytes, a client cuts files into chunks and moves them straight to and from the nodes.
//!
//! # The map, in reading order
//!
//! The vocabulary, which everything may use and which uses nothing of ours:
//! - [`ids`]: chunk ids, nodes, serials, versions, keys; [`remote_path`]: names in the store;
//!   [`size`]: bytes for people; [`clock`]: time, which a test can move; [`durable`]: every sync,
//!   by name; [`causes`]: errors as text.
//!
//! What is decided, in pure functions:
//! - [`policy`]: placement, liveness, missing copies, comparing inventories; [`token`]: minting and
//!   checking.
//!
//! What is said, and how:
//! - [`wire`]: frames, messages, faults, the client end of a connection (protocol.md is the text);
//!   [`server`]: accept loop, thread per connection, limits, orderly stop; [`metrics`]: numbers for
//!   Prometheus, by HTTP.
//!
//! What is kept:
//! - [`catalog`]: the main server's books, a contract with two implementations; [`segments`]: a
//!   node's chunks on disk; [`journal`]: the books' copies on nodes, sealed.
//!
//! The roles, which join these:
//! - [`main_server`], [`storage_node`], [`client`]; and [`cli`], the programs around them.
//!
//! Why it all holds: `safety`, the argument for each promise, in one place.
//!
//! # The journey of one chunk
//!
//! `client` cuts it and names it; `main_server` asks `policy` for a place and `token` for a token;
//! the client sends it to a node; `storage_node` checks the token and the hash and hands the bytes
//! to `segments`; once they are durable it says `stored`; the main server writes the copy into the
//! `catalog` and names further nodes; the node forwards the chunk to these; each says `stored`; the
//! client is answered, and commits. The bytes never pass through the main server.
//!
//! # What holds everywhere
//!
//! - A copy counts only after the sync of its bytes, and a file is visible only after the sync of
//!   its record; so nothing that was acknowledged is lost with a process or with the power.
//! - A serial is never used again, so nothing that names one can mean other bytes.
//! - Copies of a node count only while it is alive and after its inventory was compared.
//! - Arrows: `cli` → roles → `wire`, `token`, `policy` → vocabulary; `main_server` → `catalog`,
//!   `storage_node` → `segments`, both → `server`; client and servers never import each other.

pub mod catalog;
pub mod causes;
pub mod cli;
pub mod client;
pub mod clock;
pub mod durable;
pub mod ids;
pub mod journal;
pub mod main_server;
pub mod metrics;
pub mod policy;
pub mod remote_path;
pub mod safety;
pub mod segments;
pub mod server;
pub mod size;
pub mod storage_node;
pub mod token;
pub mod wire;
