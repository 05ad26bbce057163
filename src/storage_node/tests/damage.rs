//! A damaged copy.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::ids::Serial;
use crate::segments::{BadSectors, check};
use crate::storage_node::{Node, NodeConfig, ScrubConfig, ScrubRate};
use crate::token::Operation;
use crate::wire::FaultCode;
use crate::wire::node_to_main::{Action, Order, ScrubState};

use super::fake_main::{FakeMain, Told};
use super::talk::*;

/// Restarts the node, and flips a bit of a segment under it, `at` bytes into the chunk's record: a
/// start would find the damage by itself.
fn restart_and_flip(
    node: Running,
    serial: u64,
    at: u64,
    change: impl FnOnce(&mut NodeConfig),
) -> Running {
    let Running { directory, node } = node;
    node.stop();
    let report = check::check(directory.path()).unwrap();
    let chunk = report.chunk(Serial(serial)).unwrap();
    let path = directory.path().join("segments").join(format!("{:08}.seg", chunk.segment));
    let mut config = NodeConfig::new(directory.path());
    change(&mut config);
    let node = Node::start(config).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, chunk.offset + at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], chunk.offset + at).unwrap();
    Running { directory, node }
}

#[test]
fn a_damaged_copy_is_never_served_and_is_reported_lost_once() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    let bytes = vec![9; 200_000];
    store(&main, &node.node, 1, &bytes).unwrap();
    store(&main, &node.node, 2, b"whole").unwrap();
    let node = restart_and_flip(node, 1, 150_000, |_| {});
    let fault = fetch(&main, &node.node, 1, &bytes).unwrap_err();
    assert_eq!(fault.code, FaultCode::Damaged);
    main.await_told(|told| *told == Told::Lost { node: number, serials: vec![Serial(1)] });
    assert_eq!(fetch(&main, &node.node, 1, &bytes).unwrap_err().code, FaultCode::NotFound);
    assert_eq!(fetch(&main, &node.node, 2, b"whole").unwrap(), b"whole");
    assert_eq!(main.held(number).into_iter().collect::<Vec<_>>(), [Serial(2)]);
    // Stored again, it is whole again.
    store(&main, &node.node, 1, &bytes).unwrap();
    assert_eq!(fetch(&main, &node.node, 1, &bytes).unwrap(), bytes);
}

#[test]
fn damage_that_a_start_finds_is_counted_and_what_it_hit_is_lost() {
    let main = FakeMain::start();
    let node = join(&main);
    let bytes = vec![9; 200_000];
    store(&main, &node.node, 1, &bytes).unwrap();
    store(&main, &node.node, 2, b"whole").unwrap();
    let node = restart_and_flip(node, 1, 150_000, |_| {}).restart();
    assert_eq!(node.node.counters().damaged(), 1);
    assert_eq!(main.held(node.number()).into_iter().collect::<Vec<_>>(), [Serial(2)]);
}

/// The append dropped the damaged copy, failed to write the new one, and nobody was told.
#[test]
fn a_damaged_copy_for_whose_new_one_there_is_no_room_is_reported_lost() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    let bytes = vec![9; 200_000];
    store(&main, &node.node, 1, &bytes).unwrap();
    let node = restart_and_flip(node, 1, 150_000, |config| config.space_bytes = Some(1));
    let fault = store(&main, &node.node, 1, &bytes).unwrap_err();
    assert_eq!(fault.code, FaultCode::NoSpace);
    main.await_told(|told| *told == Told::Lost { node: number, serials: vec![Serial(1)] });
    assert!(main.held(number).is_empty());
}

#[test]
fn a_scrub_finds_a_damaged_copy_that_nobody_reads_and_says_how_far_it_is() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    for serial in 1..=3 {
        store(&main, &node.node, serial, &[serial as u8; 200_000]).unwrap();
    }
    let node = restart_and_flip(node, 2, 150_000, |config| {
        config.scrub = ScrubConfig { rate: ScrubRate::Unlimited, every: Duration::from_millis(10) };
    });
    main.await_told(|told| *told == Told::Lost { node: number, serials: vec![Serial(2)] });
    let found = |told: &Told| match told {
        Told::Beat { damaged, scrub, .. } => {
            *damaged == 1 && scrub.passes > 0 && scrub.total_bytes > 400_000
        }
        _ => false,
    };
    // The copies that are whole are read on and on.
    loop {
        main.announce(|books| books.announce.push(crate::ids::KeyId(1)));
        if found(&main.await_told(|told| matches!(told, Told::Beat { .. }))) {
            break;
        }
    }
    assert_eq!(fetch(&main, &node.node, 1, &[1; 200_000]).unwrap(), [1; 200_000]);
    let held: Vec<_> = node.check().chunks.iter().map(|chunk| chunk.serial.0).collect();
    assert_eq!(held, [1, 3]);
}

#[test]
fn a_scrub_goes_on_where_the_last_start_left_it() {
    let main = FakeMain::start();
    let small = |config: &mut NodeConfig| config.segment_bytes = 64 << 10;
    let node = join_with(&main, |config| {
        small(config);
        config.scrub.rate = ScrubRate::Off;
    });
    let number = node.number();
    for serial in 1..=30 {
        store(&main, &node.node, serial, &[serial as u8; 10_000]).unwrap();
    }
    let scrub_once = |config: &mut NodeConfig| {
        small(config);
        let every = Duration::from_secs(3600);
        config.scrub = ScrubConfig { rate: ScrubRate::Unlimited, every };
    };
    let path = node.directory.path().join("scrub.json");
    fs::write(&path, r#"{"segment": 3, "done_bytes": 1000}"#).unwrap();
    // In the first segment.
    let node = restart_and_flip(node, 1, 5_000, scrub_once);
    await_beat(&main, |scrub| scrub.passes == 1);
    assert_eq!(node.node.counters().damaged(), 0);
    assert!(!path.exists());
    let Running { directory, node } = node;
    node.stop();
    let mut config = NodeConfig::new(directory.path());
    scrub_once(&mut config);
    let _node = Node::start(config).unwrap();
    main.await_told(|told| *told == Told::Lost { node: number, serials: vec![Serial(1)] });
}

/// Waits until a heartbeat says so of the scrub.
fn await_beat(main: &FakeMain, is_so: impl Fn(&ScrubState) -> bool) {
    loop {
        main.announce(|books| books.announce.push(crate::ids::KeyId(1)));
        let told = main.await_told(|told| matches!(told, Told::Beat { .. }));
        if matches!(&told, Told::Beat { scrub, .. } if is_so(scrub)) {
            return;
        }
    }
}

#[test]
fn an_order_to_verify_finds_a_damaged_copy() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    let bytes = vec![9; 100_000];
    for serial in [1, 2] {
        store(&main, &node.node, serial, &bytes).unwrap();
    }
    let _node = restart_and_flip(node, 1, 90_000, |_| {});
    let order = |order: u64| {
        let token = main.token(Operation::Fetch, number, order, &bytes);
        (number, Order { order, token, action: Action::Verify {} })
    };
    let orders = [order(1), order(2)];
    main.announce(|books| books.orders.extend(orders));
    main.await_told(|told| *told == Told::Lost { node: number, serials: vec![Serial(1)] });
    main.await_obeyed();
    assert_eq!(main.held(number).into_iter().collect::<Vec<_>>(), [Serial(2)]);
}

#[test]
fn a_copy_that_the_disk_cannot_read_is_lost_until_it_can_and_is_told_of_once() {
    let main = FakeMain::start();
    let scrub = ScrubConfig { rate: ScrubRate::Unlimited, every: Duration::from_millis(10) };
    let node = join_with(&main, |config| config.scrub = scrub);
    let number = node.number();
    let bytes = vec![9; 200_000];
    store(&main, &node.node, 1, &bytes).unwrap();
    store(&main, &node.node, 2, b"whole").unwrap();
    let path = node.directory.path().join("segments/00000001.seg");
    let failing = BadSectors::of(&path, 100_000..100_001);
    main.await_told(|told| *told == Told::Lost { node: number, serials: vec![Serial(1)] });
    assert_eq!(fetch(&main, &node.node, 1, &bytes).unwrap_err().code, FaultCode::NotFound);
    assert_eq!(fetch(&main, &node.node, 2, b"whole").unwrap(), b"whole");
    await_passes(&main, 2);
    let counters = node.node.counters();
    assert_eq!((counters.unreadable(), counters.damaged()), (1, 0));
    drop(failing);
    main.announce(|books| books.announce.push(crate::ids::KeyId(1)));
    let compared = Told::Compared { node: number };
    let is_next = |told: &Told| matches!(told, Told::Beat { .. }) || *told == compared;
    while main.await_told(is_next) != compared {
        main.announce(|books| books.announce.push(crate::ids::KeyId(1)));
    }
    assert_eq!(main.held(number).into_iter().collect::<Vec<_>>(), [Serial(1), Serial(2)]);
    assert_eq!(fetch(&main, &node.node, 1, &bytes).unwrap(), bytes);
}

/// Waits until everything was scrubbed so many times more.
fn await_passes(main: &FakeMain, count: u64) {
    let mut first = None;
    loop {
        main.announce(|books| books.announce.push(crate::ids::KeyId(1)));
        let told = main.await_told(|told| matches!(told, Told::Beat { .. } | Told::Lost { .. }));
        let Told::Beat { scrub, damaged, .. } = told else { panic!("told again: {told:?}") };
        assert_eq!(damaged, 1);
        if scrub.passes >= *first.get_or_insert(scrub.passes) + count {
            return;
        }
    }
}
