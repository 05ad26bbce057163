//! The client of p2pdfs. Called by the name of a server, it is that server: so one program can start
//! a whole cluster.

fn main() -> std::process::ExitCode {
    p2pdfs::cli::main()
}
