//! The flags of `p2pdfs-main` that say how long what no file refers to is kept.

use std::time::Duration;

use clap::Args;

use super::span;

/// How long the main server keeps what was removed or never became a file, and how often it looks
/// for what is of no use.
#[derive(Debug, Args)]
pub struct RetentionFlags {
    /// How long files can be brought back after they were replaced or removed, as in 12h or 30d
    #[arg(long, value_name = "TIME", default_value = "30d", env = "P2PDFS_MAIN_KEEP_REMOVED",
          value_parser = span::parse)]
    pub keep_removed: Duration,

    /// How often chunks are collected that nothing refers to, as in 90s or 1h
    #[arg(long, value_name = "TIME", default_value = "1h", env = "P2PDFS_MAIN_COLLECT_EVERY",
          value_parser = span::parse)]
    pub collect_every: Duration,

    /// How long an interrupted upload can go on where it was, and so how long chunks without a file
    /// are kept
    #[arg(long, value_name = "TIME", default_value = "24h", env = "P2PDFS_MAIN_UPLOAD_LEASE",
          value_parser = span::parse)]
    pub upload_lease: Duration,
}
