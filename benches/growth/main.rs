//! What becomes of a cluster that has grown: makes one of millions of files and chunks, through the
//! program's own operations, and measures starts, rates, memory and the passes over all chunks on it.
//!
//! ```text
//! cargo bench --bench growth -- fill /tmp/grown                        # 2 million files, 10 million chunks
//! cargo bench --bench growth -- rates /tmp/grown                       # beside an empty catalog
//! cargo bench --bench growth -- passes /tmp/grown
//! cargo bench --bench growth -- starts /tmp/grown --times 5
//! ```
//!
//! With `fill --stores` the nodes are real, and hold what the books say.

mod cluster;
mod fill;
mod passes;
mod plan;
mod process;
mod rates;
mod starts;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::plan::Plan;

/// Whatever goes wrong ends the program, with its cause.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, Parser)]
#[command(name = "growth")]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a cluster in a directory, and fill it through the catalog's own operations
    Fill(fill::FillArgs),
    /// Measure the catalog's operations on a filled cluster and on an empty one, in turn
    Rates(rates::RatesArgs),
    /// Measure what looks at all chunks: survey, collection, inventory, the journal's snapshot
    Passes { dir: PathBuf },
    /// Measure the starts of the main server and the nodes, and their memory
    Starts(starts::StartsArgs),
}

fn main() -> Outcome<()> {
    match Flags::parse().command {
        // `cargo bench` without a word runs every benchmark: this one waits to be told what to do.
        None => println!("growth: nothing to do; see `cargo bench --bench growth -- --help`"),
        Some(Command::Fill(args)) => fill::fill(&args)?,
        Some(Command::Rates(args)) => rates::rates(&args)?,
        Some(Command::Passes { dir }) => passes::passes(&dir)?,
        Some(Command::Starts(args)) => starts::starts(&args)?,
    }
    Ok(())
}

/// Where things stand in the directory of a cluster.
pub struct Place(pub PathBuf);

impl Place {
    /// The directory of the main server.
    pub fn main(&self) -> PathBuf {
        self.0.join("main")
    }

    /// The directory of a node, numbered from 1; there is none where only the books were made.
    pub fn node(&self, number: u32) -> PathBuf {
        self.0.join(format!("node-{number}"))
    }

    /// How many nodes have directories.
    pub fn stores(&self) -> u32 {
        (1..).take_while(|number| self.node(*number).exists()).count() as u32
    }

    /// What was filled in.
    pub fn plan(&self) -> Outcome<Plan> {
        Ok(serde_json::from_slice(&std::fs::read(self.0.join("plan.json"))?)?)
    }

    /// Remembers what is filled in.
    pub fn write_plan(&self, plan: &Plan) -> Outcome<()> {
        Ok(std::fs::write(self.0.join("plan.json"), serde_json::to_vec(plan)?)?)
    }
}
