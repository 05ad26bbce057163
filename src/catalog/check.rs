//! Reads a stopped main server's catalog by code of its own.

use std::path::Path;

use serde::Serialize;

use crate::catalog::CatalogError;
use crate::ids::{AccountId, ChunkId, NodeId, Serial, Version};

/// What a catalog holds, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogReport {
    pub format: i64,
    pub cluster: String,
    pub accounts: u64,
    pub nodes: u64,
    /// Files that can be seen.
    pub files: u64,
    pub directories: u64,
    /// Versions, replaced and removed ones included.
    pub versions: u64,
    pub chunks: u64,
    pub copies: u64,
    /// Chunks in some version with fewer copies than wanted.
    pub under_copied: u64,
    /// One sentence for each thing that is wrong; empty when all is well.
    pub problems: Vec<String>,
}

/// A file that can be seen, with where each of its chunks is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    pub account: AccountId,
    pub path: String,
    pub version: Version,
    pub size: u64,
    pub chunks: Vec<CheckedChunk>,
}

/// A chunk of a checked file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedChunk {
    pub serial: Serial,
    pub id: ChunkId,
    pub length: u32,
    /// The nodes with a confirmed copy.
    pub nodes: Vec<NodeId>,
}

/// Reads the catalog in `dir` and says what is there and what is wrong.
/// Refused: `Missing`, `Locked` when a main server runs on it, `Format`, `Damaged`.
pub fn check(_dir: &Path) -> Result<CatalogReport, CatalogError> {
    todo!()
}

/// Every file that can be seen, by account and path.
pub fn files(_dir: &Path) -> Result<Vec<CheckedFile>, CatalogError> {
    todo!()
}
