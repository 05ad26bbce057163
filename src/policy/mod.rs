//! What the system decides, as pure functions: plain values in, verdicts out. `simulation` drives
//! them together, with thousands of nodes.
pub mod brakes;
pub mod company;
pub mod inventory;
pub mod liveness;
pub mod mass_silence;
pub mod pace;
pub mod placement;
pub mod queue;
pub mod rebalance;
pub mod recovery;
pub mod repair;
#[cfg(test)]
mod simulation;
