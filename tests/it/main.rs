//! The integration tests: real processes, real disks, a witness.

mod arrows;
mod basic;
mod bench;
mod damaged;
mod directories;
mod failed_sync;
mod full;
mod harness;
mod hostile;
mod isolated;
mod kill9;
mod local_cluster;
mod mains;
mod mini_client;
mod operators;
mod powercut;
mod promises;
mod recover;
mod repair;
mod resume;
mod scrub;
mod tokens;
mod under_copied;
mod what_if;
mod wrong_use;
