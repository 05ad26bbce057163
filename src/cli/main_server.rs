//! `p2pdfs-main`: flags become the main server's configuration.

use std::process::ExitCode;

/// The program.
pub fn main() -> ExitCode {
    crate::cli::exit::Exit::Usage.into()
}
