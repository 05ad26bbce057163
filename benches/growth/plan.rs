//! What a grown cluster holds: known without asking it, so that any file and chunk can be asked for.

use p2pdfs::ids::{AccountId, ChunkId, HashAlgorithm, NodeId};
use p2pdfs::remote_path::RemotePath;
use serde::{Deserialize, Serialize};

/// The account that owns everything.
pub const ACCOUNT: AccountId = AccountId(1);
/// The files of a group, which is a directory of them.
pub const GROUP_FILES: u64 = 1000;
/// The chunks of a group.
pub const GROUP_CHUNKS: u64 = 5000;
/// The bytes of a chunk.
pub const CHUNK_BYTES: usize = 64;

/// How much there is: groups of 1,000 files with 5,000 chunks. Of these files one has 536 chunks (so
/// that its manifest has a part of its own), 99 have 36, and 900 have one.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Plan {
    pub groups: u64,
    pub nodes: u32,
    pub copies: u8,
}

impl Plan {
    /// The number of files.
    pub fn files(&self) -> u64 {
        self.groups * GROUP_FILES
    }

    /// The number of chunks.
    pub fn chunks(&self) -> u64 {
        self.groups * GROUP_CHUNKS
    }

    /// The nodes that hold a chunk.
    pub fn holders(&self, chunk: u64) -> impl Iterator<Item = NodeId> {
        let nodes = u64::from(self.nodes);
        let copies = u64::from(self.copies);
        (0..copies).map(move |copy| NodeId(1 + ((chunk + copy) % nodes) as u32))
    }
}

/// The chunks of a file, given by its place in its group, as places among the group's chunks.
pub fn chunks_of(place: u64) -> std::ops::Range<u64> {
    match place {
        0 => 0..536,
        1..100 => 536 + (place - 1) * 36..536 + place * 36,
        _ => 4100 + (place - 100)..4101 + (place - 100),
    }
}

/// The path of a file.
pub fn path_of(file: u64) -> RemotePath {
    let (group, place) = (file / GROUP_FILES, file % GROUP_FILES);
    let path = format!("/group-{group:05}/file-{place:03}");
    path.parse().expect("a path of the plan is a path")
}

/// The directory of a group.
pub fn directory_of(group: u64) -> RemotePath {
    format!("/group-{group:05}").parse().expect("a path of the plan is a path")
}

/// The bytes of a chunk, of which there are not two with the same.
pub fn bytes_of(chunk: u64) -> [u8; CHUNK_BYTES] {
    let mut bytes = [0; CHUNK_BYTES];
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&chunk.to_be_bytes()));
    bytes
}

/// The name of a chunk.
pub fn id_of(chunk: u64) -> ChunkId {
    ChunkId::of(HashAlgorithm::Blake3, &bytes_of(chunk))
}

/// Numbers that look random and are the same in each run (G. Marsaglia, Xorshift RNGs, 2003).
pub struct Random(pub u64);

impl Random {
    /// The next number, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
