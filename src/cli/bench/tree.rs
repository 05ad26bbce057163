//! A tree of many small files.

use std::fs;
use std::io;
use std::path::Path;

use super::content::Content;
use super::interrupt::Interrupt;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::shown;

/// How large each file is.
pub const FILE_BYTES: usize = 4096;
/// Files in one directory.
const PER_DIRECTORY: u64 = 1000;

/// Where file number `number` stands in the tree.
pub fn name(number: u64) -> (String, String) {
    (format!("d{}", number / PER_DIRECTORY), format!("f{number}"))
}

/// The directories of a tree of so many files.
pub fn directories(files: u64) -> impl Iterator<Item = String> {
    (0..files.div_ceil(PER_DIRECTORY)).map(|number| format!("d{number}"))
}

/// Makes the tree in a new directory `top`; each file has a content of its own, derived by its number.
pub fn write(
    top: &Path,
    content: Content,
    files: u64,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::because(Exit::Failed, format!("cannot make files in {}", shown(top)), &error)
    };
    fs::create_dir(top).map_err(failed)?;
    for directory in directories(files) {
        fs::create_dir(top.join(directory)).map_err(failed)?;
    }
    let mut bytes = vec![0; FILE_BYTES];
    for number in 0..files {
        interrupt.check()?;
        let (directory, file) = name(number);
        content.derived(number).fill(0, &mut bytes);
        fs::write(top.join(directory).join(file), &bytes).map_err(failed)?;
    }
    Ok(())
}
