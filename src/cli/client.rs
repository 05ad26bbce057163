//! `p2pdfs`: the client's command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use crossbeam_channel::bounded;

use super::commands::{admin, copies, get, list, names, nodes, put, removed, verify};
use super::exit::{Exit, Failure};
use super::{allocator, bench, client_config, demo, logging, output, signals, up};
use crate::client::{Cancel, Client, Patience};
use crate::ids::Address;

/// Files over the disks of many machines: stores them, lists them, brings them back.
#[derive(Debug, Parser)]
#[command(name = "p2pdfs", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  p2pdfs demo                            see it all work, in a temporary directory
  p2pdfs up --detach                     start a cluster of your own on this machine
  p2pdfs put notes.txt /                 store a file
  p2pdfs put -r photos /photos           store a tree
  p2pdfs ls -l /                         list what is there
  p2pdfs get /notes.txt copy.txt         fetch a file
  tar c src | p2pdfs put - /src.tar      store what another program writes
  p2pdfs cat /src.tar | tar t            and read it again
  p2pdfs verify /                        read every copy of everything
  p2pdfs admin status                    see how the cluster is
  p2pdfs bench --local                   measure how fast it is on this machine

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 unavailable now (try again),
5 damaged data, 6 not allowed, 130 interrupted.";

/// Where help lists the options of all commands.
const GLOBAL: &str = "Options of all commands";

/// Options of all commands.
#[derive(Debug, Args)]
pub struct Common {
    /// Settings to use instead of the user's own (~/.config/p2pdfs/client.toml)
    #[arg(long, global = true, help_heading = GLOBAL, env = "P2PDFS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the main server is, as HOST:PORT
    #[arg(long, global = true, help_heading = GLOBAL, env = "P2PDFS_MAIN", value_name = "ADDRESS")]
    pub main: Option<Address>,
    /// A file that holds the key of this machine's account, as 64 hexadecimal digits
    #[arg(long, global = true, help_heading = GLOBAL, env = "P2PDFS_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print one JSON document on stdout, for programs
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// No progress and no notes: only errors on stderr
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// Seconds to go on trying while the main server or nodes do not answer
    /// [default: 2 before the first answer, 60 after it]
    #[arg(long, global = true, help_heading = GLOBAL, env = "P2PDFS_PATIENCE", value_name = "SECONDS")]
    pub patience: Option<u64>,
    /// Allow unencrypted connections to other machines: anyone in between can read and change them
    #[arg(long, global = true, help_heading = GLOBAL, env = "P2PDFS_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
}

impl Common {
    /// The patience that the flag asks for.
    pub fn given_patience(&self) -> Option<Patience> {
        let span = Duration::from_secs(self.patience?);
        Some(Patience { first: span, established: span })
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Put(put::PutArgs),
    Get(get::GetArgs),
    Cat(get::CatArgs),
    Ls(list::LsArgs),
    Stat(list::StatArgs),
    Mkdir(names::MkdirArgs),
    Mv(names::MvArgs),
    Rm(names::RmArgs),
    Removed(removed::RemovedArgs),
    Undelete(removed::UndeleteArgs),
    Copies(copies::CopiesArgs),
    Verify(verify::VerifyArgs),
    /// Show the state of the cluster and its nodes
    Nodes,
    /// What only an administrator may do: the cluster's state, and decisions about it
    #[command(subcommand)]
    Admin(admin::AdminCommand),
    Up(up::UpArgs),
    Down(up::DownArgs),
    Bench(bench::BenchArgs),
    /// See it work: a cluster of four processes, a file stored, a node killed, the file read back
    ///
    /// All of it happens in a temporary directory that is removed at the end.
    Demo,
    /// Print a script that completes commands in your shell
    #[command(after_help = "Example:\n  p2pdfs completions bash > ~/.bash_completion.d/p2pdfs")]
    Completions {
        shell: clap_complete::Shell,
    },
}

/// What a command works with.
pub struct Context {
    pub common: Common,
    /// Copies that the settings ask for.
    pub copies: Option<u8>,
    pub client: Client,
}

/// The program.
pub fn main() -> ExitCode {
    allocator::return_large_buffers();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and may be cut off by a pager; what clap cannot say is not said.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let level = if cli.common.quiet { log::LevelFilter::Error } else { log::LevelFilter::Warn };
    logging::start(level);
    let is_json = cli.common.json;
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) if failure.message.is_empty() => failure.exit.into(),
        Err(failure) => {
            if is_json {
                print_failure(&failure);
            }
            failure.report("p2pdfs")
        }
    }
}

/// The document of a command that failed as a whole.
fn print_failure(failure: &Failure) {
    #[derive(serde::Serialize)]
    struct Document<'a> {
        error: &'a str,
        exit_code: u8,
        details: &'a [String],
        hint: Option<&'a str>,
    }
    let document = Document {
        error: &failure.message,
        exit_code: failure.exit as u8,
        details: &failure.details,
        hint: failure.hint.as_deref(),
    };
    // Without anybody reading stdout there is still stderr.
    let _ = output::print_json(&document);
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let common = cli.common;
    match cli.command {
        Command::Up(args) => return up::up(&common, &args),
        Command::Down(args) => return up::down(&common, &args),
        Command::Demo => return demo::demo(&common),
        Command::Bench(args) => return bench::bench(&common, &args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "p2pdfs", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            return Ok(Exit::Done);
        }
        _ => {}
    }
    let context = context(common)?;
    match cli.command {
        Command::Put(args) => put::put(&context, args),
        Command::Get(args) => get::get(&context, args),
        Command::Cat(args) => get::cat(&context, &args),
        Command::Ls(args) => list::ls(&context, &args),
        Command::Stat(args) => list::stat(&context, &args),
        Command::Mkdir(args) => names::mkdir(&context, &args),
        Command::Mv(args) => names::mv(&context, &args),
        Command::Rm(args) => names::rm(&context, &args),
        Command::Removed(args) => removed::removed(&context, &args),
        Command::Undelete(args) => removed::undelete(&context, &args),
        Command::Copies(args) => copies::copies(&context, &args),
        Command::Verify(args) => verify::verify(&context, &args),
        Command::Nodes => nodes::nodes(&context),
        Command::Admin(command) => admin::admin(&context, &command),
        Command::Up(_)
        | Command::Down(_)
        | Command::Demo
        | Command::Bench(_)
        | Command::Completions { .. } => Ok(Exit::Done),
    }
}

fn context(common: Common) -> Result<Context, Failure> {
    let config = client_config::load(&common)?;
    let mut settings = config.settings;
    if let Some(patience) = common.given_patience() {
        settings.patience = patience;
    }
    let client = Client::new(settings);
    end_at_signal(client.cancel_handle())?;
    Ok(Context { common, copies: config.copies, client })
}

/// At SIGINT or SIGTERM operations end, and remove what they leave half-done; a command that is not
/// over soon after is ended.
fn end_at_signal(cancel: Cancel) -> Result<(), Failure> {
    let failed =
        |error: &std::io::Error| Failure::because(Exit::Failed, "cannot listen for signals", error);
    let requests = signals::stop_requests().map_err(|error| failed(&error))?;
    let waiter = std::thread::Builder::new().name("interrupt".to_string()).spawn(move || {
        if requests.recv().is_ok() {
            cancel.cancel();
            let (_keep, never) = bounded::<()>(0);
            let _ = never.recv_timeout(Duration::from_secs(2));
            std::process::exit(Exit::Interrupted as i32);
        }
    });
    waiter.map(drop).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
