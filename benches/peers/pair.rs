//! One round: both clusters are brought up, and take turns workload by workload.

use std::path::Path;
use std::sync::atomic::Ordering;

use p2pdfs::cli::bench::content::Content;
use p2pdfs::cli::bench::interrupt::Interrupt;
use p2pdfs::cli::bench::place::{Own, Scratch};
use p2pdfs::cli::bench::report::ComparedTotals;
use p2pdfs::cli::bench::usage::Process;
use p2pdfs::cli::bench::workloads::{Compared, Round as OwnRound, Sizes, Workload};
use p2pdfs::cli::exit::{Exit, Failure};
use p2pdfs::cli::output::failure;
use p2pdfs::cli::size::ByteSize;
use p2pdfs::client::Client;
use p2pdfs::remote_path::RemotePath;

use crate::report::{Results, System};
use crate::round::Round as TheirRound;
use crate::weed::SeaweedFs;

const NODES: u32 = 3;

/// What a round needs.
pub struct Pair<'a> {
    pub number: u32,
    pub weed: &'a Path,
    pub interrupt: &'a Interrupt,
    /// A directory for all of it.
    pub place: &'a Path,
    pub sizes: &'a Sizes,
}

impl Pair<'_> {
    /// Measures workloads on clusters that are there for this round alone.
    pub fn measure(
        &self,
        workloads: &[Workload],
        results: &mut Results,
        compared: &mut ComparedTotals,
    ) -> Result<(), Failure> {
        let sizes = self.sizes;
        let space = ByteSize(sizes.size_bytes.saturating_mul(2).saturating_add(10 << 30));
        let own = Own::start(self.place, NODES, sizes.copies, space)?;
        let theirs = SeaweedFs::start(self.weed, self.place, self.interrupt)?;
        let client = own.client(self.interrupt)?;
        let content = Content::random()
            .map_err(|e| Failure::because(Exit::Failed, "the system gives no random number", &e))?;
        let own_processes = with_client(own.processes());
        let their_processes = with_client(theirs.processes());
        let their_sources = Scratch::new(Some(self.place))?;
        let mut own_round = self.own_round(&client, &own_processes, content)?;
        let mut their_round = TheirRound {
            cluster: &theirs,
            interrupt: self.interrupt,
            sources: their_sources.path(),
            sizes,
            processes: &their_processes,
            content,
            compared: Compared::default(),
            has_large: false,
            tree: Vec::new(),
        };
        for &workload in workloads {
            // Who is first changes, so that what one leaves behind burdens both.
            if self.number % 2 == 1 {
                self.measure_own(&mut own_round, workload, results)?;
                self.measure_theirs(&mut their_round, workload, results)?;
            } else {
                self.measure_theirs(&mut their_round, workload, results)?;
                self.measure_own(&mut own_round, workload, results)?;
            }
        }
        for of_one in [&own_round.compared, &their_round.compared] {
            compared.files += of_one.files.load(Ordering::Relaxed);
            compared.bytes += of_one.bytes.load(Ordering::Relaxed);
        }
        own.remove()?;
        theirs.remove()
    }

    fn own_round<'a>(
        &'a self,
        client: &'a Client,
        processes: &'a [Process],
        content: Content,
    ) -> Result<OwnRound<'a>, Failure> {
        let store: RemotePath = "/bench".parse().expect("it is a plain path");
        let made = client.make_directory(&store, true);
        made.map_err(|error| failure(&format!("cannot make {store}"), &error))?;
        Ok(OwnRound {
            client,
            interrupt: self.interrupt,
            store,
            sources: self.place,
            disk: self.place,
            sizes: self.sizes,
            processes,
            content,
            compared: Compared::default(),
            has_large: false,
            has_tree: false,
        })
    }

    fn measure_own(
        &self,
        round: &mut OwnRound<'_>,
        workload: Workload,
        results: &mut Results,
    ) -> Result<(), Failure> {
        let measured = round.measure(workload, &|_| {})?;
        results.add(workload, System::P2pdfs, &measured.run, Some(&measured.usage));
        results.add(workload, System::Machine, &measured.limit, None);
        let (name, rate) = (workload.name(), results.last(workload, System::P2pdfs));
        eprintln!("round {}: {name}: p2pdfs {rate}", self.number);
        Ok(())
    }

    fn measure_theirs(
        &self,
        round: &mut TheirRound<'_>,
        workload: Workload,
        results: &mut Results,
    ) -> Result<(), Failure> {
        for figures in round.measure(workload)? {
            let system = System::SeaweedFs(figures.way);
            results.add(workload, system, &figures.run, Some(&figures.usage));
            let (name, rate) = (workload.name(), results.last(workload, system));
            let who = figures.way.in_words(workload);
            eprintln!("round {}: {name}: {who} {rate}", self.number);
        }
        Ok(())
    }
}

fn with_client(servers: Vec<Process>) -> Vec<Process> {
    std::iter::once(Process::client()).chain(servers).collect()
}
