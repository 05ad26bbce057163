//! Copies that the disk could not read. They are trash of the store, are tried again after each pass
//! of the scrub, and count again after a comparison with the main server's books.
//!
//! That is known until the node stops: then they are trash like any other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::Serial;

/// The most copies that are remembered: a disk that cannot read more is not one to wait for.
const MAX_COPIES: usize = 65_536;

/// The copies that are aside, and whether some came back of which the main server does not know.
#[derive(Debug, Default)]
pub(super) struct Aside {
    copies: Mutex<BTreeSet<Serial>>,
    are_back: AtomicBool,
}

impl Aside {
    pub fn add(&self, serial: Serial) {
        let mut copies = self.lock();
        if copies.len() < MAX_COPIES {
            copies.insert(serial);
        }
    }

    /// All of them, which are aside no more.
    pub fn take(&self) -> BTreeSet<Serial> {
        std::mem::take(&mut self.lock())
    }

    /// One is held again.
    pub fn note_back(&self) {
        self.are_back.store(true, Ordering::SeqCst);
    }

    /// True once after some came back.
    pub fn take_back(&self) -> bool {
        self.are_back.swap(false, Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Serial>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
