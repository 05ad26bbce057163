//! The chunk store of one storage node: chunks appended to large segment files, made durable by
//! shared syncs, found again through an index in memory, checked block by block when they are read.
//! It knows nothing of networks, tokens or the main server.
//!
//! In reading order: `format` (the bytes on disk), `store` (what it can do), `append` and `commit`
//! (the way of a chunk to the disk), `read`, `remove` and `remains` (the trash), `compact` (the way of
//! a segment from the disk), `scrub`, `open` and `scan` (what a start does), `check` (a second reader,
//! which shares no parsing with the others and so can bear witness against them).

mod append;
pub mod check;
mod check_segment;
mod commit;
mod compact;
mod compact_copy;
mod compacted;
mod error;
mod file;
pub mod format;
mod hint;
mod index;
mod open;
mod read;
mod remains;
mod remove;
mod report;
mod scan;
mod scrub;
mod segment;
mod space;
mod store;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_compact;
#[cfg(test)]
mod tests_damage;
#[cfg(test)]
mod tests_model;
#[cfg(test)]
mod tests_scrub;
#[cfg(test)]
mod tests_trash;
#[cfg(test)]
mod tests_unreadable;

pub use compact::Compaction;
pub use error::{Loss, LostCopy, StoreError};
#[cfg(test)]
pub use file::bad_sectors::BadSectors;
pub use index::{Held, fingerprint};
pub use report::{CutTail, Damage, Gap, OpenReport};
pub use scrub::{ScrubCursor, ScrubStep};
pub use space::Space;
pub use store::{NewChunk, Store, StoreId, StoreOptions, Ticket};
