//! Waiting for what has to happen: ask again until it did, with a deadline that turns a hang into a
//! failure.

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// After this long, what a test waits for is taken for a hang.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Asks until the answer is `Some`. For states that announce themselves to nobody, such as the
/// main server's view of a node.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    // Nobody sends on it: it paces the questions.
    let (_quiet, pace) = mpsc::channel::<()>();
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain until {what}");
        let _ = pace.recv_timeout(Duration::from_millis(20));
    }
}
