//! Removals: by whose word, what of them comes back, and whose space.

use std::thread;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::ids::{BooksMark, ChunkId, HashAlgorithm, Incarnation, KeyId, NodeId, Serial};
use crate::token::{Claims, Operation};
use crate::wire::node_to_main::{Action, Order};
use crate::wire::{Fault, FaultCode};

use super::fake_main::{Books, DEADLINE, FakeMain, TIME, Told};
use super::talk::*;

/// An order to remove, good but for what `change` changes in its token.
fn removal(
    main: &FakeMain,
    node: NodeId,
    order: u64,
    serials: &[u64],
    change: impl FnOnce(&mut Claims),
) -> (NodeId, Order) {
    let list: Vec<u8> = serials.iter().flat_map(|serial| serial.to_be_bytes()).collect();
    let books = main.books();
    let id = ChunkId::of(HashAlgorithm::Blake3, &list);
    let mut claims = books.claims(Operation::Remove, node, id, serials[0]);
    claims.length = list.len() as u32;
    change(&mut claims);
    let serials: Vec<Serial> = serials.iter().map(|serial| Serial(*serial)).collect();
    let action = Action::Remove { serials: serials.into(), purge: false };
    (node, Order { order, token: books.mint(&claims), action })
}

pub(super) fn bytes(serial: u64) -> Vec<u8> {
    format!("chunk {serial}").into_bytes()
}

pub(super) fn with_chunks(main: &FakeMain, count: u64) -> Running {
    let node = join(main);
    for serial in 1..=count {
        store(main, &node.node, serial, &bytes(serial)).unwrap();
    }
    node
}

pub(super) fn is_held(main: &FakeMain, node: &Running, serial: u64) -> bool {
    match fetch(main, &node.node, serial, &bytes(serial)) {
        Ok(_) => true,
        Err(fault) if fault.code == FaultCode::NotFound => false,
        Err(fault) => panic!("{fault}"),
    }
}

pub(super) fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to this");
        thread::yield_now();
    }
}

/// Waits for two more heartbeats: by the second one, what came in answer to the first was judged.
pub(super) fn await_beats(main: &FakeMain) {
    main.told_so_far();
    for _ in 0..2 {
        main.announce(|books| books.announce.push(KeyId(1)));
        main.await_told(|told| matches!(told, Told::Beat { .. }));
    }
}

#[test]
fn what_is_ordered_removed_is_gone_for_good_before_it_is_acknowledged_and_a_repeat_is_harmless() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 3);
    // One of them was never there.
    let order = |number| removal(&main, node.number(), number, &[1, 3, 99], |_| {});
    let orders = [order(1)];
    main.announce(|books| books.orders.extend(orders));
    main.await_obeyed();
    let held = |node: &Running| [1, 2, 3].map(|serial| is_held(&main, node, serial));
    assert_eq!(held(&node), [false, true, false]);
    let orders = [order(1), order(2)];
    main.announce(|books| books.orders.extend(orders));
    main.await_obeyed();
    assert_eq!(held(&node), [false, true, false]);
    let report = node.check();
    assert!(report.is_sound());
    assert_eq!(report.chunks.iter().map(|chunk| chunk.serial.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_removal_whose_token_is_not_for_these_very_serials_is_neither_done_nor_acknowledged() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 2);
    let number = node.number();
    let other = {
        let list: Vec<u8> = [1_u64, 3].iter().flat_map(|serial| serial.to_be_bytes()).collect();
        ChunkId::of(HashAlgorithm::Blake3, &list)
    };
    let bad = [
        removal(&main, number, 1, &[1, 2], |claims| claims.operation = Operation::Fetch),
        removal(&main, number, 2, &[1, 2], |claims| claims.id = other),
        removal(&main, number, 3, &[1, 2], |claims| claims.length = 8),
        removal(&main, number, 4, &[1, 2], |claims| claims.node = NodeId(77)),
        removal(&main, number, 5, &[1, 2], |claims| claims.key = KeyId(9)),
    ];
    main.announce(|books| books.orders.extend(bad));
    await_beats(&main);
    assert_eq!(main.books().orders.len(), 5);
    let good = removal(&main, number, 6, &[2], |_| {});
    main.announce(|books| books.orders.push(good));
    main.await_told(|told| *told == Told::Acknowledged { node: number, orders: vec![6] });
    assert_eq!([1, 2].map(|serial| is_held(&main, &node, serial)), [true, false]);
}

#[test]
fn a_main_server_that_is_not_adopted_removes_nothing_until_it_is() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 2);
    let number = node.number();
    let (mut books, address) = main.stop();
    (books.incarnation, books.is_adopted) = (Incarnation::random(), false);
    let main = FakeMain::with(books, address);
    main.await_told(|told| *told == Told::Compared { node: number });
    let order = removal(&main, number, 1, &[1], |_| {});
    main.announce(|books| books.orders.push(order));
    await_beats(&main);
    main.await_told(|told| *told == Told::Unadopted { node: number });
    assert!(is_held(&main, &node, 1) && main.books().orders.len() == 1);
    // Reading and storing go on.
    store(&main, &node.node, 3, &bytes(3)).unwrap();
    // A person adopts it, for which it has its nodes added anew.
    main.announce(|books| {
        books.is_adopted = true;
        books.heartbeat_fault = Some(crate::wire::Fault::new(FaultCode::Busy, "add again"));
    });
    main.await_obeyed();
    assert_eq!([1, 2].map(|serial| is_held(&main, &node, serial)), [false, true]);
}

/// The books of the next main server count what the one before wanted removed.
#[test]
fn a_removal_that_waits_is_not_done_after_another_main_server_was_told_what_is_here() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 1);
    let number = node.number();
    let orders = &node.node.shared.orders;
    let claims = main.books().claims(Operation::Remove, number, blake3(b""), 1);
    let under_way = orders.as_if_removing(claims);
    let order = removal(&main, number, 1, &[1], |_| {});
    main.announce(|books| books.orders.push(order));
    wait_until(|| orders.has_open());
    let (mut books, address) = main.stop();
    (books.incarnation, books.orders) = (Incarnation::random(), Vec::new());
    let main = FakeMain::with(books, address);
    wait_until(|| !orders.has_open());
    let added = |told: &Told| matches!(told, Told::AddMe { .. });
    assert!(!main.told_so_far().iter().any(added), "one is under way still");
    drop(under_way);
    main.await_told(|told| *told == Told::Compared { node: number });
    await_beats(&main);
    assert!(is_held(&main, &node, 1));
}

/// The mark in a node's `node.json`.
fn saved_mark(node: &Running) -> Option<u64> {
    let text = std::fs::read(node.directory.path().join("node.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    file["main_mark"].as_u64()
}

#[test]
fn how_far_the_books_were_is_on_disk_before_a_removal_and_is_told_to_the_next_main_server() {
    let main = FakeMain::start();
    main.announce(|books| books.mark = Some(BooksMark(7)));
    let node = with_chunks(&main, 1);
    let number = node.number();
    assert_eq!(saved_mark(&node), Some(7));
    main.announce(|books| books.mark = Some(BooksMark(8)));
    await_beats(&main);
    assert_eq!(saved_mark(&node), Some(7), "not with each heartbeat");
    let order = removal(&main, number, 1, &[1], |_| {});
    main.announce(|books| (books.mark, books.orders) = (Some(BooksMark(9)), vec![order]));
    main.await_obeyed();
    assert_eq!(saved_mark(&node), Some(9));

    main.announce(|books| books.mark = Some(BooksMark(11)));
    await_beats(&main);
    let tried = |main: &FakeMain| match main.await_told(|told| matches!(told, Told::Tried { .. })) {
        Told::Tried { mark, .. } => mark.map(|mark| mark.0),
        _ => unreachable!("nothing else was waited for"),
    };
    let (mut books, address) = main.stop();
    // An older life of it, which says so for as long as it is not adopted.
    (books.incarnation, books.is_adopted) = (Incarnation::random(), false);
    books.mark = Some(BooksMark(100));
    let main = FakeMain::with(books, address);
    assert_eq!(tried(&main), Some(11));
    main.await_told(|told| *told == Told::Compared { node: number });
    await_beats(&main);
    assert_eq!(saved_mark(&node), Some(11), "another process of this node would say the same");
    let node = node.restart();
    assert_eq!(tried(&main), Some(11));
    // Once it is, it is the one to be held against.
    main.told_so_far();
    main.announce(|books| (books.is_adopted, books.mark) = (true, Some(BooksMark(3))));
    let node = node.restart();
    assert_eq!((tried(&main), saved_mark(&node)), (Some(11), Some(3)));
    main.announce(|books| books.mark = Some(BooksMark(4)));
    await_beats(&main);
    let _node = node.restart();
    assert_eq!(tried(&main), Some(4), "an orderly stop forgets nothing");
}

#[test]
fn what_the_books_count_on_comes_back_from_the_trash() {
    let main = FakeMain::start();
    let clock = Clock::manual(TIME);
    let node = join_with(&main, |config| config.clock = clock.clone());
    let number = node.number();
    for serial in 1..=3 {
        store(&main, &node.node, serial, &bytes(serial)).unwrap();
    }
    let order = removal(&main, number, 1, &[1, 2], |_| {});
    main.announce(|books| books.orders.push(order));
    main.await_obeyed();
    // An older catalog comes back, in which the first of them still counts.
    clock.advance(Duration::from_secs(60));
    let (mut books, address) = main.stop();
    books.copies.get_mut(&number).unwrap().remove(&Serial(2));
    books.restore.insert(Serial(1));
    books.incarnation = Incarnation::random();
    let main = FakeMain::with(books, address);
    let listed = |told: Told| match told {
        Told::Holdings { held, .. } => {
            held.iter().map(|held| (held.serial.0, held.trashed)).collect::<Vec<_>>()
        }
        _ => unreachable!("nothing else was waited for"),
    };
    let await_listed = || listed(main.await_told(|told| matches!(told, Told::Holdings { .. })));
    assert_eq!(await_listed(), [(1, true), (2, true), (3, false)]);
    assert_eq!(await_listed(), [(1, false), (2, true), (3, false)]);
    main.await_told(|told| *told == Told::Compared { node: number });
    assert_eq!([1, 2, 3].map(|serial| is_held(&main, &node, serial)), [true, false, true]);
    assert_eq!(main.held(number).into_iter().collect::<Vec<_>>(), [Serial(1), Serial(3)]);
    // For good.
    let report = node.check();
    assert_eq!(report.chunks.iter().map(|chunk| chunk.serial.0).collect::<Vec<_>>(), [1, 3]);
}

/// Stores the chunk while the main server puts the confirmation off as `put_off` says, and has it
/// removed. Then `while_under_way` sees to the rest; the answer to the store is returned.
fn removed_while_it_is_confirmed(
    main: &FakeMain,
    node: &Running,
    put_off: impl FnOnce(&mut Books),
    while_under_way: impl FnOnce(),
) -> Stored {
    main.announce(put_off);
    thread::scope(|scope| {
        let storing = scope.spawn(|| store(main, &node.node, 1, &bytes(1)));
        main.await_told(|told| *told == Told::PutOff);
        let order = removal(main, node.number(), 1, &[1], |_| {});
        main.announce(|books| books.orders.push(order));
        while_under_way();
        storing.join().unwrap()
    })
}

/// A confirmation that waited while its copy was removed was sent once more after the removal was
/// acknowledged, and counted.
#[test]
fn a_copy_that_was_removed_before_the_main_server_knew_of_it_is_never_told_of() {
    let main = FakeMain::start();
    let node = join(&main);
    let busy = Fault::new(FaultCode::Busy, "later");
    let put_off = |books: &mut Books| books.stored_fault = Some(busy);
    let stored = removed_while_it_is_confirmed(&main, &node, put_off, || {
        main.await_obeyed();
        main.announce(|books| books.stored_fault = None);
    });
    let fault = stored.unwrap_err();
    assert_eq!((fault.code, fault.retryable), (FaultCode::Busy, true));
    assert!(main.held(node.number()).is_empty() && !is_held(&main, &node, 1));
    // Stored again, it counts.
    store(&main, &node.node, 1, &bytes(1)).unwrap();
    assert!(main.held(node.number()).contains(&Serial(1)) && is_held(&main, &node, 1));
}

#[test]
fn a_removal_is_not_acknowledged_before_a_confirmation_that_was_on_its_way_has_arrived() {
    let main = FakeMain::start();
    let node = join(&main);
    let put_off = |books: &mut Books| books.stored_hangs = true;
    let stored = removed_while_it_is_confirmed(&main, &node, put_off, || {
        while is_held(&main, &node, 1) {
            thread::yield_now();
        }
        // Time enough to acknowledge it.
        await_beats(&main);
        assert_eq!(main.books().orders.len(), 1);
        main.announce(|books| books.stored_hangs = false);
        main.await_obeyed();
    });
    assert!(stored.is_ok() && main.held(node.number()).contains(&Serial(1)));
}

/// The one that was compared last came back after another had adopted the node, and was taken at its
/// word without being asked who it is.
#[test]
fn of_two_main_servers_that_take_turns_each_is_asked_again_whether_it_is_adopted() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 1);
    let number = node.number();
    let start_of = |mut books: Books, address, is_adopted| {
        books.incarnation = Incarnation::random();
        books.is_adopted = is_adopted;
        FakeMain::with(books, address)
    };
    let (books, address) = main.stop();
    let stale = start_of(books, address, false);
    stale.await_told(|told| matches!(told, Told::Unadopted { .. }));
    let (stale_books, _) = stale.stop();
    let mut books = stale_books.clone();
    // Its comparison never comes to an end.
    books.stored_fault = Some(Fault::new(FaultCode::Busy, "later"));
    let main = start_of(books, address, true);
    main.await_told(|told| *told == Told::PutOff);
    main.stop();
    let stale = FakeMain::with(stale_books, address);
    let order = removal(&stale, number, 1, &[1], |_| {});
    stale.announce(|books| books.orders.push(order));
    stale.await_told(|told| {
        let obeyed = matches!(told, Told::Acknowledged { orders, .. } if !orders.is_empty());
        obeyed || matches!(told, Told::Unadopted { .. })
    });
    assert!(is_held(&stale, &node, 1));
}

#[test]
fn what_was_removed_within_the_last_minute_is_not_confirmed_to_a_main_server_that_started_anew() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 2);
    let number = node.number();
    let order = removal(&main, number, 1, &[1], |_| {});
    main.announce(|books| books.orders.push(order));
    main.await_obeyed();
    let (mut books, address) = main.stop();
    books.incarnation = Incarnation::random();
    let main = FakeMain::with(books, address);
    let confirmed = main.await_told(|told| matches!(told, Told::Stored { .. }));
    assert_eq!(confirmed, Told::Stored { node: number, serial: Serial(2) });
    main.await_told(|told| *told == Told::Compared { node: number });
    assert_eq!(main.held(number).into_iter().collect::<Vec<_>>(), [Serial(2)]);
}

#[test]
fn a_heartbeat_tells_trash_from_what_is_used() {
    let main = FakeMain::start();
    let node = join(&main);
    store(&main, &node.node, 1, &[7; 100_000]).unwrap();
    let beat = |wanted: fn(u64, u64) -> bool| {
        main.announce(|books| books.announce.push(KeyId(1)));
        main.await_told(|told| match told {
            Told::Beat { space, .. } => wanted(space.used_bytes, space.trash_bytes),
            _ => false,
        });
    };
    beat(|used, trash| used > 100_000 && trash == 0);
    let order = removal(&main, node.number(), 1, &[1], |_| {});
    main.announce(|books| books.orders.push(order));
    main.await_obeyed();
    beat(|used, trash| used < 100_000 && trash > 100_000);
}

#[test]
fn the_space_of_what_was_removed_is_free_again_while_the_node_serves() {
    let main = FakeMain::start();
    let node = join_with(&main, |config| config.segment_bytes = 64 << 10);
    let number = node.number();
    let bytes = |serial: u64| vec![serial as u8; 10_000];
    for serial in 1..=40 {
        store(&main, &node.node, serial, &bytes(serial)).unwrap();
    }
    let used = || node.node.shared.member().unwrap().store.space().used;
    let before = used();
    // Of each file less than half stays.
    let gone: Vec<u64> = (1..=40).filter(|serial| *serial % 4 != 0).collect();
    let (number, mut order) = removal(&main, number, 1, &gone, |_| {});
    if let Action::Remove { purge, .. } = &mut order.action {
        *purge = true;
    }
    main.announce(|books| books.orders.push((number, order)));
    main.await_obeyed();
    while used() > before / 2 {
        await_beats(&main);
    }
    let mut page = crate::metrics::Page::default();
    node.node.metrics()(&mut page);
    let text = page.text();
    for sum in ["compacted_segments", "compaction_copied_bytes", "compaction_freed_bytes"] {
        let line = format!("\np2pdfs_node_{sum}_total ");
        let value = text.split(&line).nth(1).expect("it is there").lines().next();
        assert_ne!(value, Some("0"), "{sum} in:\n{text}");
    }
    for serial in (1..=40).filter(|serial| *serial % 4 == 0) {
        assert_eq!(fetch(&main, &node.node, serial, &bytes(serial)).unwrap(), bytes(serial));
    }
    assert!(node.check().is_sound());
}
