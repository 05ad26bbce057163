//! The programs: flags become a configuration, the configuration one call into a role. All that is
//! printed, and every exit code, is decided here and nowhere else in the library.

pub mod allocator;
pub mod bench;
pub mod client;
pub mod client_config;
pub mod cluster;
pub mod commands;
pub mod countdown;
pub mod demo;
pub mod exit;
pub mod leave;
pub mod limits;
pub mod logging;
pub mod main_server;
pub mod metrics_endpoint;
pub mod output;
pub mod process;
pub mod progress;
mod recovery;
mod retention;
pub mod signals;
pub mod span;
pub mod storage_node;
pub mod up;

pub use crate::size;

use std::path::Path;
use std::process::ExitCode;

/// The program that the process was called as.
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(|name| name.to_str()) {
        Some("p2pdfs-main") => main_server::main(),
        Some("p2pdfs-node") => storage_node::main(),
        _ => client::main(),
    }
}
