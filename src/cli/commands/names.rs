//! `mkdir`, `mv` and `rm`: the names in the store.

use clap::Args;
use serde::Serialize;

use super::{RemoteArg, remote};
use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, print_json, shown};
use crate::client::ClientError;
use crate::remote_path::RemotePath;

/// Make directories
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  p2pdfs mkdir -p /backup/2026/november")]
pub struct MkdirArgs {
    /// Directories to make
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// Make missing directories above them, and take one that exists for a success
    #[arg(short, long)]
    parents: bool,
}

/// Rename files and directories, or move them into a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  p2pdfs mv /a.txt /b.txt\n  p2pdfs mv /a /b /archive/")]
pub struct MvArgs {
    /// What to move
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<String>,
    /// The new name, or a directory to move it into
    #[arg(value_name = "DEST")]
    dest: String,
    /// A file that stands at the new name gives way
    #[arg(short, long)]
    force: bool,
}

/// Remove files
///
/// What is removed can be brought back for a while: `p2pdfs removed` lists it, `p2pdfs undelete`
/// brings it back. With --purge it cannot: it is gone for good, and its space is free at once. Nothing
/// is asked before, with or without it, as with rm(1).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs rm /notes.txt
  p2pdfs rm -r /photos
  p2pdfs rm --purge /secret.txt")]
pub struct RmArgs {
    /// Files or empty directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// Remove directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Remove for good: nothing of it can be brought back
    #[arg(long)]
    purge: bool,
}

#[derive(Default, Serialize)]
struct Document {
    done: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files_removed: Option<u64>,
}

impl Document {
    fn show(&self, context: &Context) -> Result<Exit, Failure> {
        if context.common.json {
            print_json(self)?;
        }
        Ok(Exit::Done)
    }
}

/// The command `mkdir`.
pub fn mkdir(context: &Context, args: &MkdirArgs) -> Result<Exit, Failure> {
    let mut document = Document::default();
    for text in &args.paths {
        let path = remote(text)?;
        context.client.make_directory(&path, args.parents).map_err(|error| {
            let mut failure =
                failure(&format!("cannot make the directory {}", shown(text)), &error);
            if error.code() == Some(crate::wire::FaultCode::NotFound) {
                failure.hint = Some("add -p to make the directories above it".to_string());
            }
            failure
        })?;
        document.done.push(path.to_string());
    }
    document.show(context)
}

/// The command `mv`.
pub fn mv(context: &Context, args: &MvArgs) -> Result<Exit, Failure> {
    let dest = RemoteArg::parse(&args.dest)?;
    let cannot = |text: &str, error: &ClientError| {
        let mut failure =
            failure(&format!("cannot move {} to {}", shown(text), shown(&args.dest)), error);
        if error.code() == Some(crate::wire::FaultCode::Exists) {
            failure.hint = Some("add -f to have the file there give way".to_string());
        }
        failure
    };
    let into = dest.path.is_root() || dest.is_directory || {
        let standing = context.client.find(&dest.path).map_err(|e| cannot(&args.sources[0], &e))?;
        standing.is_some_and(|entry| entry.file.is_none())
    };
    if args.sources.len() > 1 && !into {
        let text = format!("cannot move several files to {}: it is no directory", dest.path);
        return Err(Failure::new(Exit::Usage, text)
            .hint(format!("make the directory first: p2pdfs mkdir {}", dest.path)));
    }
    let mut document = Document::default();
    for text in &args.sources {
        let from = remote(text)?;
        let to = new_name(&from, &dest.path, into).map_err(|error| cannot(text, &error))?;
        context.client.rename(&from, &to, args.force).map_err(|error| cannot(text, &error))?;
        document.done.push(to.to_string());
    }
    document.show(context)
}

fn new_name(from: &RemotePath, dest: &RemotePath, into: bool) -> Result<RemotePath, ClientError> {
    match from.name().filter(|_| into) {
        Some(name) => Ok(dest.join(name)?),
        None => Ok(dest.clone()),
    }
}

/// The command `rm`.
pub fn rm(context: &Context, args: &RmArgs) -> Result<Exit, Failure> {
    let mut document = Document { files_removed: Some(0), ..Document::default() };
    for text in &args.paths {
        let path = remote(text)?;
        let removed = context.client.remove(&path, args.recursive, args.purge);
        let count =
            removed.map_err(|error| failure(&format!("cannot remove {}", shown(text)), &error))?;
        document.files_removed = document.files_removed.map(|sum| sum + count);
        document.done.push(path.to_string());
    }
    document.show(context)
}
