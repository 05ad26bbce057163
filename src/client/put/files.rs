//! The files of a put: what is to be stored, and how far each of them is.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::batch::{Input, Stamp};
use crate::client::ClientError;
use crate::ids::{ChunkId, RequestId};
use crate::remote_path::RemotePath;
use crate::wire::MAX_PART_CHUNKS;
use crate::wire::to_main::{CommitFile, Stage};

use super::PutOptions;

/// Where the bytes of a file come from.
pub enum Source {
    /// A regular file; a symbolic link to one is followed.
    Path(PathBuf),
    /// What is in memory already.
    Bytes(Vec<u8>),
    /// Anything that can be read, to its end.
    Stream(Box<dyn Read + Send>),
}

/// A file to store.
pub struct Upload {
    pub from: Source,
    pub to: RemotePath,
}

/// A file under way.
pub(super) struct FileState {
    pub to: RemotePath,
    /// `None` for a stream, and for bytes in memory.
    pub path: Option<PathBuf>,
    /// All of a file that is in memory.
    pub bytes: Option<Arc<Vec<u8>>>,
    pub stamp: Option<Stamp>,
    pub executable: bool,
    /// Open while a large file is read.
    pub handle: Option<Arc<File>>,
    /// The names of the chunks, as far as they are read.
    pub chunks: Vec<Option<ChunkId>>,
    /// How long each chunk is: all but the last.
    pub chunk_bytes: usize,
    pub size: u64,
    /// Chunks that are not stored yet, of those that are known.
    pub left: usize,
    /// All of it was read.
    pub is_read: bool,
    pub sent_bytes: u64,
    /// When the main server first said that chunks are not stored.
    pub doubted: Option<Instant>,
    pub commits: u32,
    /// How often it was found changed and looked at again.
    pub looks: u32,
}

impl FileState {
    /// Looks at a local file.
    pub fn of_path(path: PathBuf, to: RemotePath, chunk_bytes: usize) -> Result<Self, ClientError> {
        let io = |source| ClientError::Io { doing: "read", path: path.clone(), source };
        let facts = std::fs::metadata(&path).map_err(io)?;
        if facts.is_dir() {
            return Err(ClientError::Unsuitable("it is a directory"));
        }
        if !facts.is_file() {
            return Err(ClientError::Unsuitable("it is neither a file nor a directory"));
        }
        let executable = facts.permissions().mode() & 0o100 != 0;
        let stamp = Stamp::of(&facts);
        let mut state = FileState::new(to, chunk_bytes);
        (state.path, state.stamp, state.executable) = (Some(path), Some(stamp), executable);
        state.size = stamp.size;
        let count = stamp.size.div_ceil(chunk_bytes as u64);
        state.chunks = vec![None; usize::try_from(count).unwrap_or(usize::MAX)];
        state.left = state.chunks.len();
        Ok(state)
    }

    /// A file in memory.
    pub fn of_bytes(bytes: Vec<u8>, to: RemotePath, chunk_bytes: usize) -> Self {
        let mut state = FileState::new(to, chunk_bytes);
        state.size = bytes.len() as u64;
        state.chunks = vec![None; bytes.len().div_ceil(chunk_bytes)];
        state.left = state.chunks.len();
        state.bytes = Some(Arc::new(bytes));
        state
    }

    /// A file that is known as it comes.
    pub fn new(to: RemotePath, chunk_bytes: usize) -> FileState {
        FileState {
            to,
            path: None,
            bytes: None,
            stamp: None,
            executable: false,
            handle: None,
            chunks: Vec::new(),
            chunk_bytes,
            size: 0,
            left: 0,
            is_read: false,
            sent_bytes: 0,
            doubted: None,
            commits: 0,
            looks: 0,
        }
    }

    /// What it is called where it comes from.
    pub fn from(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("-"))
    }

    /// True when it fits into one chunk.
    pub fn is_small(&self) -> bool {
        !self.is_stream() && self.chunks.len() <= 1
    }

    /// True when its size is not known before its end.
    pub fn is_stream(&self) -> bool {
        self.path.is_none() && self.bytes.is_none()
    }

    /// Where chunk number `index` is read from, the first time; `None` for a stream.
    pub fn input(&self, index: usize) -> Option<Input> {
        let offset = index as u64 * self.chunk_bytes as u64;
        if let Some(bytes) = &self.bytes {
            return Some(Input::Held(bytes.clone(), offset));
        }
        let path = self.path.clone()?;
        match &self.handle {
            Some(handle) => Some(Input::Part(handle.clone(), path, offset)),
            None => Some(Input::Whole(path, self.stamp?)),
        }
    }

    /// Bytes of chunk number `index`.
    pub fn length_of(&self, index: usize) -> usize {
        let before = index as u64 * self.chunk_bytes as u64;
        usize::try_from((self.size - before).min(self.chunk_bytes as u64))
            .expect("at most the bytes of a chunk")
    }

    /// Opens a large file for its parts to be read.
    pub fn open(&mut self) -> Result<(), ClientError> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let file = File::open(&path);
        self.handle = Some(Arc::new(file.map_err(|source| ClientError::Io {
            doing: "read",
            path,
            source,
        })?));
        self.check()
    }

    /// Fails if the open file is not what it was when it was looked at first.
    pub fn check(&self) -> Result<(), ClientError> {
        let Some((handle, path)) = self.handle.as_ref().zip(self.path.clone()) else {
            return Ok(());
        };
        let facts =
            handle.metadata().map_err(|source| ClientError::Io { doing: "read", path, source })?;
        if Some(Stamp::of(&facts)) == self.stamp { Ok(()) } else { Err(ClientError::Changed) }
    }

    /// True when nothing is left but to commit it.
    pub fn is_ready(&self) -> bool {
        self.is_read && self.left == 0
    }

    fn mtime_ms(&self) -> i64 {
        match self.stamp {
            Some(stamp) => stamp.mtime_ms(),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
        }
    }

    /// The entry for a `commit`, and what must be staged before it.
    pub fn to_commit(&self, options: &PutOptions) -> (CommitFile, Vec<Stage>) {
        let names =
            || self.chunks.iter().map(|id| id.expect("every chunk of a read file is named"));
        let mut file = CommitFile {
            path: self.to.to_string(),
            chunks: None,
            upload: None,
            parts: None,
            copies: options.copies,
            mtime_ms: self.mtime_ms(),
            executable: self.executable,
            if_version: options.if_version,
            parents: options.parents,
        };
        if self.chunks.len() <= MAX_PART_CHUNKS {
            file.chunks = Some(names().collect());
            return (file, Vec::new());
        }
        let upload = RequestId::random();
        let names: Vec<ChunkId> = names().collect();
        let stages: Vec<Stage> = (0..)
            .zip(names.chunks(MAX_PART_CHUNKS))
            .map(|(part, ids)| Stage { upload, part, chunks: ids.to_vec().into() })
            .collect();
        file.upload = Some(upload);
        file.parts = u32::try_from(stages.len()).ok();
        (file, stages)
    }
}
