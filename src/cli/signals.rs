//! The orderly stop: SIGINT and SIGTERM become a message on a channel. And one signal that must not
//! end a process: that of a limit on file sizes.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Gets the number of the first SIGINT or SIGTERM that the process receives. A second one ends the
/// process at once, with the exit code that shells use for a signal.
///
/// A write over the limit on file sizes (`ulimit -f`) becomes an error of that write, like one on a
/// full disk, in place of the end of the process.
///
/// Call it once, before the work begins: from then on these signals do nothing else.
pub fn stop_requests() -> io::Result<Receiver<i32>> {
    // Whoever handles the signal gets the error; nobody asks the flag.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (first, requests) = bounded(1);
    thread::Builder::new().name("signals".to_string()).stack_size(128 * 1024).spawn(move || {
        let mut is_first = true;
        for signal in signals.forever() {
            if !is_first || first.send(signal).is_err() {
                std::process::exit(128 + signal);
            }
            is_first = false;
        }
    })?;
    Ok(requests)
}
