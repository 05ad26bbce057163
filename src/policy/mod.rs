//! What the system decides, as pure functions: plain values in, verdicts out.
pub mod brakes;
pub mod inventory;
pub mod liveness;
pub mod placement;
pub mod repair;
