//! Starts of the real programs on a cluster that has grown, and what they take while nothing happens.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::process::{Running, Usage};
use crate::{Outcome, Place, cluster};

#[derive(Debug, Args)]
pub struct StartsArgs {
    /// A cluster that `fill` has made
    dir: PathBuf,
    #[arg(long, default_value_t = 3)]
    times: usize,
    /// How long to watch what the programs take, after the last of their starts
    #[arg(long, default_value_t = 60)]
    watch: u64,
}

/// Starts everything several times, and says how long each took until it was ready.
pub fn starts(args: &StartsArgs) -> Outcome<()> {
    let place = Place(args.dir.clone());
    for time in 1..=args.times {
        let main = cluster::start_main(&place)?;
        println!("main server ready in {:.2?}: {}", main.ready_after, main.usage()?);
        let address = cluster::address_of(&main)?;
        let mut nodes = Vec::new();
        for number in 1..=place.stores() {
            let node = cluster::start_node(&place, number, &["--main", &address])?;
            println!("node {number} ready in {:.2?}: {}", node.ready_after, node.usage()?);
            nodes.push(node);
        }
        if time == args.times {
            watch(&main, &nodes, Duration::from_secs(args.watch))?;
        }
        for node in nodes {
            node.stop()?;
        }
        let usage = main.usage()?;
        println!("main server stopped in {:.2?}: {usage}", main.stop()?);
    }
    Ok(())
}

/// Says every few seconds what each program has taken since the look before.
fn watch(main: &Running, nodes: &[Running], span: Duration) -> Outcome<()> {
    let begun = Instant::now();
    let (_never, pause) = crossbeam_channel::bounded::<()>(0);
    let look = || -> Outcome<Vec<Usage>> {
        std::iter::once(main).chain(nodes).map(Running::usage).collect()
    };
    let mut before = look()?;
    while begun.elapsed() < span {
        // Nobody ever sends.
        let _ = pause.recv_timeout(Duration::from_secs(5));
        let now = look()?;
        for (n, (usage, before)) in now.iter().zip(&before).enumerate() {
            let name = if n == 0 { "main server".to_string() } else { format!("node {n}") };
            let cpu = (usage.cpu - before.cpu).as_secs_f64();
            println!("{:4} s  {name:12} +{cpu:.2} s; {usage}", begun.elapsed().as_secs());
        }
        before = now;
    }
    Ok(())
}
