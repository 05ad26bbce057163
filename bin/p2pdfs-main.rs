//! The main server of p2pdfs.

fn main() -> std::process::ExitCode {
    p2pdfs::cli::main_server::main()
}
