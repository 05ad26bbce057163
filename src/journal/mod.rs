//! The journal of the catalog, as nodes keep it: files of sealed pieces, one file a generation.
//!
//! It knows how a file is laid out (`file`), sealed (`keys`, `seal`), looked over by a node that
//! cannot open it (`scan`), and put together again from several nodes' copies (`chain`). What is in a
//! piece is the catalog's business, and how pieces travel is the roles'.

mod chain;
mod file;
mod keys;
mod scan;
mod seal;
#[cfg(test)]
mod tests;

pub use chain::{Assembled, Kept, Missing, assemble, for_each_piece};
pub use file::{HEADER_BYTES, Header, Kind, MAX_PIECE_BYTES, PIECE_HEAD_BYTES, Piece, file_name};
pub use file::{number_of, path_of};
pub use keys::{RecoveryKey, SealingKey};
pub use scan::{Scan, scan};
pub use seal::{BadPiece, Seal};
