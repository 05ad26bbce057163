//! What the queue promises, in examples and as properties.

use proptest::prelude::*;

use super::*;
use crate::policy::repair::Risk;

const SOON: Moment = Moment(0);

fn urgency(copies: u8) -> Urgency {
    Urgency { risk: Risk::Copies(copies), is_idle: false, since: SOON }
}

fn batch(queue: &mut Queue) -> Vec<Task> {
    queue.next_batch(SOON)
}

fn add(queue: &mut Queue, serial: u64) -> bool {
    queue.add(Serial(serial), urgency(2))
}

#[test]
fn a_chunk_that_waits_is_judged_again_when_it_loses_a_copy() {
    let mut queue = Queue::default();
    add(&mut queue, 1);
    let task = batch(&mut queue)[0];
    queue.wait(task);
    assert!(batch(&mut queue).is_empty());
    add(&mut queue, 1);
    assert_eq!(batch(&mut queue), [task]);
}

/// A node that came was not asked before the time of those that had failed was over.
#[test]
fn a_chunk_whose_targets_failed_is_tried_again_after_a_while_and_at_once_when_a_node_comes() {
    let mut queue = Queue::default();
    add(&mut queue, 1);
    let minute = Duration::from_secs(60);
    let task = queue.next_batch(Moment(0))[0];
    queue.close(task, Moment(0));
    let task = queue.next_batch(Moment(0))[0];
    assert!(task.not_before > Moment(0));
    queue.wait_until(task, Moment(0) + minute);
    assert_eq!((queue.waiting(), queue.next_look()), (1, Some(Moment(0) + minute)));
    assert!(queue.next_batch(Moment(1)).is_empty());
    queue.retry_waiting();
    let retried = queue.next_batch(Moment(1));
    assert_eq!(retried, [Task { not_before: Moment(0), ..task }]);
    queue.wait_until(retried[0], Moment(0) + minute);
    assert_eq!(queue.next_batch(Moment(0) + minute).len(), 1);
    assert_eq!((queue.waiting(), queue.next_look()), (0, None));
}

#[test]
fn news_that_comes_while_a_chunk_is_judged_is_not_forgotten() {
    let mut queue = Queue::default();
    add(&mut queue, 1);
    let task = batch(&mut queue)[0];
    // Its record was read; now it loses a copy, and then the verdict on the old record falls.
    add(&mut queue, 1);
    queue.forget(task);
    assert_eq!(batch(&mut queue), [task]);
    add(&mut queue, 1);
    queue.wait(task);
    assert_eq!(batch(&mut queue), [task]);
    queue.retry_waiting();
    queue.wait(task);
    assert_eq!(batch(&mut queue), [task], "a node came back while it was judged");
    queue.forget(task);
    assert!(batch(&mut queue).is_empty() && queue.is_empty());
}

#[test]
fn chunks_that_wait_give_way_to_one_about_which_something_can_be_done() {
    let mut queue = Queue::new(100);
    for serial in 0..100 {
        add(&mut queue, serial);
        let task = batch(&mut queue)[0];
        queue.wait(task);
    }
    assert_eq!(queue.len(), 100);
    assert!(add(&mut queue, 1 << 40));
    assert_eq!(batch(&mut queue)[0].serial, Serial(1 << 40));
    assert_eq!((queue.len(), queue.displaced()), (100, 1));
    assert!(!queue.wants_survey(), "nothing could be done about it anyway");
    queue.retry_waiting();
    batch(&mut queue).into_iter().for_each(|task| queue.forget(task));
    assert!(queue.wants_survey(), "the one that gave way is found again");
    assert!(!queue.wants_survey());
}

#[test]
fn a_more_urgent_chunk_always_gets_in_and_a_less_urgent_one_is_found_again() {
    let mut queue = Queue::new(10);
    assert!((0..10).all(|serial| add(&mut queue, serial)));
    assert!(!add(&mut queue, 10), "no more urgent than those that are there");
    assert!(queue.add(Serial(99), urgency(1)));
    assert_eq!((queue.len(), queue.displaced()), (10, 2));
    assert!(!queue.wants_survey(), "there is no room for what it would find");
    let tasks = batch(&mut queue);
    assert_eq!(tasks[0].serial, Serial(99));
    tasks.into_iter().for_each(|task| queue.forget(task));
    assert!(queue.wants_survey());
}

#[test]
fn the_most_urgent_come_first() {
    let mut queue = Queue::default();
    for (serial, copies) in [(1, 3), (2, 1), (3, 2), (4, 1)] {
        queue.add(Serial(serial), urgency(copies));
    }
    queue.add(Serial(1), urgency(0));
    let serials: Vec<u64> = batch(&mut queue).iter().map(|task| task.serial.0).collect();
    assert_eq!(serials, [1, 2, 4, 3]);
}

#[test]
fn a_chunk_that_has_become_more_urgent_is_not_left_for_later() {
    let mut queue = Queue::default();
    add(&mut queue, 1);
    let task = batch(&mut queue)[0];
    queue.later(task, Moment(60_000));
    add(&mut queue, 1);
    assert!(batch(&mut queue).is_empty(), "nothing new");
    assert_eq!(queue.next_look(), Some(Moment(60_000)));
    queue.add(Serial(1), urgency(1));
    assert_eq!(batch(&mut queue), [task]);
}

// What was committed with copies on their way was not counted as under-copied for a minute.
#[test]
fn a_chunk_of_which_there_is_news_is_judged_at_once_wherever_it_waits() {
    let mut queue = Queue::default();
    add(&mut queue, 1);
    let task = batch(&mut queue)[0];
    queue.later(task, Moment(60_000));
    queue.add_news(Serial(1), urgency(2));
    assert_eq!(batch(&mut queue), [task]);
    queue.wait_until(task, Moment(60_000));
    queue.add_news(Serial(1), urgency(2));
    assert_eq!(batch(&mut queue), [task]);
    // While it was judged, by a record from before.
    assert_eq!(queue.in_hand(), 1);
    queue.add_news(Serial(1), urgency(2));
    queue.later(task, Moment(60_000));
    assert_eq!((queue.in_hand(), batch(&mut queue)), (0, vec![task]));
    queue.add_news(Serial(1), urgency(2));
    queue.block(task, &[NodeId(7)], SOON);
    assert_eq!(batch(&mut queue), [task]);
}

#[test]
fn a_blocked_chunk_is_judged_again_when_its_source_has_a_hand_free_or_soon_anyway() {
    let mut queue = Queue::default();
    add(&mut queue, 1);
    let task = batch(&mut queue)[0];
    queue.block(task, &[NodeId(7)], SOON);
    assert!(batch(&mut queue).is_empty());
    assert_eq!(queue.next_look(), Some(SOON + BLOCKED));
    queue.unblock(NodeId(8), SOON);
    assert!(batch(&mut queue).is_empty());
    queue.unblock(NodeId(7), SOON);
    assert_eq!(batch(&mut queue), [task]);
    queue.block(task, &[NodeId(7)], SOON);
    assert_eq!(queue.next_batch(SOON + BLOCKED), [task]);
}

#[test]
fn a_chunk_whose_order_brought_nothing_waits_longer_each_time() {
    let mut queue = Queue::default();
    add(&mut queue, 1);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let task = batch(&mut queue)[0];
        queue.close(task, SOON);
        let task = batch(&mut queue)[0];
        pauses.push(task.not_before.0 / 1000);
        queue.later(task, SOON);
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
}

#[derive(Debug, Clone)]
enum Step {
    Add(u64, u8),
    Judge(Vec<u8>),
    Close,
    Retry,
    Unblock(u32),
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..30, 0u8..4).prop_map(|(serial, copies)| Step::Add(serial, copies)),
        3 => prop::collection::vec(0u8..6, 0..8).prop_map(Step::Judge),
        1 => Just(Step::Close),
        1 => Just(Step::Retry),
        1 => (0u32..3).prop_map(Step::Unblock),
        1 => (0u64..10_000).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn no_chunk_is_in_two_hands_and_none_vanishes_unless_it_is_said_so(
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        const CAPACITY: usize = 12;
        let mut queue = Queue::new(CAPACITY);
        let (mut now, mut ordered) = (SOON, Vec::<Task>::new());
        let (mut added, mut done) = (BTreeSet::<u64>::new(), BTreeSet::<u64>::new());
        let mut is_to_be_found_again = false;
        for step in steps {
            match step {
                Step::Add(serial, copies) => {
                    queue.add(Serial(serial), urgency(copies));
                    added.insert(serial);
                    done.remove(&serial);
                }
                Step::Judge(verdicts) => {
                    let batch = queue.next_batch(now);
                    let serials: BTreeSet<Serial> = batch.iter().map(|task| task.serial).collect();
                    prop_assert_eq!(serials.len(), batch.len());
                    prop_assert!(ordered.iter().all(|task| !serials.contains(&task.serial)));
                    for (at, task) in batch.into_iter().enumerate() {
                        match verdicts.get(at).copied().unwrap_or(0) {
                            0 => {
                                queue.forget(task);
                                done.insert(task.serial.0);
                            }
                            1 => queue.wait(task),
                            2 => queue.block(task, &[NodeId(0), NodeId(1)], now),
                            3 => queue.later(task, now + Duration::from_secs(3)),
                            4 => queue.wait_until(task, now + Duration::from_secs(3)),
                            _ => ordered.push(task),
                        }
                    }
                }
                Step::Close => {
                    if let Some(task) = ordered.pop() {
                        queue.close(task, now);
                    }
                }
                Step::Retry => queue.retry_waiting(),
                Step::Unblock(node) => queue.unblock(NodeId(node), now),
                Step::Pass(ms) => now = now + Duration::from_millis(ms),
            }
            prop_assert!(queue.len() <= CAPACITY);
            is_to_be_found_again |= queue.displaced() > 0;
            for serial in added.difference(&done) {
                prop_assert!(queue.contains(Serial(*serial)) || is_to_be_found_again);
            }
        }
        // Left in peace, everything that is known is handed out in the end.
        ordered.into_iter().for_each(|task| queue.close(task, now));
        queue.retry_waiting();
        now = now + Duration::from_secs(3600);
        let known = queue.len();
        let mut seen = BTreeSet::new();
        loop {
            let batch = queue.next_batch(now);
            if batch.is_empty() {
                break;
            }
            for task in batch {
                seen.insert(task.serial);
                queue.forget(task);
            }
        }
        prop_assert_eq!(seen.len(), known);
        prop_assert!(queue.is_empty());
        prop_assert_eq!(queue.next_look(), None);
        let (sets, blocked) = (&queue.blocked_by, &queue.later_by_urgency);
        prop_assert!(sets.is_empty() && blocked.is_empty());
        prop_assert_eq!(queue.wants_survey(), queue.displaced() > 0);
    }
}
