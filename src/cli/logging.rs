//! Log lines on stderr.

use clap::Args;
use log::LevelFilter;

/// How much a server logs. `RUST_LOG`, where it is set, says it in more detail.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Verbosity {
    /// Log a line for each request; twice, each message too
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Log only what went wrong
    #[arg(short, long)]
    pub quiet: bool,
}

impl Verbosity {
    /// The level for these flags, where `normal` is the one without any.
    pub fn level(self, normal: LevelFilter) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::Warn,
            (false, 0) => normal,
            (false, 1) => LevelFilter::Debug,
            (false, _) => LevelFilter::Trace,
        }
    }
}

/// Starts logging to stderr at `level`, unless `RUST_LOG` says otherwise. Call it once.
pub fn start(level: LevelFilter) {
    env_logger::Builder::new().filter_level(level).parse_default_env().format_target(false).init();
}
