//! The copies that files shall have, and files that were removed.

use super::{Client, ClientError};
use crate::ids::{RequestId, Version};
use crate::remote_path::RemotePath;
use crate::wire::to_main::{
    ListRemoved, ListRemovedReply, SetCopies, SetCopiesReply, Undelete, UndeleteReply,
};

impl Client {
    /// Changes how many copies the chunks of a file, or of all files below a directory, shall have.
    /// One page, over some of the files: go on with `next` as `after` while there is one. The copies
    /// themselves are made, or removed, by the cluster afterwards.
    pub fn set_copies(
        &self,
        path: &RemotePath,
        copies: u8,
        after: Option<u64>,
    ) -> Result<SetCopiesReply, ClientError> {
        let (request_id, path) = (RequestId::random(), path.to_string());
        self.0.call(&SetCopies { request_id, path, copies, after })
    }

    /// One page of the removed files below `path` that can be brought back, the newest first: those
    /// after the version `after`.
    pub fn removed(
        &self,
        path: &RemotePath,
        after: Option<Version>,
    ) -> Result<ListRemovedReply, ClientError> {
        self.0.call(&ListRemoved { path: path.to_string(), after })
    }

    /// Brings a removed file back to its name: this version of it, or the one removed last. Returns
    /// the version that is current now.
    pub fn undelete(
        &self,
        path: &RemotePath,
        version: Option<Version>,
    ) -> Result<Version, ClientError> {
        let (request_id, path) = (RequestId::random(), path.to_string());
        let UndeleteReply { version } = self.0.call(&Undelete { request_id, path, version })?;
        Ok(version)
    }
}
