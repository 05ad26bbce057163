//! `admin invite`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, print, print_json, utc};
use crate::cli::span;
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
    #[arg(long, default_value = "24h", value_parser = span::parse)]
    valid: Duration,
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
