//! `admin invite`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, print, print_json, utc};
use crate::clock::WallTime;
use crate::ids::Secret;

/// Make an invite, with which storage nodes can join the cluster
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  p2pdfs admin invite > invite
  p2pdfs-node --dir /srv/p2pdfs --main HOST:7000 --space 100G --invite-file invite")]
pub struct InviteArgs {
    /// How many nodes may join with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it is good, as in 30m, 24h or 7d
    #[arg(long, default_value = "24h", value_parser = span)]
    valid: Duration,
}

/// Reads `90s`, `30m`, `24h`, `7d`.
fn span(text: &str) -> Result<Duration, String> {
    let error = || format!("a time is a number and s, m, h or d, as in 24h, not {text:?}");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(error()),
    };
    let count: u64 = number.parse().map_err(|_| error())?;
    count.checked_mul(scale).filter(|&s| s > 0).map(Duration::from_secs).ok_or_else(error)
}

#[derive(Serialize)]
struct Document {
    invite: Secret,
    uses: u32,
    expires_ms: WallTime,
}

/// The command.
pub fn invite(context: &Context, args: &InviteArgs) -> Result<Exit, Failure> {
    let (invite, expires_ms) = context
        .client
        .invite(args.uses, args.valid)
        .map_err(|error| failure("cannot make an invite", &error))?;
    if context.common.json {
        print_json(&Document { invite, uses: args.uses, expires_ms })?;
        return Ok(Exit::Done);
    }
    if !context.common.quiet {
        let until = utc(i64::try_from(expires_ms.0).unwrap_or(i64::MAX));
        let nodes =
            if args.uses == 1 { "1 node".to_string() } else { format!("{} nodes", args.uses) };
        eprintln!("good for {nodes} until {until} UTC; give it to p2pdfs-node with --invite-file");
    }
    print(&format!("{}\n", String::from(invite)))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(span("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "h", "24", "-1h", "0s", "1w", "1é", "99999999999999999999d"] {
            assert!(span(bad).is_err(), "{bad:?} was taken");
        }
    }
}
