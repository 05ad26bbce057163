//! The client's commands, each a translation of its flags into calls of the client library.

pub mod admin;
pub mod get;
pub mod list;
pub mod names;
pub mod nodes;
pub mod put;

use super::exit::{Exit, Failure};
use super::output::shown;
use crate::remote_path::RemotePath;

/// A path in the store as people type it: the slash at its start may be left out, and one at its
/// end says that it is a directory.
pub struct RemoteArg {
    pub path: RemotePath,
    pub is_directory: bool,
}

impl RemoteArg {
    pub fn parse(text: &str) -> Result<RemoteArg, Failure> {
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        let path = format!("/{}", parts.join("/")).parse();
        let path = path.map_err(|error| {
            let what = format!("{:?} is no path in the store", shown(text));
            Failure::because(Exit::Usage, what, &error)
        })?;
        Ok(RemoteArg { path, is_directory: text.is_empty() || text.ends_with('/') })
    }
}

/// A path in the store, whether or not it is said to be a directory.
pub fn remote(text: &str) -> Result<RemotePath, Failure> {
    RemoteArg::parse(text).map(|arg| arg.path)
}
