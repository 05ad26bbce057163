//! A load of puts by several clients at once, which remembers what was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::cli::Cli;
use super::cluster::TestCluster;
use super::random::Random;
use super::wait::DEADLINE;
use super::witness::Witness;

/// Clients that put files until they are told to stop.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    stopping: bool,
    /// Puts that have ended, well or not.
    ended: usize,
    puts: Puts,
}

/// Every put that was tried, by path in the store.
#[derive(Default, Clone)]
pub struct Puts(BTreeMap<String, Put>);

#[derive(Clone)]
struct Put {
    content: blake3::Hash,
    was_acknowledged: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Starts `clients` of them, whose files get `copies` copies.
    pub fn start(cluster: &TestCluster, clients: usize, copies: u8, random: &mut Random) -> Load {
        let shared = Arc::new(Shared::default());
        let clients = (0..clients).map(|client| {
            let (cli, home, shared) = (cluster.cli(), cluster.home(), shared.clone());
            let prefix = format!("/load-{:x}-{client}", random.next());
            let mut random = Random::new(random.next());
            thread::spawn(move || {
                let mut number = 0;
                while !shared.lock().stopping {
                    number += 1;
                    let path = format!("{prefix}-{number}");
                    // A file, since what comes from a pipe cannot be sent again.
                    let local = home.join(path.trim_start_matches('/'));
                    put_one(&cli, &shared, &local, &path, copies, &mut random);
                    fs::remove_file(local).expect("it was made just now");
                }
            })
        });
        Load { clients: clients.collect(), shared: shared.clone() }
    }

    /// Waits until `count` more puts have ended, well or not.
    pub fn wait_for_more(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        let mut progress = self.shared.lock();
        let target = progress.ended + count;
        while progress.ended < target {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no put ends any more");
            let waited = self.shared.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the clients end what they are doing, and returns what they did.
    pub fn stop(mut self) -> Puts {
        self.shared.lock().stopping = true;
        for client in self.clients.drain(..) {
            client.join().expect("a client of the load panicked");
        }
        self.shared.lock().puts.clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
    }
}

/// Mostly small files, a few with several chunks.
fn put_one(cli: &Cli, shared: &Shared, local: &Path, path: &str, copies: u8, random: &mut Random) {
    let size = match random.below(8) {
        0 => (4 << 20) + random.below(1 << 20),
        1 => 0,
        _ => random.below(200_000),
    };
    let content = random.bytes(size as usize);
    let put = Put { content: blake3::hash(&content), was_acknowledged: false };
    shared.lock().puts.0.insert(path.to_string(), put);
    fs::write(local, &content).expect("there is room for it");
    let local = local.to_str().expect("a plain path");
    let run = cli.run(&["put", "--copies", &copies.to_string(), local, path]);
    let mut progress = shared.lock();
    progress.ended += 1;
    if run.code == Some(0) {
        let put = progress.puts.0.get_mut(path).expect("it was entered before");
        put.was_acknowledged = true;
    }
    drop(progress);
    shared.changed.notify_all();
    assert!(matches!(run.code, Some(0 | 1 | 4)), "exit code {:?}: {}", run.code, run.stderr);
}

impl Puts {
    /// How many were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.0.values().filter(|put| put.was_acknowledged).count()
    }

    /// Reads everything back from the running cluster: what was acknowledged is there and whole,
    /// what was not is absent or whole.
    pub fn assert_kept(&self, cluster: &TestCluster) {
        assert!(self.acknowledged() > 0, "nothing was ever acknowledged");
        let back = tempfile::TempDir::new().expect("a temporary directory");
        let target = back.path().join("all");
        cluster.cli().ok(&["get", "-r", "/", target.to_str().expect("a plain path")]);
        for (path, put) in &self.0 {
            match fs::read(target.join(path.trim_start_matches('/'))) {
                Ok(content) => {
                    assert_eq!(blake3::hash(&content), put.content, "{path} has other bytes");
                }
                Err(_) => assert!(!put.was_acknowledged, "{path} was acknowledged, and is gone"),
            }
        }
    }

    /// Everything that was acknowledged has at least `copies` copies on as many disks.
    pub fn assert_copied(&self, witness: &Witness, copies: usize) {
        for (path, _) in self.0.iter().filter(|(_, put)| put.was_acknowledged) {
            for chunk in &witness.file(path).chunks {
                let nodes = witness.holders(chunk);
                assert!(nodes.len() >= copies, "{path}: a chunk is on {nodes:?} alone");
            }
        }
    }
}
