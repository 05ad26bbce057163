//! What the system decides, as pure functions: plain values in, verdicts out.
pub mod inventory;
