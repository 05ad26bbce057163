//! The test cluster: real processes, a client, a witness.

pub mod cli;
pub mod cluster;
pub mod disk;
pub mod fake_node;
pub mod load;
pub mod mixed;
pub mod process;
pub mod random;
pub mod raw;
pub mod tree;
pub mod wait;
pub mod witness;

pub use cli::{Cli, clean_command, run};
pub use cluster::{Setup, TestCluster};
pub use process::Process;
pub use random::{Random, bytes};
pub use wait::until;
pub use witness::is_at_rest;
