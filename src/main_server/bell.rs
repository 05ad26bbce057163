//! Wakes a connection's thread that holds an answer back.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Rung by any thread, heard by one that waits on it together with a socket. What was rung before
/// anybody waited is heard all the same.
#[derive(Debug)]
pub struct Bell {
    rope: UnixStream,
    sound: UnixStream,
}

impl Bell {
    /// A new bell; fails when file descriptors have run out.
    pub fn new() -> io::Result<Arc<Bell>> {
        let (rope, sound) = UnixStream::pair()?;
        rope.set_nonblocking(true)?;
        sound.set_nonblocking(true)?;
        Ok(Arc::new(Bell { rope, sound }))
    }

    /// Rings it.
    pub fn ring(&self) {
        // A full buffer means that it is ringing already.
        let _ = (&self.rope).write(&[1]);
    }

    /// Takes note of all ringing so far. To be called before looking at what it was rung for.
    pub fn heed(&self) {
        let mut rung = [0; 64];
        while matches!((&self.sound).read(&mut rung), Ok(count) if count > 0) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sound.as_fd()
    }
}
