//! Thousands of nodes in virtual time, driven by the very code of this module: placement, liveness,
//! mass silence, queue, judge, pace, rebalancing and trims together, while nodes join, crash, come
//! back, lose their disks, are cut off, leave. Asserted all along: a copy goes only where as many
//! verified ones as wanted stay; nothing is repaired for a silence that is doubted; no more is begun
//! than the limit allows. And left in peace, everything has exactly its copies, in different zones,
//! and the nodes are equally full. The same seed makes the same run.

mod events;
mod scenarios;
mod server;
mod work;
mod world;
