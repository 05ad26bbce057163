//! A disk whose power can be cut: ext4 in a loop file, shut off by its shutdown ioctl. What was not
//! synced is then gone, as it is not after a kill -9. Needs root and loop devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl::{Opcode, Setter, ioctl};
use tempfile::TempDir;

use super::wait::until;

/// `EXT4_IOC_SHUTDOWN` of linux/fs/ext4/ext4.h: `_IOR('X', 125, __u32)`.
const SHUTDOWN: Opcode = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: nothing more reaches the disk, the journal included.
const NO_LOG_FLUSH: u32 = 2;

/// A mounted ext4 of its own.
pub struct LoopDisk {
    directory: TempDir,
}

impl LoopDisk {
    /// Makes and mounts one. `None` where that cannot be done: that is said loudly, and with
    /// CI=true it is a failure.
    pub fn new() -> Option<LoopDisk> {
        match LoopDisk::try_new() {
            Ok(disk) => Some(disk),
            Err(why) => {
                let needs = "this test needs root, loop devices and mkfs.ext4";
                assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{needs}: {why}");
                eprintln!("NOT TESTED: {needs}: {why}");
                None
            }
        }
    }

    fn try_new() -> Result<LoopDisk, String> {
        let directory = TempDir::with_prefix("p2pdfs-disk-").map_err(|e| e.to_string())?;
        let disk = LoopDisk { directory };
        let image = File::create(disk.image()).map_err(|e| e.to_string())?;
        image.set_len(3 << 30).map_err(|e| e.to_string())?;
        fs::create_dir(disk.path()).map_err(|e| e.to_string())?;
        // A small journal and no lazy work: quick to make, and nothing is written behind our back.
        let lazy = ["-E", "lazy_itable_init=0,nodiscard"];
        let options = [&["-q", "-F", "-J", "size=4", "-N", "4096"], lazy.as_slice()].concat();
        shell("mkfs.ext4", &options, &[&disk.image()])?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// Two habits of ext4 which other file systems do not have are switched off: data that is
    /// written before a rename, and a journal written every few seconds.
    fn mount(&self) -> Result<(), String> {
        let options = ["-t", "ext4", "-o", "loop,noauto_da_alloc,commit=300"];
        shell("mount", &options, &[&self.image(), &self.path()])
    }

    /// Cuts the power: from now on nothing reaches the disk, and every use of it fails.
    ///
    /// Kill the processes that write to it first. A sync that is under way during the ioctl can
    /// come back as done with its bytes lost (seen with Linux 6.18: an append and fdatasync in a
    /// loop, cut, loses its last "success" once in twenty times), which no real disk does. A process
    /// that is dead tells nobody of its last sync, and what it had not synced is lost all the same.
    pub fn cut(&self) {
        let root = File::open(self.path()).expect("the disk is mounted");
        // SAFETY: the opcode is the one above, which reads one u32 and writes nothing.
        let done = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
        done.expect("ext4 shuts down");
    }

    /// The power comes back: mounts it anew, from what had reached the disk. All processes that had
    /// files open on it must have ended.
    pub fn restore(&self) {
        until("the disk is unmounted", || shell("umount", &[], &[&self.path()]).ok());
        self.mount().expect("it was mounted before");
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: what still uses it, after a failure, must not keep the loop device for ever.
        let _ = shell("umount", &["-l"], &[&self.path()]);
    }
}

fn shell(program: &str, options: &[&str], paths: &[&Path]) -> Result<(), String> {
    let mut command = Command::new(program);
    // Where they are is not on everybody's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/sbin:/usr/sbin")).args(options).args(paths);
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

/// The journal of new directory entries that debug builds keep (see `durable`). It stands on a disk
/// that stays on.
pub struct EntryJournal(PathBuf);

impl EntryJournal {
    /// A journal in this file.
    pub fn new(path: PathBuf) -> EntryJournal {
        EntryJournal(path)
    }

    /// The file, for the environment of the servers.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes away the entries whose directory was not synced after they were made: POSIX does not
    /// promise them. Returns what was taken, and begins anew.
    pub fn take_back(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let mut pending: Vec<PathBuf> = Vec::new();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("created", path)) => pending.push(path.into()),
                Some(("synced", path)) => pending.retain(|p| p.parent() != Some(Path::new(path))),
                _ => panic!("a line that the journal does not have: {line:?}"),
            }
        }
        pending.retain(|path| match fs::symlink_metadata(path) {
            Ok(facts) if facts.is_dir() => fs::remove_dir_all(path).is_ok(),
            Ok(_) => fs::remove_file(path).is_ok(),
            // The disk itself has lost it.
            Err(_) => false,
        });
        fs::write(&self.0, "").expect("the journal can be emptied");
        pending
    }
}
