//! `admin adopt`: a person's word that something may go on.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, print_json};
use crate::wire::to_main::Adopted;

/// Let something go on that was stopped for safety
///
/// `p2pdfs admin status` says what waits, and why. Look into that first: what is deleted by these words
/// is gone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs admin adopt nodes        after the main server was restored from a backup
  p2pdfs admin adopt silence      after a whole site with a third of the nodes has burnt down")]
pub struct AdoptArgs {
    what: What,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The nodes may delete by this main server's word, though it is not the one they knew
    Nodes,
    /// The main server's clock is right, though the catalog or the nodes say otherwise
    Clock,
    /// Deletes that nobody's removal explains may be carried out
    Deletes,
    /// So many nodes are really gone: what they held may be copied anew
    Silence,
}

/// The command.
pub fn adopt(context: &Context, args: &AdoptArgs) -> Result<Exit, Failure> {
    let (what, then) = match args.what {
        What::Nodes => (Adopted::Nodes, "the nodes follow this main server, also with deletes"),
        What::Clock => (Adopted::Clock, "the main server's clock is taken for right"),
        What::Deletes => (Adopted::Deletes, "the deletes that were held go on"),
        What::Silence => {
            (Adopted::Silence, "the silent nodes are taken for dead, and repair goes on")
        }
    };
    context.client.adopt(what).map_err(|error| failure("cannot adopt it", &error))?;
    if context.common.json {
        #[derive(Serialize)]
        struct Document {
            adopted: What,
        }
        print_json(&Document { adopted: args.what })?;
    } else if !context.common.quiet {
        eprintln!("{then}");
    }
    Ok(Exit::Done)
}
