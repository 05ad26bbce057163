//! Rows 16, 23, 24, 32: kill -9 of any process at any time, also while it starts, under a load of
//! everything.

use std::time::Instant;

use p2pdfs::wire::to_main::StatusReply;

use crate::harness::mixed::{Mixed, times, took};
use crate::harness::{Random, Setup, TestCluster, is_at_rest};

const NODES: usize = 4;
const COPIES: u8 = 2;

/// Removed files go at once, so that what is deleted meets what is stored, and uploads that were cut off
/// soon: so no number of kills fills the nodes.
const QUICK: [&str; 6] =
    ["--keep-removed", "1ms", "--collect-every", "300ms", "--upload-lease", "60s"];
/// No copy that was deleted by mistake can come back from the trash. With small segments starts are
/// quick, since the last one is verified whole, and compaction has much to do.
const NODE: [&str; 4] = ["--trash-hold", "1ms", "--segment", "16MiB"];

#[test]
fn no_kill_9_under_a_mixed_load_loses_or_revives_anything() {
    let kills = times("P2PDFS_KILLS", 200);
    let mut random = Random::announced();
    let mut cluster = Setup::new(NODES).main_args(&QUICK).node_args(&NODE).start();
    let since = Instant::now();
    let load = Mixed::start(&cluster, 4, COPIES, &mut random);
    let (mut starts, mut starts_killed) = (0, 0);
    for kill in 1..=kills {
        // In the middle of what is under way now.
        load.wait_for_more(random.below(4) as usize);
        let kills_start = random.below(4) == 0;
        let was_early = match random.below(NODES as u64 + 1) {
            0 => {
                cluster.main().kill();
                let was_early = kills_start && cluster.kill_starting_main(&mut random);
                cluster.start_main();
                was_early
            }
            victim => {
                let index = victim as usize - 1;
                cluster.node(index).kill();
                stay_away(&cluster, &load, &mut random);
                let was_early = kills_start && cluster.kill_starting_node(index, &mut random);
                cluster.start_node(index);
                was_early
            }
        };
        starts += usize::from(kills_start);
        starts_killed += usize::from(was_early);
        if kill % 1000 == 0 {
            took(&format!("{kill} kills"), since);
        }
    }
    eprintln!(
        "of {starts} starts that were killed, {starts_killed} were before the server was ready"
    );
    let mut expected = load.stop();
    cluster.wait_alive(NODES);
    cluster.wait_status("every chunk has its copies, and no more", is_at_rest);
    expected.assert_kept(&cluster);
    let witness = cluster.stop_and_check();
    expected.assert_exact(&witness, COPIES.into());
    took("all", since);
}

/// Now and then a killed node stays away for a while, and sometimes until its copies are made elsewhere:
/// when it comes back, they are too many.
fn stay_away(cluster: &TestCluster, load: &Mixed, random: &mut Random) {
    match random.below(50) {
        0 => {
            let states = |s: &StatusReply| s.nodes.iter().any(|node| node.state == "dead");
            cluster.wait_status("the node is dead", states);
            load.wait_for_more(random.below(20) as usize);
        }
        1..10 => load.wait_for_more(random.below(3) as usize),
        _ => {}
    }
}

#[test]
fn a_restart_of_the_main_server_fails_no_operation_that_had_time_to_succeed() {
    let mut random = Random::announced();
    let mut cluster = TestCluster::start(3);
    let load = Mixed::start(&cluster, 4, 2, &mut random);
    for _ in 0..10 {
        load.wait_for_more(1 + random.below(5) as usize);
        cluster.main().kill();
        cluster.start_main();
    }
    // The clients waited for it: every operation came to a good end.
    load.assert_all_acknowledged();
    let mut expected = load.stop();
    expected.assert_kept(&cluster);
    cluster.stop_and_check();
}
