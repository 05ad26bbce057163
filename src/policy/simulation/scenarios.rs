//! What befalls the cluster.

use std::time::Duration;

use super::server::{Flaws, Sim, Stats};
use crate::ids::NodeId;
use crate::policy::liveness::{Presence, State};

const MINUTE: Duration = Duration::from_secs(60);

/// How large, and how long.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: u32,
    zones: u32,
    chunks: usize,
    disasters: u32,
}

const SMALL: Size = Size { nodes: 300, zones: 20, chunks: 6_000, disasters: 30 };
const LARGE: Size = Size { nodes: 2_000, zones: 100, chunks: 20_000, disasters: 12 };
const LIMIT: u64 = 64 << 20;
/// How far apart fills may be in peace, in parts of a million: two points.
const SPREAD_PPM: u64 = 20_000;

fn settled(seed: u64, size: Size) -> Sim {
    println!("seed {seed}");
    let mut sim = Sim::new(seed, size.nodes, size.zones, Some(LIMIT));
    sim.put(size.chunks);
    sim.run_until_quiet(MINUTE * 600);
    sim
}

impl Sim {
    /// One of those nodes that are there, and no disaster has befallen yet.
    fn any_node(&mut self) -> NodeId {
        loop {
            let node = NodeId(self.world.random.below(self.nodes.len() as u64) as u32);
            if self.presence(node) == Presence::Counts && self.world.machine(node).is_reachable() {
                return node;
            }
        }
    }

    fn span(&mut self, from_s: u64, to_s: u64) -> Duration {
        Duration::from_secs(from_s + self.world.random.below(to_s - from_s))
    }

    /// Cuts off so many zones.
    fn cut_zones(&mut self, zones: &[u32], span: Duration) -> usize {
        let is_in = |node: &NodeId| zones.contains(&self.world.machines[node.0 as usize].zone);
        let nodes: Vec<NodeId> = self.all().filter(is_in).collect();
        let until = self.now + span;
        nodes.iter().for_each(|&node| self.cut(node, until));
        nodes.len()
    }

    fn disaster(&mut self, size: Size) {
        let (now, node) = (self.now, self.any_node());
        let short = now + self.span(5, 50);
        let long = now + self.span(70, 1500);
        match self.world.random.below(10) {
            0 | 1 => self.destroy(node),
            2 => self.blank(node, long),
            3 => self.crash(node, Some(short)),
            4 | 5 => self.crash(node, Some(long)),
            6 => self.stop(node, long, now + MINUTE * 10),
            7 => {
                let zone = self.world.random.below(u64::from(size.zones)) as u32;
                let span = self.span(10, 900);
                self.cut_zones(&[zone], span);
            }
            8 => {
                for _ in 0..4 {
                    let zone = self.world.random.below(u64::from(size.zones)) as u32;
                    let node = self.join(zone);
                    self.compare_soon(node, 1);
                }
                self.put(50);
            }
            _ => {
                self.known(node).is_leaving = true;
                self.nodes_changed();
            }
        }
    }

    fn fill_spread_ppm(&mut self) -> u64 {
        let placer = self.placer();
        let counts = placer.candidates().iter().filter(|c| c.presence() == Presence::Counts);
        let fills: Vec<u64> = counts.map(|c| c.fill_ppm()).collect();
        fills.iter().max().unwrap_or(&0) - fills.iter().min().unwrap_or(&0)
    }

    /// Waits for peace, and checks it. The number of chunks lost.
    fn rest(&mut self) -> usize {
        self.run_until_quiet(MINUTE * 600);
        // The survey of every hour finds what nobody noticed.
        self.run(MINUTE * 61);
        self.run_until_quiet(MINUTE * 600);
        let lost = self.check_peace();
        let spread = self.fill_spread_ppm();
        assert!(spread <= SPREAD_PPM, "fill differs by {spread} ppm");
        lost
    }
}

fn disasters(seed: u64, size: Size, flaws: Flaws) -> Stats {
    let mut sim = settled(seed, size);
    sim.flaws = flaws;
    for _ in 0..size.disasters {
        sim.disaster(size);
        let span = sim.span(1, 90);
        sim.run(span);
    }
    let lost = sim.rest();
    println!("{:?} lost={lost} at {:?}", sim.stats, sim.now);
    assert_eq!(lost, 0);
    sim.stats
}

#[test]
fn whatever_befalls_the_nodes_no_copy_is_lost_by_our_own_doing_and_peace_makes_all_good() {
    for seed in [1, 2, 3] {
        let stats = disasters(seed, SMALL, Flaws::default());
        assert!(stats.copies > 0 && stats.trims > 0 && stats.moves > 0, "{stats:?}");
    }
}

#[test]
fn thousands_of_nodes_behave_no_differently() {
    disasters(4, LARGE, Flaws::default());
}

fn mass_cut(seed: u64, size: Size, flaws: Flaws) -> Stats {
    let mut sim = settled(seed, size);
    sim.flaws = flaws;
    let before = sim.stats;
    let zones: Vec<u32> = (0..size.zones * 2 / 5).collect();
    let cut = sim.cut_zones(&zones, MINUTE * 30);
    sim.run(MINUTE * 20);
    let dead = sim.nodes.iter().filter(|known| known.state == State::Dead).count();
    assert_eq!((dead, sim.stats.doubts), (cut, before.doubts + 1));
    sim.rest();
    assert_eq!(sim.stats.trims, before.trims, "nothing was copied, so nothing is surplus");
    sim.stats
}

#[test]
fn when_many_zones_are_cut_off_together_nothing_is_done_until_they_are_back() {
    for size in [SMALL, LARGE] {
        let stats = mass_cut(5, size, Flaws::default());
        assert_eq!(stats.copies, 0, "{stats:?}");
    }
}

fn mass_death(seed: u64, size: Size) {
    let mut sim = settled(seed, size);
    let nodes: Vec<NodeId> = sim.all().filter(|node| node.0 % 5 < 2).collect();
    nodes.iter().for_each(|&node| sim.destroy(node));
    sim.run(MINUTE * 10);
    assert!(sim.silence.is_doubted());
    assert_eq!(sim.stats.copies, 0);
    sim.silence.adopt();
    sim.nodes_changed();
    let dead: Vec<bool> = (0..sim.chunks.len() as u32).map(|chunk| !sim.survives(chunk)).collect();
    let lost = sim.rest();
    assert_eq!(lost, dead.iter().filter(|is_dead| **is_dead).count());
    assert!(sim.stats.copies > 1000);
}

#[test]
fn a_mass_death_that_a_person_confirms_is_repaired_without_a_storm() {
    mass_death(6, SMALL);
    mass_death(6, LARGE);
}

#[test]
fn a_run_can_be_repeated_by_its_seed() {
    let size = Size { nodes: 60, zones: 6, chunks: 600, disasters: 8 };
    assert_eq!(disasters(7, size, Flaws::default()), disasters(7, size, Flaws::default()));
}

#[test]
#[should_panic(expected = "is trimmed on")]
fn trimming_before_the_copy_is_confirmed_would_be_found_out() {
    disasters(1, SMALL, Flaws { trims_unconfirmed: true, ..Flaws::default() });
}

#[test]
#[should_panic(expected = "though silence is doubted")]
fn believing_a_mass_silence_would_be_found_out() {
    mass_cut(5, SMALL, Flaws { never_doubts: true, ..Flaws::default() });
}

/// With `P2PDFS_SIMULATION_SEED` and `P2PDFS_SIMULATION_RUNS`, from that seed on.
#[test]
#[ignore = "runs for minutes"]
fn many_seeds_at_full_size() {
    let number = |name, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first: u64 = number("P2PDFS_SIMULATION_SEED", 100);
    let size = Size { chunks: 100_000, disasters: 100, ..LARGE };
    for seed in first..first + number("P2PDFS_SIMULATION_RUNS", 3) {
        disasters(seed, size, Flaws::default());
        mass_cut(seed, size, Flaws::default());
        mass_death(seed, size);
    }
}
