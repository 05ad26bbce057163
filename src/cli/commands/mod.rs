//! The client's commands, each a translation of its flags into calls of the client library.

pub mod admin;
pub mod copies;
pub mod get;
pub mod list;
pub mod names;
pub mod nodes;
pub mod put;
pub mod removed;
pub mod verify;

use std::io::{IsTerminal, stderr, stdin};

use super::exit::{Exit, Failure};
use super::output::shown;
use crate::ids::ChunkId;
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

/// Enough of a chunk's id to tell chunks apart; --json has all of it.
pub fn short_id(id: &ChunkId) -> String {
    let text = id.to_string();
    let end = text.len().min(id.algorithm().name().len() + 1 + 12);
    format!("{}..", &text[..end])
}

/// Asks on the terminal whether something that cannot be undone shall be done.
///
/// Where nobody can be asked it is a usage error: the command line must say `--yes`.
pub fn confirm(question: &str) -> Result<bool, Failure> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        let text = format!("nobody can be asked: {question}");
        return Err(Failure::new(Exit::Usage, text).hint("add --yes to have it done unasked"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::because(Exit::Failed, "cannot read the answer", &error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
