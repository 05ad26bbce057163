//! `get` and `cat`: files out of the store.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{RemoteArg, remote};
use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, failure, print_json, shown};
use crate::cli::progress::{FileLine, Progress, Totals};
use crate::cli::size::ByteSize;
use crate::client::{ClientError, Download, Observer, Report, make_local_directory};
use crate::ids::Version;
use crate::remote_path::RemotePath;

/// Fetch files
///
/// DEST is the name that the file gets, or a directory to put it into. Each file is written beside
/// its name and takes it when it is whole; its time and its executable bit come along.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs get /notes.txt .
  p2pdfs get -r /photos ~/from-the-store
  p2pdfs get /shop.sql - | psql shop")]
pub struct GetArgs {
    /// Files in the store
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<String>,
    /// Where they go; `-` is stdout
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    /// Fetch directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
}

/// Write files to stdout, one after the other
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs cat /notes.txt
  p2pdfs cat /disk.img --offset 512 --length 64 | xxd")]
pub struct CatArgs {
    /// Files in the store
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// The version to read, as `stat` shows it, instead of the current one
    #[arg(long, value_name = "VERSION")]
    version: Option<u64>,
    /// The first byte wanted
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// How many bytes are wanted, instead of all from there on
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
}

#[derive(Serialize)]
struct Document {
    files: Vec<FileLine>,
    totals: FetchedTotals,
}

#[derive(Serialize)]
struct FetchedTotals {
    files: u64,
    bytes: u64,
    failed: u64,
}

/// The command `cat`.
pub fn cat(context: &Context, args: &CatArgs) -> Result<Exit, Failure> {
    let end = args.length.map_or(u64::MAX, |length| args.offset.saturating_add(length));
    let progress = Progress::new("read", true, false);
    let mut out = io::stdout().lock();
    for text in &args.paths {
        let path = remote(text)?;
        let (version, range) = (args.version.map(Version), args.offset..end);
        let read = context.client.read(&path, version, range, &mut out, &progress);
        read.map_err(|error| failure(&format!("cannot read {}", shown(text)), &error))?;
    }
    out.flush().map_err(|error| crate::cli::output::not_printed(&error))?;
    Ok(Exit::Done)
}

/// The command `get`.
pub fn get(context: &Context, args: GetArgs) -> Result<Exit, Failure> {
    if args.dest.as_os_str() == "-" {
        let (paths, version) = (args.sources, None);
        return cat(context, &CatArgs { paths, version, offset: 0, length: None });
    }
    let progress = Progress::new("fetch", context.common.quiet, context.common.json);
    let downloads = plan(context, &args, &progress)?;
    let (devices, files): (Vec<_>, Vec<_>) =
        downloads.into_iter().partition(|download| is_device(&download.to));
    let result = context.client.get(files, &progress);
    let streamed = result.and_then(|()| {
        devices.iter().try_for_each(|download| to_device(context, download, &progress))
    });
    let (totals, files, exit) = progress.finish();
    if let Err(error) = streamed {
        let what = format!("cannot fetch {}", shown(args.sources.join(", ")));
        return Err(failure(&what, &error));
    }
    if context.common.json {
        let Totals { files: count, bytes, failed, .. } = totals;
        let totals = FetchedTotals { files: count, bytes, failed };
        print_json(&Document { files, totals })?;
    } else if !context.common.quiet && (totals.files > 0 || totals.failed == 0) {
        let (count, bytes) = (counted(totals.files, "file"), ByteSize(totals.bytes));
        let failed = match totals.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        eprintln!("fetched {count}, {bytes}{failed}");
    }
    Ok(exit)
}

/// True for what is written to as it stands, such as /dev/null, and must never be replaced.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|facts| !facts.is_file() && !facts.is_dir())
}

fn to_device(
    context: &Context,
    download: &Download,
    progress: &Progress,
) -> Result<(), ClientError> {
    let path = download.to.clone();
    let opened = OpenOptions::new().write(true).open(&path);
    let mut device = opened.map_err(|source| ClientError::Io { doing: "open", path, source })?;
    let read =
        context.client.read(&download.from, download.version, 0..u64::MAX, &mut device, progress);
    let report = match read {
        Ok(file) => Report::Fetched(file),
        Err(ClientError::Cancelled) => return Err(ClientError::Cancelled),
        Err(error) => Report::Failed(error),
    };
    progress.file(OsStr::new(download.from.as_str()), download.to.as_os_str(), report);
    Ok(())
}

/// Says what goes where, and makes the directories.
fn plan(context: &Context, args: &GetArgs, progress: &Progress) -> Result<Vec<Download>, Failure> {
    let ends_in_slash = args.dest.as_os_str().as_encoded_bytes().ends_with(b"/");
    let into = args.dest.is_dir();
    if !into && (args.sources.len() > 1 || (ends_in_slash && !args.recursive)) {
        let text = format!("cannot fetch into {}: it is no directory", shown(&args.dest));
        return Err(Failure::new(Exit::Usage, text)
            .hint(format!("make the directory first: mkdir {}", shown(&args.dest))));
    }
    let mut downloads = Vec::new();
    for text in &args.sources {
        let source = RemoteArg::parse(text)?.path;
        let to = match source.name().filter(|_| into) {
            Some(name) => args.dest.join(name),
            None => args.dest.clone(),
        };
        if let Err(error) = plan_one(context, args, &source, &to, progress, &mut downloads) {
            match error {
                ClientError::NoMainServer { .. }
                | ClientError::NotAMainServer { .. }
                | ClientError::Cancelled => {
                    return Err(failure(&format!("cannot fetch {}", shown(text)), &error));
                }
                error => {
                    let report = Report::Failed(error);
                    progress.file(OsStr::new(source.as_str()), to.as_os_str(), report);
                }
            }
        }
    }
    Ok(downloads)
}

fn plan_one(
    context: &Context,
    args: &GetArgs,
    source: &RemotePath,
    to: &Path,
    progress: &Progress,
    downloads: &mut Vec<Download>,
) -> Result<(), ClientError> {
    let entry = context.client.stat(source)?;
    match entry.file {
        Some(facts) => {
            progress.expect(1, facts.size);
            let version = Some(facts.version);
            downloads.push(Download { from: source.clone(), version, to: to.to_path_buf() });
            Ok(())
        }
        None if !args.recursive => {
            Err(ClientError::Unsuitable("it is a directory (add -r to fetch all that is in it)"))
        }
        None => plan_tree(context, source, to, progress, downloads),
    }
}

fn plan_tree(
    context: &Context,
    source: &RemotePath,
    to: &Path,
    progress: &Progress,
    downloads: &mut Vec<Download>,
) -> Result<(), ClientError> {
    // The target itself may be a symbolic link to a directory: that is what its user named.
    if !to.is_dir() {
        make_local_directory(to)?;
    }
    let mut closed: Vec<RemotePath> = Vec::new();
    for entry in context.client.walk(source)? {
        // Nothing is written below a directory that could not be made.
        if closed.iter().any(|closed| entry.path.is_within(closed)) {
            continue;
        }
        let local = entry.below(source, to);
        match entry.file {
            Some(facts) => {
                progress.expect(1, facts.size);
                let version = Some(facts.version);
                downloads.push(Download { from: entry.path, version, to: local });
            }
            None => {
                if let Err(error) = make_local_directory(&local) {
                    let from = OsStr::new(entry.path.as_str());
                    progress.file(from, local.as_os_str(), Report::Failed(error));
                    closed.push(entry.path.clone());
                }
            }
        }
    }
    Ok(())
}
