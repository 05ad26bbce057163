//! A load of everything at once, puts, overwrites, removals and reads, by several clients, which
//! remembers what may stand at each path.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use p2pdfs::client::{
    Cancel, Client, ClientError, Observer, Patience, PutOptions, Quiet, Report, Settings, Source,
    Upload,
};
use p2pdfs::remote_path::RemotePath;
use p2pdfs::wire::FaultCode;

use super::cluster::TestCluster;
use super::random::Random;
use super::wait::DEADLINE;
use super::witness::Witness;

/// The paths of each client: few, so that they are overwritten and removed often.
const PATHS: u64 = 10;

/// What is at a path: a file with bytes of this hash, or nothing.
type Content = Option<blake3::Hash>;

/// What may stand at each path: one thing after an operation that was acknowledged, one more after
/// each that was not.
#[derive(Debug, Clone, Default)]
pub struct Expected(BTreeMap<String, Vec<Content>>);

/// What was done at each path, in order: only one client touches a path.
#[derive(Debug, Clone, Default)]
pub struct History(BTreeMap<String, Vec<Step>>);

/// What may stand at a path from some moment on, or does.
#[derive(Debug, Clone)]
struct Step {
    content: Content,
    /// When the operation began that brought this, or found it.
    began: Instant,
    /// When its success was acknowledged; `None` before, and for one that failed.
    acknowledged: Option<Instant>,
    is_put: bool,
}

/// Clients that work until they are told to stop.
pub struct Mixed {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    cancels: Vec<Cancel>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    stopping: bool,
    /// Operations that have ended, and those of them that were acknowledged.
    ended: usize,
    acknowledged: usize,
    expected: Expected,
    history: History,
    /// What the others said, the first few of them.
    failed: Vec<String>,
    /// What is wrong whatever was broken; the first of it is enough.
    wrong: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of the cluster that waits for servers to come back as long as a test waits.
pub fn client(cluster: &TestCluster) -> Client {
    let mut settings = Settings::new(cluster.address().clone(), cluster.key());
    settings.patience = Patience { first: DEADLINE, established: DEADLINE };
    settings.threads = 4;
    settings.insecure_plaintext = !cluster.is_on_loopback();
    Client::new(settings)
}

impl Mixed {
    /// Starts `clients` of them, whose files get `copies` copies.
    pub fn start(cluster: &TestCluster, clients: usize, copies: u8, random: &mut Random) -> Mixed {
        let shared = Arc::new(Shared::default());
        let mut mixed = Mixed { shared: shared.clone(), clients: Vec::new(), cancels: Vec::new() };
        for number in 0..clients {
            let client = client(cluster);
            mixed.cancels.push(client.cancel_handle());
            let one = One {
                client,
                shared: shared.clone(),
                prefix: format!("/mixed-{:x}-{number}", random.next()),
                local: cluster.home().join(format!("mixed-{:x}", random.next())),
                random: Random::new(random.next()),
                copies,
            };
            mixed.clients.push(thread::spawn(move || one.run()));
        }
        mixed
    }

    /// Waits until `count` more operations have ended, well or not.
    pub fn wait_for_more(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        let mut progress = self.shared.lock();
        let target = progress.ended + count;
        while progress.ended < target && progress.wrong.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no operation ends any more");
            let waited = self.shared.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(wrong) = &progress.wrong {
            panic!("{wrong}");
        }
    }

    /// How many operations have ended so far, well or not.
    pub fn ended(&self) -> usize {
        self.shared.lock().ended
    }

    /// Fails the test if any operation has failed so far.
    pub fn assert_all_acknowledged(&self) {
        let progress = self.shared.lock();
        assert_eq!(progress.failed, Vec::<String>::new());
    }

    /// Lets the clients end what they are doing, and returns what must be true then.
    pub fn stop(mut self) -> Expected {
        self.shared.lock().stopping = true;
        for client in self.clients.drain(..) {
            client.join().expect("a client of the load panicked");
        }
        let progress = self.shared.lock();
        if let Some(wrong) = &progress.wrong {
            panic!("{wrong}");
        }
        eprintln!("operations: {} ended, {} acknowledged", progress.ended, progress.acknowledged);
        progress.failed.iter().take(3).for_each(|why| eprintln!("  failed: {why}"));
        assert!(progress.acknowledged > 0, "nothing was ever acknowledged");
        progress.expected.clone()
    }

    /// Breaks off what the clients are doing, and returns what they did.
    pub fn break_off(mut self) -> History {
        self.shared.lock().stopping = true;
        self.cancels.iter().for_each(Cancel::cancel);
        for client in self.clients.drain(..) {
            client.join().expect("a client of the load panicked");
        }
        let progress = self.shared.lock();
        if let Some(wrong) = &progress.wrong {
            panic!("{wrong}");
        }
        progress.history.clone()
    }
}

impl Drop for Mixed {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.cancels.iter().for_each(Cancel::cancel);
    }
}

/// One client.
struct One {
    client: Client,
    shared: Arc<Shared>,
    prefix: String,
    /// A file of its own: what comes from a stream cannot be sent again.
    local: PathBuf,
    random: Random,
    copies: u8,
}

/// How an operation ended.
enum Ended {
    /// This is what stands there now.
    Known(Content),
    /// It may have happened or not.
    Unknown(ClientError),
}

impl One {
    fn run(mut self) {
        while !self.shared.lock().stopping {
            let path = format!("{}-{}", self.prefix, self.random.below(PATHS));
            let remote: RemotePath = path.parse().expect("a path of plain letters");
            let began = Instant::now();
            let (ended, wanted) = match self.random.below(10) {
                0..5 => self.put(&path, &remote),
                5..7 => self.remove(&path, &remote),
                _ => (self.read(&remote), None),
            };
            self.end(&path, ended, wanted.is_some(), began);
        }
    }

    fn put(&mut self, path: &str, remote: &RemotePath) -> (Ended, Option<()>) {
        let size = match self.random.below(10) {
            0 => (4 << 20) + self.random.below(1 << 19),
            1 => 0,
            _ => self.random.below(100_000),
        };
        let bytes = self.random.bytes(size as usize);
        let content = Some(blake3::hash(&bytes));
        self.may_be(path, content);
        std::fs::write(&self.local, &bytes).expect("there is room for it");
        let options = PutOptions { copies: self.copies, ..PutOptions::default() };
        let upload = Upload { from: Source::Path(self.local.clone()), to: remote.clone() };
        let seen = Seen::default();
        let put = self.client.put([upload], &options, &seen);
        let ended = match (put, seen.0.into_inner()) {
            (Ok(()), Some(Report::Stored(_))) => Ended::Known(content),
            (Ok(()), Some(Report::Failed(error))) | (Err(error), _) => Ended::Unknown(error),
            (Ok(()), other) => panic!("a put of one file ended with {other:?}"),
        };
        (ended, Some(()))
    }

    fn remove(&mut self, path: &str, remote: &RemotePath) -> (Ended, Option<()>) {
        self.may_be(path, None);
        let purge = self.random.below(4) == 0;
        let ended = match self.client.remove(remote, false, purge) {
            Ok(_) => Ended::Known(None),
            Err(error) if error.code() == Some(FaultCode::NotFound) => Ended::Known(None),
            Err(error) => Ended::Unknown(error),
        };
        (ended, Some(()))
    }

    fn read(&mut self, remote: &RemotePath) -> Ended {
        let mut bytes = Vec::new();
        match self.client.read(remote, None, 0..u64::MAX, &mut bytes, &Quiet) {
            Ok(_) => Ended::Known(Some(blake3::hash(&bytes))),
            Err(error) if error.code() == Some(FaultCode::NotFound) => Ended::Known(None),
            Err(error) => Ended::Unknown(error),
        }
    }

    fn may_be(&self, path: &str, content: Content) {
        let mut progress = self.shared.lock();
        let slot = progress.expected.0.entry(path.to_string()).or_insert_with(|| vec![None]);
        slot.push(content);
        let step = Step { content, began: Instant::now(), acknowledged: None, is_put: false };
        progress.history.0.entry(path.to_string()).or_default().push(step);
    }

    /// Only this client touches the path: what it sees is all that can be there.
    fn end(&self, path: &str, ended: Ended, changes: bool, began: Instant) {
        let mut progress = self.shared.lock();
        let progress = &mut *progress;
        progress.ended += 1;
        match ended {
            Ended::Known(content) => {
                progress.acknowledged += 1;
                let slot = progress.expected.0.entry(path.to_string());
                let slot = slot.or_insert_with(|| vec![None]);
                if !slot.contains(&content) {
                    let what = format!("{path} is {content:?}, and can only be one of {slot:?}");
                    progress.wrong.get_or_insert(what);
                }
                *slot = vec![content];
                let (acknowledged, is_put) = (Some(Instant::now()), changes && content.is_some());
                let step = Step { content, began, acknowledged, is_put };
                progress.history.0.entry(path.to_string()).or_default().push(step);
            }
            Ended::Unknown(error) if is_no_excuse(&error) => {
                let what = format!("{path}, changed={changes}: {error}");
                progress.wrong.get_or_insert(what);
            }
            Ended::Unknown(error) if progress.failed.len() < 20 => {
                progress.failed.push(format!("{path}, changed={changes}: {error}"));
            }
            Ended::Unknown(_) => {}
        }
        self.shared.changed.notify_all();
    }
}

/// Damage and refusals are no consequence of servers that come and go.
fn is_no_excuse(error: &ClientError) -> bool {
    use FaultCode::*;
    matches!(error.code(), Some(Denied | HashMismatch | Invalid | Malformed | Conflict | Internal))
}

/// The one report of an operation on one file.
#[derive(Default)]
struct Seen(std::cell::RefCell<Option<Report>>);

impl Observer for Seen {
    fn file(&self, _from: &OsStr, _to: &OsStr, report: Report) {
        self.0.replace(Some(report));
    }
}

impl History {
    /// What may stand at each path when all that was acknowledged before a moment is there, and of
    /// what came later anything or nothing.
    pub fn kept_up_to(&self, moment: Instant) -> Expected {
        let is_before = |step: &Step| step.acknowledged.is_some_and(|at| at <= moment);
        let expected = self.0.iter().map(|(path, steps)| {
            let last = steps.iter().rposition(is_before);
            let later = steps[last.unwrap_or(0)..].iter().map(|step| step.content);
            let before = last.is_none().then_some(None);
            (path.clone(), before.into_iter().chain(later).collect())
        });
        Expected(expected.collect())
    }

    /// How many operations were acknowledged after a moment.
    pub fn acknowledged_after(&self, moment: Instant) -> usize {
        let steps = self.0.values().flatten();
        steps.filter(|step| step.acknowledged.is_some_and(|at| at > moment)).count()
    }

    /// When the last put began of those that were acknowledged before a moment.
    pub fn last_put_before(&self, moment: Instant) -> Option<Instant> {
        let is_before = |step: &&Step| step.acknowledged.is_some_and(|at| at <= moment);
        let steps = self.0.values().flatten().filter(|step| step.is_put).filter(is_before);
        steps.map(|step| step.began).max()
    }
}

impl Expected {
    /// Adds what another load left behind.
    pub fn extend(&mut self, other: Expected) {
        self.0.extend(other.0);
    }

    /// Reads every path of a cluster that is well: what is there may be there, and what was
    /// acknowledged is.
    pub fn assert_kept(&mut self, cluster: &TestCluster) {
        let client = client(cluster);
        for (path, slot) in &mut self.0 {
            let remote: RemotePath = path.parse().expect("a path of plain letters");
            let mut bytes = Vec::new();
            let content = match client.read(&remote, None, 0..u64::MAX, &mut bytes, &Quiet) {
                Ok(_) => Some(blake3::hash(&bytes)),
                Err(error) if error.code() == Some(FaultCode::NotFound) => None,
                Err(error) => panic!("{path} cannot be read: {error}"),
            };
            assert!(slot.contains(&content), "{path} is {content:?}, not one of {slot:?}");
            *slot = vec![content];
        }
    }

    /// Removes every file for good, so that what a long run stores stays bounded.
    pub fn remove_all(&mut self, cluster: &TestCluster) {
        let client = client(cluster);
        for (path, slot) in &mut self.0 {
            let remote: RemotePath = path.parse().expect("a path of plain letters");
            match client.remove(&remote, false, true) {
                Ok(_) => {}
                Err(error) if error.code() == Some(FaultCode::NotFound) => {}
                Err(error) => panic!("{path} cannot be removed: {error}"),
            }
            *slot = vec![None];
        }
    }

    /// The witness sees the same files, each chunk on exactly `copies` disks, and no copy of them
    /// that the catalog does not count.
    pub fn assert_exact(&self, witness: &Witness, copies: usize) {
        for (path, slot) in &self.0 {
            match slot.as_slice() {
                [Some(_)] => {
                    for chunk in &witness.file(path).chunks {
                        let (held, counted) = (witness.holders(chunk), &chunk.nodes);
                        assert_eq!(
                            held.len(),
                            copies,
                            "{path}: chunk {} on {held:?}, counted on {counted:?}",
                            chunk.serial
                        );
                        assert_eq!(counted.len(), copies, "{path}: {counted:?}");
                    }
                }
                [None] => assert!(!witness.files.contains_key(path), "{path} is back"),
                open => panic!("{path} was not read: {open:?}"),
            }
        }
    }
}

/// As often as a test's own number says, or as `name` in the environment asks for a long run.
pub fn times(name: &str, usual: usize) -> usize {
    let asked = std::env::var(name).ok().map(|text| text.parse());
    asked.map_or(usual, |number| number.unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// How long something took, for those who watch a long run.
pub fn took(what: &str, since: Instant) {
    let took: Duration = since.elapsed();
    eprintln!("{what} took {:.1} s", took.as_secs_f64());
}
