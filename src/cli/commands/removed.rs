//! `removed` and `undelete`: files that were removed, and their way back.

use clap::Args;
use serde::Serialize;

use super::remote;
use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, print, print_json, shown, table, utc};
use crate::cli::size::ByteSize;
use crate::clock::WallTime;
use crate::ids::Version;
use crate::wire::FaultCode;
use crate::wire::to_main::RemovedFile;

/// List removed files that can still be brought back, the newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs removed
  p2pdfs removed /photos --json")]
pub struct RemovedArgs {
    /// The file, or the directory in which the files were
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
}

/// Bring a removed file back to its name
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs undelete /notes.txt
  p2pdfs undelete /notes.txt --version 228119286906885")]
pub struct UndeleteArgs {
    /// The name that it had
    #[arg(value_name = "PATH")]
    path: String,
    /// The version to bring back, as `removed` shows it [default: the one removed last]
    #[arg(long, value_name = "VERSION")]
    version: Option<u64>,
}

/// The command `removed`.
pub fn removed(context: &Context, args: &RemovedArgs) -> Result<Exit, Failure> {
    let path = remote(&args.path)?;
    let (mut document, mut after) = (Vec::new(), None);
    loop {
        let what = format!("cannot list what was removed below {}", shown(&args.path));
        let page = context.client.removed(&path, after).map_err(|error| failure(&what, &error))?;
        let files = page.files.into_vec();
        after = files.last().map(|file| file.version);
        if context.common.json {
            document.extend(files);
        } else {
            let rows: Vec<Vec<String>> = files.iter().map(row).collect();
            print(&table(&rows))?;
        }
        if !page.more || after.is_none() {
            break;
        }
    }
    if context.common.json {
        #[derive(Serialize)]
        struct Document {
            files: Vec<RemovedFile>,
        }
        print_json(&Document { files: document })?;
    }
    Ok(Exit::Done)
}

fn row(file: &RemovedFile) -> Vec<String> {
    let day = |time: WallTime| utc(i64::try_from(time.0).unwrap_or(i64::MAX / 2));
    vec![
        format!("removed {}", day(file.removed)),
        format!("kept until {}", day(file.expires)),
        format!("{:>10}", ByteSize(file.size)),
        format!("v{}", file.version),
        shown(&file.path),
    ]
}

/// The command `undelete`.
pub fn undelete(context: &Context, args: &UndeleteArgs) -> Result<Exit, Failure> {
    let path = remote(&args.path)?;
    let version = context.client.undelete(&path, args.version.map(Version)).map_err(|error| {
        let mut failure = failure(&format!("cannot bring back {}", shown(&args.path)), &error);
        match error.code() {
            Some(FaultCode::NotFound) => {
                failure.hint = Some("p2pdfs removed shows what can be brought back".to_string());
            }
            Some(FaultCode::Exists) => {
                failure.hint = Some("move what stands there out of the way: p2pdfs mv".to_string());
            }
            _ => {}
        }
        failure
    })?;
    if context.common.json {
        #[derive(Serialize)]
        struct Document {
            path: String,
            version: Version,
        }
        print_json(&Document { path: path.to_string(), version })?;
    } else if !context.common.quiet {
        eprintln!("{} is back, version {version}", shown(path.as_str()));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_file_is_shown_with_the_time_it_is_kept() {
        let file = RemovedFile {
            path: "/a\nb".to_string(),
            version: Version(7),
            size: 2048,
            removed: WallTime(0),
            expires: WallTime(86_400_000),
        };
        let text = table(&[row(&file)]);
        let expected = "removed 1970-01-01 00:00:00  kept until 1970-01-02 00:00:00     2.0 KiB  v7  \
                        /a\\nb\n";
        assert_eq!(text, expected);
    }
}
