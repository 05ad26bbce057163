//! The main server: keeps the books, and says where chunks go and are. It never sees their bytes.
//!
//! `session` reads requests and knows who may ask what; `allocate`, `read`, `names`, `join`,
//! `heartbeat`, `confirm` and `inventory` serve them; `nodes` is what is known of the nodes now;
//! `survey` finds the chunks that have not the copies that they should,
//! and `repair` sees to them. Decisions are made in `policy`, the books are the `catalog`.

mod admin;
mod adopt;
mod allocate;
mod bell;
mod census;
mod circle;
mod collect;
mod confirm;
mod deletes;
mod directory;
mod door;
mod explain;
mod fault;
mod files_at_risk;
mod heartbeat;
mod inventory;
mod join;
mod journal;
mod keys;
mod leaving;
mod metrics;
mod moves;
mod names;
mod node;
mod nodes;
mod notices;
mod orders;
mod rate;
mod read;
mod recent;
mod recover;
mod repair;
mod room;
mod session;
mod status;
mod survey;
#[cfg(test)]
mod tests;
mod timekeeping;
mod under_way;
mod upkeep;
mod view;
mod what_if;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

pub use crate::catalog::CatalogError;
pub use crate::catalog::check::CatalogReport;
pub use crate::journal::RecoveryKey;
pub use repair::RepairSpeed;

pub use directory::{Directory, DirectoryError, bind, check};
pub use journal::{JournalKeys, JournalSetup};
pub use recover::{RecoverError, Recovered, Recovery, read_key, recover, write_key};

use crate::catalog::Catalog;
use crate::clock::{Clock, Moment};
use crate::ids::{ClusterId, Incarnation, Secret};
use crate::metrics::Page;
use crate::policy::company::Company;
use crate::policy::liveness::DEAD_AFTER;
use crate::policy::mass_silence::MassSilence;
use crate::policy::pace::Hands;
use crate::policy::placement::{Candidate, Placement, Placer};
use crate::server::{Limits, Server};
use adopt::Strangers;
use collect::{Collecting, Collector};
use deletes::Deletes;
use door::Door;
use journal::{Journal, Writing};
use nodes::Nodes;
use recent::Recent;
use repair::Repair;
use survey::{Survey, SurveyThread};
use timekeeping::Timekeeper;
use under_way::UnderWay;
use upkeep::Upkeep;

/// How a main server runs.
#[derive(Debug, Clone)]
pub struct Config {
    pub placement: Placement,
    /// How long a heartbeat is held back when there is nothing to say.
    pub heartbeat: Duration,
    pub limits: Limits,
    pub repair_speed: RepairSpeed,
    /// Allow nodes on other machines, in plain text.
    pub insecure_plaintext: bool,
    /// How long what was replaced or removed can be brought back.
    pub keep_removed: Duration,
    /// How often all chunks are looked at for those to which nothing refers.
    pub collect_every: Duration,
    /// How long chunks that are being uploaded are kept for their commit.
    pub upload_lease: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            placement: Placement::default(),
            heartbeat: Duration::from_secs(5),
            limits: Limits::default(),
            repair_speed: RepairSpeed::default(),
            insecure_plaintext: false,
            keep_removed: Duration::from_secs(30 * 24 * 3600),
            collect_every: Duration::from_secs(3600),
            upload_lease: Duration::from_secs(24 * 3600),
        }
    }
}

/// Why a main server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the catalog is not to be used")]
    Catalog(#[from] CatalogError),
    #[error("cannot start the server's threads")]
    Threads(#[from] io::Error),
}

/// A running main server. Dropping it stops it.
pub struct MainServer {
    main: Arc<Main>,
    server: Server,
    upkeep: Option<(Upkeep, SurveyThread, Collector)>,
    writing: Option<Writing>,
    failures: Receiver<String>,
}

/// What all of a main server's threads share.
struct Main {
    config: Config,
    /// A steady one: see `timekeeping`.
    clock: Clock,
    timekeeper: Timekeeper,
    catalog: Arc<dyn Catalog>,
    cluster: ClusterId,
    incarnation: Incarnation,
    nodes: Nodes,
    door: Door,
    journal: Journal,
    repair: Repair,
    survey: Survey,
    recent: Recent,
    silence: Mutex<MassSilence>,
    /// Until then, nodes have time to come back after the main server's start; nothing, when all of
    /// them are there.
    grace: Mutex<Option<Moment>>,
    under_way: Mutex<UnderWay>,
    deletes: Deletes,
    collecting: Collecting,
    strangers: Strangers,
    waker: upkeep::Waker,
    failed: Sender<String>,
    sessions: AtomicU64,
    orders: AtomicU64,
    seed: AtomicU64,
    turn: AtomicU64,
    /// Where small chunks go at present.
    company: Mutex<Company>,
    requests: metrics::Requests,
}

impl MainServer {
    /// Enters this start into the catalog and serves `listener` until `stop`.
    pub fn start(
        config: Config,
        catalog: Arc<dyn Catalog>,
        listener: TcpListener,
        clock: Clock,
    ) -> Result<MainServer, StartError> {
        MainServer::start_any(config, catalog, None, listener, clock)
    }

    /// The same, and keeps a journal of the catalog on nodes.
    pub fn start_with_journal(
        config: Config,
        journal: JournalSetup,
        listener: TcpListener,
        clock: Clock,
    ) -> Result<MainServer, StartError> {
        let catalog = journal.catalog.clone();
        MainServer::start_any(config, catalog, Some(journal), listener, clock)
    }

    fn start_any(
        config: Config,
        catalog: Arc<dyn Catalog>,
        journal: Option<JournalSetup>,
        listener: TcpListener,
        clock: Clock,
    ) -> Result<MainServer, StartError> {
        let (failed, failures) = bounded(1);
        let limits = config.limits.clone();
        let main = Arc::new(Main::new(config, catalog, journal, clock, failed)?);
        let (upkeep, survey) = (Upkeep::start(main.clone())?, SurveyThread::start(main.clone())?);
        let upkeep = (upkeep, survey, Collector::start(main.clone())?);
        let writing = Writing::start(main.clone())?;
        let server = Server::start(listener, limits, main.clone())?;
        log::info!(
            "main server started addr={} cluster={} incarnation={} nodes={}",
            server.address(),
            main.cluster,
            main.incarnation,
            main.nodes.lock().nodes.len()
        );
        Ok(MainServer { main, server, upkeep: Some(upkeep), writing: Some(writing), failures })
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What fills in a page of metrics. It holds on to the catalog: drop it before the catalog is to
    /// be closed.
    pub fn metrics(&self) -> impl Fn(&mut Page) + Send + Sync + use<> {
        let (main, server) = (self.main.clone(), self.server.watch());
        move |page| metrics::fill(&main, server.open_connections(), page)
    }

    /// Gets the reason when the catalog has failed and the main server must be stopped.
    pub fn failures(&self) -> Receiver<String> {
        self.failures.clone()
    }

    /// Stops in order: requests that have arrived are answered, heartbeats that are held back too, and
    /// what clients were promised is in the journal on the nodes, where that is kept and they are there.
    pub fn stop(&mut self) {
        // First, since it would take the connections that end now for nodes that fall silent.
        let was_running = self.upkeep.take().is_some();
        if was_running {
            self.main.end_journal();
        }
        self.server.stop();
        drop(self.writing.take());
        if was_running {
            log::info!("main server stopped incarnation={}", self.main.incarnation);
        }
    }
}

impl Drop for MainServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Main {
    fn new(
        config: Config,
        catalog: Arc<dyn Catalog>,
        journal: Option<JournalSetup>,
        machine: Clock,
        failed: Sender<String>,
    ) -> Result<Main, CatalogError> {
        let (cluster, master) = catalog.identity();
        let incarnation = Incarnation::random();
        // By the machine's clock, in doubt or not: these books may be an old backup, and the sequence
        // of numbers must go on above all that were given out since.
        catalog.begin_incarnation(incarnation, machine.wall())?;
        let known = catalog.nodes()?;
        let latest = Some(catalog.latest_time()?).filter(|time| time.0 > 0 && !known.is_empty());
        let (timekeeper, clock) = Timekeeper::start(machine, latest);
        let nodes = Nodes::new(clock.clone(), config.heartbeat, master, known);
        let grace = clock.now() + nodes.interval() * DEAD_AFTER;
        let grace = Mutex::new((!nodes.view(false).is_whole()).then_some(grace));
        let repair = Repair::new(config.repair_speed, clock.now());
        let silence = Mutex::new(MassSilence::new(nodes.expected(), clock.now()));
        let [seed, first_order, ..] = draw();
        // Numbers of orders are not used again after a restart, whatever the clock says, and stay
        // below 2^53.
        let orders = AtomicU64::new(first_order >> 12);
        Ok(Main {
            config,
            clock,
            timekeeper,
            catalog,
            cluster,
            incarnation,
            nodes,
            door: Door::default(),
            journal: Journal::new(journal),
            repair,
            survey: Survey::default(),
            recent: Recent::default(),
            silence,
            grace,
            under_way: Mutex::default(),
            deletes: Deletes::default(),
            collecting: Collecting::default(),
            strangers: Strangers::default(),
            waker: upkeep::Waker::default(),
            failed,
            sessions: AtomicU64::new(0),
            orders,
            seed: AtomicU64::new(seed),
            turn: AtomicU64::new(0),
            company: Mutex::default(),
            requests: metrics::Requests::default(),
        })
    }

    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    fn next_order(&self) -> u64 {
        self.orders.fetch_add(1, Ordering::Relaxed)
    }

    fn wake_upkeep(&self) {
        self.waker.wake();
    }

    /// Placement over the nodes as they are now. `placed` takes its turn over.
    fn placer(&self) -> Placer {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let turn = self.turn.load(Ordering::Relaxed);
        let mut candidates = self.nodes.candidates();
        if self.config.repair_speed == RepairSpeed::Unlimited {
            for Candidate { hands, .. } in &mut candidates {
                *hands = Hands::new(hands.orders, hands.bytes, 0);
            }
        }
        Placer::new(self.config.placement, candidates, seed, turn)
    }

    /// As `placer`, for chunks that are being put.
    fn placer_of_puts(&self) -> Placer {
        let company = self.company().clone().at(self.clock.now());
        self.placer().with_company(company)
    }

    /// To be called after the last use of a placer. Requests at the same time may take the same
    /// turn, and the last of them says what company is kept; no harm is done by that.
    fn placed(&self, placer: &Placer) {
        self.turn.store(placer.turn(), Ordering::Relaxed);
        if let Some(company) = placer.company() {
            *self.company() = company.clone();
        }
    }

    /// A value that is replaced as a whole: a panic cannot break it.
    fn company(&self) -> MutexGuard<'_, Company> {
        self.company.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is under way holds no invariant across its lock that a panic could break.
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random words that are no secret.
fn draw() -> [u64; 4] {
    let bytes = *Secret::random().as_bytes();
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    [word(0), word(8), word(16), word(24)]
}
