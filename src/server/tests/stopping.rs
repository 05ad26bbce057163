//! The orderly stop.

use std::time::Instant;

use super::*;

/// Waits until `stop` has begun in another thread.
fn wait_until_stopping(shared: &Shared) {
    let connections = shared.lock();
    let waited = shared.changed.wait_timeout_while(connections, HANG, |c| !c.stopping);
    assert!(waited.expect("a sound lock").0.stopping);
}

#[test]
fn a_request_in_work_is_answered_and_the_next_one_told() {
    let Running { mut server, entered, release } = run(Limits::default());
    let stream = TcpStream::connect(server.address()).expect("the server listens");
    stream.set_read_timeout(Some(HANG)).expect("a socket option");
    let mut peer = Peer(stream);
    peer.write(&[message(&hello("wait"), b""), message(STATUS, b"")].concat());
    assert_eq!(entered.recv_timeout(HANG).as_deref(), Ok("wait"));
    let shared = server.shared.clone();
    let stopping = thread::spawn(move || server.stop());
    wait_until_stopping(&shared);
    release.send(()).expect("it waits for this");
    assert!(peer.answer()["ok"].is_object());
    assert_eq!(peer.fault_code(), "stopping");
    assert_eq!(peer.try_answer(), None);
    stopping.join().expect("stop returns");
}

#[test]
fn idle_connections_do_not_hold_up_the_stop() {
    let mut running = run(Limits { stop_grace: HANG, ..Limits::default() });
    let mut peers = [running.greet(), running.connect(), running.greet()];
    let begun = Instant::now();
    running.server.stop();
    assert!(begun.elapsed() < HANG, "a peer had to be cut off");
    assert_eq!(running.server.open_connections(), 0);
    assert!(peers.iter_mut().all(|peer| peer.try_answer().is_none()));
    assert!(
        TcpStream::connect(running.server.address()).is_err() || cfg!(not(target_os = "linux"))
    );
}

#[test]
fn stop_never_hangs_on_a_peer_that_does_not_read() {
    let stop_grace = Duration::from_millis(50);
    let mut running = run(Limits { stop_grace, ..Limits::default() });
    let mut peer = running.connect();
    peer.write(&message(&hello("payload"), b""));
    running.wait_for("payload");
    running.server.stop();
    running.wait_for("ended");
}

#[test]
fn stop_never_hangs_on_a_request_that_does_not_end() {
    let stop_grace = Duration::from_millis(50);
    let mut running = run(Limits { stop_grace, ..Limits::default() });
    let mut peer = running.connect();
    peer.write(&message(&hello("wait"), b""));
    running.wait_for("wait");
    running.server.stop();
    assert_eq!(running.server.open_connections(), 1);
    running.release.send(()).expect("it still waits");
    running.wait_for("ended");
}

#[test]
fn stop_never_hangs_on_a_request_that_never_comes_whole() {
    let mut running = run(Limits { stop_grace: HANG, ..Limits::default() });
    let mut peer = running.greet();
    let bytes = message(STAGE, &[5; 100]);
    peer.write(&bytes[..bytes.len() - 1]);
    running.wait_for("staging");
    running.server.stop();
    running.wait_for("payload whole: false");
}
