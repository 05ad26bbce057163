//! What a peer can cost, and what happens when something runs out.

use super::*;

#[test]
fn a_length_over_the_limits_is_told_and_ends_the_connection() {
    let running = run(Limits::default());
    for head in [[0xff; 8], [0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff], [0, 0x10, 0, 1, 0, 0, 0, 0]] {
        let mut peer = running.greet();
        peer.write(&head);
        assert_eq!(peer.fault_code(), "too_large");
        assert_eq!(peer.try_answer(), None);
    }
}

#[test]
fn a_fault_before_a_close_arrives_past_bytes_that_are_still_on_their_way() {
    let running = run(Limits::default());
    let mut peer = running.greet();
    let mut bytes = vec![0xff; 8];
    bytes.resize(2 << 20, 0);
    peer.write(&bytes);
    assert_eq!(peer.fault_code(), "too_large");
    assert_eq!(peer.try_answer(), None, "an orderly end, no reset");
}

#[test]
fn before_hello_a_message_is_small_and_has_no_payload() {
    let running = run(Limits::default());
    for (json, payload) in [(large_request(4096), &b""[..]), (STATUS.to_string(), b"x")] {
        let mut peer = running.connect();
        peer.write(&message(&json, payload));
        assert_eq!(peer.fault_code(), "too_large");
    }
    let mut peer = running.greet();
    assert!(peer.ask(&large_request(4096))["ok"].is_object());
}

#[test]
fn one_byte_at_a_time_does_not_stretch_the_deadline() {
    let pace = Pace { base: Duration::from_millis(100), ..Pace::default() };
    let running = run(Limits { pace, ..Limits::default() });
    let mut peer = running.greet();
    let bytes = message(&large_request(2000), b"");
    // Waits for the fault a little after each byte: a deadline for each read would never pass.
    peer.0.set_read_timeout(Some(Duration::from_millis(10))).expect("a socket option");
    let mut sent = 0;
    while peer.0.peek(&mut [0]).is_err() {
        assert!(sent < bytes.len(), "the whole request was taken");
        peer.write(&bytes[sent..sent + 1]);
        sent += 1;
    }
    peer.0.set_read_timeout(Some(HANG)).expect("a socket option");
    assert_eq!(peer.fault_code(), "timeout");
    running.wait_for("ended");
}

#[test]
fn a_peer_that_says_nothing_is_let_go() {
    let short = Duration::from_millis(50);
    let running = run(Limits { hello_timeout: short, ..Limits::default() });
    assert_eq!(running.connect().try_answer(), None);
    let running = run(Limits { idle_timeout: short, ..Limits::default() });
    assert_eq!(running.greet().try_answer(), None);
}

#[test]
fn a_peer_that_never_reads_its_answer_is_let_go() {
    let pace = Pace { base: Duration::from_millis(100), bytes_per_second: u32::MAX };
    let running = run(Limits { pace, ..Limits::default() });
    let mut peer = running.connect();
    peer.write(&message(&hello("payload"), b""));
    running.wait_for("ended");
}

#[test]
fn a_full_server_says_busy() {
    let running = run(Limits { connections: 2, node_connections: 0, ..Limits::default() });
    let (_first, _second) = (running.greet(), running.greet());
    let mut third = running.connect();
    third.write(&message(&hello("client"), b""));
    assert_eq!(third.fault_code(), "busy");
    assert_eq!(third.try_answer(), None);
}

#[test]
fn places_for_nodes_are_not_given_to_clients() {
    let running = run(Limits { connections: 3, node_connections: 1, ..Limits::default() });
    let (_first, _second) = (running.greet(), running.greet());
    let mut third = running.connect();
    third.write(&message(&hello("client"), b""));
    assert_eq!(third.fault_code(), "busy");
    assert_eq!(third.try_answer(), None);
    let mut node = running.connect();
    assert!(node.ask(&hello("node"))["ok"].is_object());
    assert!(node.ask(STATUS)["ok"].is_object());
}

#[test]
fn connections_that_say_nothing_give_way_to_those_that_do() {
    let running = run(Limits { connections: 3, node_connections: 0, ..Limits::default() });
    let mut silent: Vec<Peer> = (0..20).map(|_| running.connect()).collect();
    let mut speaking = running.greet();
    assert_eq!(silent[0].try_answer(), None);
    assert!(speaking.ask(STATUS)["ok"].is_object());
}

#[test]
fn large_requests_share_a_budget_and_small_ones_need_none() {
    let running = run(Limits { json_bytes: 100_000, ..Limits::default() });
    let (mut holder, mut other) = (running.greet(), running.greet());
    let wait =
        hello("wait").replace("\"role\"", &format!(r#""x":"{}","role""#, "x".repeat(80_000)));
    holder.write(&message(&wait, b""));
    running.wait_for("wait");
    other.write(&message(&large_request(80_000), b"and a payload"));
    assert_eq!(other.fault_code(), "busy");
    assert!(other.ask(STATUS)["ok"].is_object());
    running.release.send(()).expect("it waits for this");
    assert!(holder.answer()["ok"].is_object());
    // Answered after the holder came back for its next request, and so gave back its share.
    assert!(holder.ask(STATUS)["ok"].is_object());
    assert!(other.ask(&large_request(80_000))["ok"].is_object());
}

#[test]
fn a_thread_that_cannot_start_is_told_and_the_server_goes_on() {
    // No address space has room for such a stack.
    let running = run(Limits { stack_bytes: 1 << 60, ..Limits::default() });
    for _ in 0..2 {
        let mut peer = running.connect();
        peer.write(&message(&hello("client"), b""));
        assert_eq!(peer.fault_code(), "busy");
    }
    assert_eq!(running.server.open_connections(), 0);
}

/// Set in the child process that runs a test with few file descriptors.
const IN_CHILD: &str = "P2PDFS_TEST_IN_CHILD";

#[test]
fn accept_goes_on_after_file_descriptors_ran_out() {
    if std::env::var_os(IN_CHILD).is_none() {
        let program = std::env::current_exe().expect("the test binary");
        let name = "server::tests::limits::accept_goes_on_after_file_descriptors_ran_out";
        let output = std::process::Command::new("sh")
            .args(["-c", r#"ulimit -n 40 && exec "$0" "$@""#])
            .arg(program)
            .args(["--exact", name, "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
        return;
    }
    let running = run(Limits::default());
    // Connecting takes a descriptor at once, accepting one more: soon there is none for the server.
    let mut peers = Vec::new();
    while let Ok(stream) = TcpStream::connect(running.server.address()) {
        peers.push(Peer(stream));
    }
    assert!((10..40).contains(&peers.len()), "{} connections", peers.len());
    // All of them end but the last, which was not accepted yet; it is when there is room again.
    let mut last = peers.pop().expect("many");
    last.0.set_read_timeout(Some(HANG)).expect("a socket option");
    last.write(&message(&hello("client"), b""));
    drop(peers);
    assert!(last.answer()["ok"].is_object());
}
