//! Reading from segment files, where a test can have the disk fail.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Fills `out` from byte `at` on.
pub(super) fn read_exact_at(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    #[cfg(test)]
    bad_sectors::check(file, out.len(), at)?;
    file.read_exact_at(out, at)
}

/// Parts of files that cannot be read.
#[cfg(test)]
pub mod bad_sectors {
    use std::fs::File;
    use std::io;
    use std::ops::Range;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Device, file, and bytes of it.
    type Part = (u64, u64, Range<u64>);

    static PARTS: Mutex<Vec<Part>> = Mutex::new(Vec::new());

    /// A part of a file that cannot be read until this is dropped.
    pub struct BadSectors(Part);

    impl BadSectors {
        pub fn of(path: &Path, bytes: Range<u64>) -> BadSectors {
            let file = std::fs::metadata(path).unwrap();
            let part = (file.dev(), file.ino(), bytes);
            lock().push(part.clone());
            BadSectors(part)
        }
    }

    impl Drop for BadSectors {
        fn drop(&mut self) {
            let mut parts = lock();
            let own = parts.iter().position(|part| *part == self.0);
            parts.swap_remove(own.expect("it was put there"));
        }
    }

    pub(in crate::segments) fn check(file: &File, bytes: usize, at: u64) -> io::Result<()> {
        let parts = lock();
        if parts.is_empty() {
            return Ok(());
        }
        let (file, end) = (file.metadata()?, at + bytes as u64);
        let is_hit = |(device, inode, part): &Part| {
            (*device, *inode) == (file.dev(), file.ino()) && part.start < end && at < part.end
        };
        match parts.iter().any(is_hit) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }

    fn lock() -> MutexGuard<'static, Vec<Part>> {
        PARTS.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
