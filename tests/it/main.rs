//! The integration tests: real processes, real disks, a witness.

mod arrows;
mod basic;
mod damaged;
mod directories;
mod harness;
mod hostile;
mod kill9;
mod local_cluster;
mod mini_client;
mod operators;
mod powercut;
mod promises;
mod recover;
mod resume;
mod tokens;
mod under_copied;
mod wrong_use;
