//! `put`: files into the store.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::RemoteArg;
use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, failure, print_json, shown};
use crate::cli::progress::{FileLine, Progress, Totals};
use crate::cli::size::ByteSize;
use crate::client::{
    ClientError, LocalKind, Observer, PutOptions, Report, Source, Upload, stored_name, walk_local,
};
use crate::ids::{DEFAULT_COPIES, HashAlgorithm, MAX_COPIES, Version};
use crate::remote_path::RemotePath;

/// Store files
///
/// DEST is the name that SRC gets, or a directory to put it into: one that exists, or any name that
/// ends in a slash. Directories above it are made. A put that was cut off and is run again sends only what is missing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs put notes.txt /
  p2pdfs put notes.txt /docs/today.txt --copies 2
  p2pdfs put -r photos /
  pg_dump shop | p2pdfs put - /shop.sql")]
pub struct PutArgs {
    /// Local files; `-` is stdin
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<PathBuf>,
    /// Where they go
    #[arg(value_name = "DEST")]
    dest: String,
    /// Store directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Copies to make of each chunk, on as many nodes
    #[arg(long, env = "P2PDFS_COPIES", value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_COPIES)))]
    copies: Option<u8>,
    /// The hash that names the chunks: blake3 or sha1
    #[arg(long, env = "P2PDFS_HASH", default_value = "blake3")]
    hash: HashAlgorithm,
    /// Only if this is the version that is there now (0: nothing is)
    #[arg(long, value_name = "VERSION", conflicts_with = "no_clobber")]
    if_version: Option<u64>,
    /// Only where nothing is yet
    #[arg(short, long)]
    no_clobber: bool,
}

#[derive(Serialize)]
struct Document {
    files: Vec<FileLine>,
    totals: Totals,
}

/// The command.
pub fn put(context: &Context, args: PutArgs) -> Result<Exit, Failure> {
    let progress = Progress::new("store", context.common.quiet, context.common.json);
    let uploads = plan(context, &args, &progress)?;
    let if_version = if args.no_clobber { Some(0) } else { args.if_version };
    let options = PutOptions {
        copies: args.copies.or(context.copies).unwrap_or(DEFAULT_COPIES),
        hash: args.hash,
        if_version: if_version.map(Version),
        parents: true,
    };
    let what = match args.sources.as_slice() {
        [one] => format!("cannot store {}", shown(one)),
        many => format!("cannot store {}", counted(many.len() as u64, "file")),
    };
    let result = context.client.put(uploads, &options, &progress);
    let (totals, files, exit) = progress.finish();
    if let Err(error) = result {
        return Err(failure(&what, &error));
    }
    if context.common.json {
        print_json(&Document { files, totals })?;
    } else if !context.common.quiet && (totals.files > 0 || totals.failed == 0) {
        summary(&totals, options.copies);
    }
    Ok(exit)
}

fn summary(totals: &Totals, copies: u8) {
    let mut text = format!(
        "stored {}, {} ({} sent), {}",
        counted(totals.files, "file"),
        ByteSize(totals.bytes),
        ByteSize(totals.sent_bytes),
        if copies == 1 { "1 copy".to_string() } else { format!("{copies} copies") },
    );
    if totals.under_copied_chunks > 0 {
        let chunks = counted(totals.under_copied_chunks, "chunk");
        text.push_str(&format!("; {chunks} still wait for more copies"));
    }
    for (count, what) in [(totals.skipped, "skipped"), (totals.failed, "failed")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    eprintln!("{text}");
}

/// Says what goes where. What cannot be stored is told to `progress`.
fn plan(context: &Context, args: &PutArgs, progress: &Progress) -> Result<Vec<Upload>, Failure> {
    let dest = RemoteArg::parse(&args.dest)?;
    let cannot = |error: &ClientError| failure(&format!("cannot store to {}", dest.path), error);
    let standing = match dest.path.is_root() {
        true => None,
        false => context.client.find(&dest.path).map_err(|error| cannot(&error))?,
    };
    let is_directory =
        dest.path.is_root() || standing.as_ref().is_some_and(|entry| entry.file.is_none());
    if args.sources.len() > 1 && !is_directory && !dest.is_directory {
        let text = format!("cannot store several files as {}: it is no directory", dest.path);
        return Err(Failure::new(Exit::Usage, text)
            .hint(format!("make the directory first: p2pdfs mkdir {}", dest.path)));
    }
    let into = is_directory || dest.is_directory;
    let mut uploads = Vec::new();
    for source in &args.sources {
        if source.as_os_str() == "-" {
            if into {
                let text = "what comes from stdin has no name: DEST must be the name of a file";
                return Err(Failure::new(Exit::Usage, text));
            }
            progress.expect(1, 0);
            let from = Source::Stream(Box::new(std::io::stdin()));
            uploads.push(Upload { from, to: dest.path.clone() });
            continue;
        }
        match target_of(source, &dest.path, into) {
            Ok(to) if source.is_dir() && args.recursive => {
                plan_tree(context, source, to, progress, &mut uploads)?;
            }
            Ok(_) if source.is_dir() => {
                let why = "it is a directory (add -r to store all that is in it)";
                tell_failed(progress, source, ClientError::Unsuitable(why));
            }
            Ok(to) => {
                let bytes = std::fs::metadata(source).map_or(0, |facts| facts.len());
                progress.expect(1, bytes);
                uploads.push(Upload { from: Source::Path(source.clone()), to });
            }
            Err(error) => tell_failed(progress, source, error),
        }
    }
    Ok(uploads)
}

/// The name that a source gets.
fn target_of(source: &Path, dest: &RemotePath, into: bool) -> Result<RemotePath, ClientError> {
    // `.` and `..` have no name of their own: what is in them goes into DEST itself.
    if !into || source.file_name().is_none() {
        return Ok(dest.clone());
    }
    Ok(dest.join(&stored_name(source)?)?)
}

fn tell_failed(progress: &Progress, source: &Path, error: ClientError) {
    progress.file(source.as_os_str(), OsStr::new(""), Report::Failed(error));
}

/// Plans a tree: the directory itself is made here, those below it come with their files.
fn plan_tree(
    context: &Context,
    source: &Path,
    to: RemotePath,
    progress: &Progress,
    uploads: &mut Vec<Upload>,
) -> Result<(), Failure> {
    let cannot = |to: &RemotePath, error: &ClientError| {
        failure(&format!("cannot make the directory {}", shown(to.as_str())), error)
    };
    if !to.is_root() {
        let standing = context.client.find(&to).map_err(|error| cannot(&to, &error))?;
        if standing.is_none() {
            context.client.make_directory(&to, false).map_err(|error| cannot(&to, &error))?;
        }
    }
    for entry in walk_local(source, &to) {
        let path = entry.path;
        match entry.kind {
            LocalKind::File { to, bytes } => {
                progress.expect(1, bytes);
                uploads.push(Upload { from: Source::Path(path), to });
            }
            LocalKind::EmptyDirectory { to } => {
                if !to.is_root()
                    && let Err(error) = context.client.make_directory(&to, true)
                {
                    tell_failed(progress, &path, error);
                }
            }
            LocalKind::Skipped(why) => {
                progress.file(path.as_os_str(), OsStr::new(""), Report::Skipped(why));
            }
            LocalKind::Failed(error) => tell_failed(progress, &path, error),
        }
    }
    Ok(())
}
