//! `admin`: what only an administrator may do.

pub mod adopt;
pub mod drain;
pub mod explain;
pub mod health;
pub mod invite;
pub mod status;
pub mod what_if;

use clap::Subcommand;

use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::ids::NodeId;

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    Status(status::StatusArgs),
    Nodes(status::NodesArgs),
    Explain(explain::ExplainArgs),
    WhatIf(what_if::WhatIfArgs),
    Drain(drain::DrainArgs),
    Forget(drain::ForgetArgs),
    Adopt(adopt::AdoptArgs),
    Invite(invite::InviteArgs),
}

/// The commands below `admin`.
pub fn admin(context: &Context, command: &AdminCommand) -> Result<Exit, Failure> {
    match command {
        AdminCommand::Status(args) => status::status(context, args),
        AdminCommand::Nodes(args) => status::nodes(context, args),
        AdminCommand::Explain(args) => explain::explain(context, args),
        AdminCommand::WhatIf(args) => what_if::what_if(context, args),
        AdminCommand::Drain(args) => drain::drain(context, args),
        AdminCommand::Forget(args) => drain::forget(context, args),
        AdminCommand::Adopt(args) => adopt::adopt(context, args),
        AdminCommand::Invite(args) => invite::invite(context, args),
    }
}

/// Reads a node's number.
fn node_number(text: &str) -> Result<NodeId, String> {
    let why =
        |_| format!("a node is given by its number, as `p2pdfs nodes` shows it, not {text:?}");
    text.parse().map(NodeId).map_err(why)
}
