//! `copies`: how many copies files shall have.

use clap::Args;
use serde::Serialize;

use super::remote;
use crate::cli::client::Context;
use crate::cli::countdown::{Countdown, EVERY};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{copies as copies_of, counted, failure, print_json, shown};
use crate::client::ClientError;
use crate::ids::MAX_COPIES;
use crate::wire::to_main::SetCopiesReply;

/// Change how many copies files have
///
/// The cluster then makes what is missing, and removes what is too many once the others are verified; what
/// is stored stays readable meanwhile. A chunk that other files or older versions share keeps as many
/// copies as the most that any of them wants.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs copies 3 /photos
  p2pdfs copies 2 /films /music --wait")]
pub struct CopiesArgs {
    /// Copies to have of each chunk, on as many nodes
    #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_COPIES)))]
    copies: u8,
    /// Files, or directories with all that is in them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// End only when no file of the cluster lacks a copy (for administrators)
    #[arg(long)]
    wait: bool,
}

#[derive(Default, Serialize)]
struct Document {
    copies: u8,
    files: u64,
    chunks: u64,
    kept_chunks: u64,
}

/// The command.
pub fn copies(context: &Context, args: &CopiesArgs) -> Result<Exit, Failure> {
    let mut document = Document { copies: args.copies, ..Document::default() };
    let progress = Countdown::spinner(&context.common);
    for text in &args.paths {
        let path = remote(text)?;
        let mut after = None;
        loop {
            let page = context.client.set_copies(&path, args.copies, after);
            let what = format!("cannot change the copies of {}", shown(text));
            let SetCopiesReply { files, chunks, kept, next } =
                page.map_err(|error| failure(&what, &error))?;
            document.files += files;
            document.chunks += chunks;
            document.kept_chunks += kept;
            progress.say(&counted(document.files, "file"));
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    drop(progress);
    if !context.common.json && !context.common.quiet {
        eprintln!("{}", summary(&document));
    }
    if args.wait {
        wait_for_copies(context)?;
    }
    if context.common.json {
        print_json(&document)?;
    }
    Ok(Exit::Done)
}

fn summary(document: &Document) -> String {
    let Document { copies, files, chunks, kept_chunks } = *document;
    let (files, chunks) = (counted(files, "file"), counted(chunks, "chunk"));
    let mut text = format!("{} wanted of {files} in {chunks}", copies_of(copies.into()));
    if kept_chunks > 0 {
        let kept = counted(kept_chunks, "chunk");
        text.push_str(&format!(
            "; {kept} keep more, for other files or older versions that share them"
        ));
    }
    text
}

fn wait_for_copies(context: &Context) -> Result<(), Failure> {
    let what = "cannot wait for the copies";
    let cancel = context.client.cancel_handle();
    let mut countdown = Countdown::new(&context.common, "chunks");
    loop {
        let (status, _) = context.client.status().map_err(|error| failure(what, &error))?;
        if status.under_copied_chunks == 0 && status.is_surveyed {
            return Ok(());
        }
        let waits_for = match (status.is_surveyed, status.repair.left_s) {
            (false, _) => Some("not all chunks were looked at yet"),
            (true, None) => Some("no copy can be made just now: p2pdfs admin status"),
            (true, Some(_)) => None,
        };
        countdown.left(status.under_copied_chunks, waits_for);
        cancel.wait(EVERY).map_err(|error| match error {
            ClientError::Cancelled => {
                failure(what, &error).hint("the copies are made all the same")
            }
            _ => failure(what, &error),
        })?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_that_keep_more_copies_are_said_with_the_reason() {
        let mut document = Document { copies: 2, files: 1, chunks: 30, kept_chunks: 0 };
        assert_eq!(summary(&document), "2 copies wanted of 1 file in 30 chunks");
        document.kept_chunks = 4;
        assert!(summary(&document).contains("; 4 chunks keep more, for other files"));
    }
}
