//! Where a bench works: a cluster, a directory in its store and one on this machine, all of which
//! are gone afterwards, however it ends.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::interrupt::Interrupt;
use super::usage::Process;
use crate::cli::client::Common;
use crate::cli::client_config;
use crate::cli::cluster::{LocalCluster, Plan, State};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{failure, shown};
use crate::cli::size::ByteSize;
use crate::client::{Client, ClientError, Settings};
use crate::remote_path::RemotePath;
use crate::wire::FaultCode;

/// A directory on this machine for sources and for the limits. Gone when it is dropped.
pub struct Scratch(TempDir);

impl Scratch {
    /// Below `above`, or where temporary files are.
    pub fn new(above: Option<&Path>) -> Result<Scratch, Failure> {
        let above = above.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let made = tempfile::Builder::new().prefix("p2pdfs-bench-").tempdir_in(&above);
        made.map(Scratch).map_err(|error| {
            let what = format!("cannot make a directory in {}", shown(&above));
            Failure::because(Exit::Failed, what, &error).hint("choose another one with --dir")
        })
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fails unless its file system has so much free.
    pub fn has_room_for(&self, bytes: u64) -> Result<(), Failure> {
        let Ok(facts) = rustix::fs::statvfs(self.path()) else { return Ok(()) };
        let free = facts.f_bavail.saturating_mul(facts.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        let (place, wanted, free) = (shown(self.path()), ByteSize(bytes), ByteSize(free));
        let text = format!("the bench needs about {wanted} at a time, and {place} has {free} free");
        Err(Failure::new(Exit::Unavailable, text)
            .hint("choose another place with --dir, or a smaller --size"))
    }

    /// Removes it, and says so when that fails.
    pub fn remove(self) -> Result<(), Failure> {
        let what = format!("cannot remove {}", shown(self.path()));
        self.0.close().map_err(|error| Failure::because(Exit::Failed, what, &error))
    }
}

/// The user's own cluster, as the settings say.
pub struct Given {
    settings: Settings,
    /// Its processes and directory, where it is one that `up` has started here.
    pub up: Option<(PathBuf, Vec<Process>)>,
}

impl Given {
    pub fn find(common: &Common) -> Result<Given, Failure> {
        let mut settings = client_config::load(common)
            .map_err(|mut failure| {
                failure.hint = failure.hint.map(|hint| {
                    format!("{hint}; or bench a cluster that is only there for it, with --local")
                });
                failure
            })?
            .settings;
        if let Some(patience) = common.given_patience() {
            settings.patience = patience;
        }
        let up = up_directories(common).into_iter().find_map(|directory| {
            let processes = State::load(&directory).ok()?.processes;
            let is_it = |main: &str| settings.main.as_str() == main;
            processes.iter().find(|p| is_it(&p.address) && p.find().is_some())?;
            let watched = processes.into_iter().filter(|p| p.find().is_some());
            let watched = watched.map(|p| Process { name: short_name(&p.name), pid: p.pid });
            Some((directory, watched.collect()))
        });
        Ok(Given { settings, up })
    }

    pub fn main(&self) -> &str {
        self.settings.main.as_str()
    }

    /// A client, whose work the interrupt ends.
    pub fn client(&self, interrupt: &Interrupt) -> Client {
        let client = Client::new(self.settings.clone());
        interrupt.attach(client.cancel_handle());
        client
    }

    /// Makes a directory in the store that nobody else uses.
    pub fn make_directory(&self, client: &Client) -> Result<StoreDirectory, Failure> {
        let mut number = [0; 6];
        getrandom::fill(&mut number).map_err(|error| {
            let error = std::io::Error::other(error);
            Failure::because(Exit::Failed, "the system gives no random number", &error)
        })?;
        let path = RemotePath::root().join(&format!("bench-{}", hex::encode(number)));
        let path = path.expect("it is a plain name");
        // There before the directory is: a reply that is lost to a signal leaves nothing behind.
        let mut directory =
            StoreDirectory { settings: self.settings.clone(), path, is_removed: false };
        if let Err(error) = client.make_directory(&directory.path, false) {
            directory.is_removed = !matches!(error, ClientError::Cancelled);
            let what = format!("cannot make the directory {} to work in", directory.path);
            return Err(failure(&what, &error));
        }
        Ok(directory)
    }
}

/// Where an `up` cluster's state may be that these settings belong to: beside the settings, where
/// `up` is told to keep it, or where it is kept usually.
fn up_directories(common: &Common) -> Vec<PathBuf> {
    let beside = common.config.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let told = std::env::var_os("P2PDFS_UP_DIR").map(PathBuf::from);
    let usual = client_config::user_directory("XDG_DATA_HOME", ".local/share");
    let usual = usual.map(|directory| directory.join("p2pdfs"));
    [beside, told, usual].into_iter().flatten().collect()
}

fn short_name(name: &str) -> String {
    if name == "main server" { "main".to_string() } else { name.to_string() }
}

/// A directory in a store of the user's. Purged when it is dropped.
pub struct StoreDirectory {
    settings: Settings,
    pub path: RemotePath,
    is_removed: bool,
}

impl StoreDirectory {
    /// Removes it for good, so that its space is free at once, and says so when that fails.
    pub fn remove(mut self) -> Result<(), Failure> {
        self.purge()
    }

    fn purge(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.is_removed, true) {
            return Ok(());
        }
        // A client of its own: the one that worked here may have been told to end.
        let removed = Client::new(self.settings.clone()).remove(&self.path, true, true);
        let path = &self.path;
        let removed = match removed {
            Err(error) if error.code() == Some(FaultCode::NotFound) => Ok(0),
            removed => removed,
        };
        removed.map(drop).map_err(|error| {
            failure(&format!("cannot remove what the bench stored in {path}"), &error)
                .hint(format!("remove it with: p2pdfs rm -r --purge {path}"))
        })
    }
}

impl Drop for StoreDirectory {
    fn drop(&mut self) {
        if let Err(failure) = self.purge() {
            failure.report("p2pdfs");
        }
    }
}

/// A cluster that is there for one round alone. Its processes are stopped when it is dropped, and
/// its directory is removed.
pub struct Own {
    // Dropped in this order: what runs in the directory ends before the directory does.
    cluster: LocalCluster,
    directory: Scratch,
}

impl Own {
    /// Starts it below `above`.
    pub fn start(above: &Path, nodes: u32, copies: u8, space: ByteSize) -> Result<Own, Failure> {
        let directory = Scratch::new(Some(above))?;
        let plan = Plan {
            directory: directory.path().join("cluster"),
            nodes: Some(nodes),
            copies: Some(copies),
            space: Some(space),
        };
        let cluster = LocalCluster::start(&plan, |_| {})?;
        Ok(Own { cluster, directory })
    }

    /// A client, whose work the interrupt ends.
    pub fn client(&self, interrupt: &Interrupt) -> Result<Client, Failure> {
        let client = self.cluster.client()?;
        interrupt.attach(client.cancel_handle());
        Ok(client)
    }

    /// The servers.
    pub fn processes(&self) -> Vec<Process> {
        let record = |p: &crate::cli::process::Started| Process {
            name: short_name(&p.record.name),
            pid: p.record.pid,
        };
        self.cluster.processes.iter().map(record).collect()
    }

    /// Stops it and removes all of it.
    pub fn remove(self) -> Result<(), Failure> {
        let Own { cluster, directory } = self;
        drop(cluster);
        directory.remove()
    }
}

/// The kind of file system that a directory is on.
pub fn file_system(directory: &Path) -> String {
    let Ok(facts) = rustix::fs::statfs(directory) else { return "unknown".to_string() };
    // The magic numbers of statfs(2).
    let name = match facts.f_type as u64 & 0xffff_ffff {
        0xef53 => "ext4",
        0x0102_1994 => "tmpfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0xf2f5_2010 => "f2fs",
        0x2fc1_2fc1 => "zfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        other => return format!("file system {other:#x}"),
    };
    name.to_string()
}
