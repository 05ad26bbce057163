//! The programs of a cluster, started on its directories.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use p2pdfs::catalog::Catalog;
use p2pdfs::clock::Clock;
use p2pdfs::ids::Secret;
use p2pdfs::main_server::Directory;

use crate::process::Running;
use crate::{Outcome, Place};

const MAIN: &str = env!("CARGO_BIN_EXE_p2pdfs-main");
const NODE: &str = env!("CARGO_BIN_EXE_p2pdfs-node");

/// Makes the directory of a main server. Returns an invite for so many nodes.
pub fn make_main(place: &Place, nodes: u32) -> Outcome<Secret> {
    let directory = Directory::open(&place.main(), SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let invite = Secret::random();
    let expires = Clock::system().wall() + Duration::from_secs(3600);
    directory.catalog.create_invite(&invite.fingerprint(), nodes, expires)?;
    Ok(invite)
}

/// Has real nodes join.
pub fn make_nodes(place: &Place, nodes: u32, invite: Secret) -> Outcome<()> {
    let file = place.0.join("invite");
    std::fs::write(&file, String::from(invite))?;
    let main = start_main(place)?;
    let address = address_of(&main)?;
    let invite = file.to_str().ok_or("the directory is to have a plain name")?;
    for number in 1..=nodes {
        let args = ["--main", &address, "--space", "100G", "--invite-file", invite];
        start_node(place, number, &args)?.stop()?;
    }
    main.stop()?;
    Ok(())
}

/// Starts the main server.
pub fn start_main(place: &Place) -> Outcome<Running> {
    let dir = place.main();
    Running::start(
        MAIN,
        &["--dir", text(&dir)?, "--listen", "127.0.0.1:0"],
        &place.0.join("main.log"),
    )
}

/// Starts a node, with these flags beside its directory.
pub fn start_node(place: &Place, number: u32, args: &[&str]) -> Outcome<Running> {
    let dir = place.node(number);
    let mut all = vec!["--dir", text(&dir)?];
    all.extend(args);
    Running::start(NODE, &all, &place.0.join(format!("node-{number}.log")))
}

/// Where a main server says that it listens.
pub fn address_of(main: &Running) -> Outcome<String> {
    Ok(main.line.rsplit(' ').next().ok_or("it says no address")?.to_string())
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| "the directory is to have a plain name".into())
}
