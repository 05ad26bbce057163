//! Rows 16, 23, 32: kill -9 of any process at any time, under load.

use crate::harness::load::Load;
use crate::harness::{Random, TestCluster};

/// Kills of the whole test, of the main server and of nodes.
const KILLS: usize = 24;

#[test]
fn what_was_acknowledged_outlives_any_number_of_kill_9() {
    let mut random = Random::announced();
    let mut cluster = TestCluster::start(3);
    let load = Load::start(&cluster, 4, 2, &mut random);
    for _ in 0..KILLS {
        // In the middle of the puts that are under way now.
        load.wait_for_more(1 + random.below(4) as usize);
        match random.below(4) {
            0 => {
                cluster.main().kill();
                cluster.start_main();
            }
            victim => {
                let index = victim as usize - 1;
                cluster.node(index).kill();
                // Now and then puts go on for a while without the node.
                load.wait_for_more(random.below(3) as usize);
                cluster.start_node(index);
            }
        }
    }
    cluster.wait_alive(3);
    let puts = load.stop();
    puts.assert_kept(&cluster);
    let witness = cluster.stop_and_check();
    puts.assert_copied(&witness, 2);
}
