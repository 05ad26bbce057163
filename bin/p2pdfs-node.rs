//! A storage node of p2pdfs.

fn main() -> std::process::ExitCode {
    p2pdfs::cli::storage_node::main()
}
