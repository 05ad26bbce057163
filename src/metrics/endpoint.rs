//! `GET /metrics` over HTTP: a few threads that accept, read one short request each, answer, and
//! close. So a peer, however bad, holds up one of them for a bounded time.
//!
//! That is all of HTTP that is needed, and the reason not to take a library for it: those at hand
//! start a thread for every connection without a limit in number or time, and end for good when
//! file descriptors run out for a moment.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Page;

/// Requests that are served at a time.
const THREADS: usize = 3;
/// How long a request, or an answer, may take on its way.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of a request.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Why an endpoint does not start.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("{0} is reached by other machines, and nothing is encrypted")]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A listener for an endpoint: on this machine alone, unless plain text may leave it.
pub fn bind(address: SocketAddr, insecure_plaintext: bool) -> Result<TcpListener, EndpointError> {
    if !address.ip().is_loopback() && !insecure_plaintext {
        return Err(EndpointError::NotLoopback(address));
    }
    TcpListener::bind(address).map_err(|source| EndpointError::Listen { address, source })
}

/// A running endpoint. Dropping it stops it.
pub struct Endpoint {
    listener: Arc<TcpListener>,
    /// Dropped to stop the threads.
    stop: Option<Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
}

impl Endpoint {
    /// Serves `listener`. `fill` writes each answer, in one of the endpoint's threads.
    pub fn start(
        listener: TcpListener,
        fill: impl Fn(&mut Page) + Send + Sync + 'static,
    ) -> io::Result<Endpoint> {
        let (stop, stopped) = bounded(0);
        let (listener, fill) = (Arc::new(listener), Arc::new(fill));
        let mut endpoint =
            Endpoint { listener: listener.clone(), stop: Some(stop), threads: Vec::new() };
        for _ in 0..THREADS {
            let (listener, fill, stopped) = (listener.clone(), fill.clone(), stopped.clone());
            let builder = thread::Builder::new().name("metrics".to_string()).stack_size(256 * 1024);
            let thread = builder.spawn(move || accept_loop(&listener, &*fill, &stopped))?;
            endpoint.threads.push(thread);
        }
        Ok(endpoint)
    }

    /// Stops it; what is being answered is answered, for which a peer has a bounded time.
    pub fn stop(&mut self) {
        if self.stop.take().is_none() {
            return;
        }
        // On Linux this wakes all threads that wait in accept(2).
        if let Err(error) = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both) {
            log::debug!("the listener for metrics was not shut down: {error}");
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread for metrics ended in a panic");
            }
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept_loop(
    listener: &TcpListener,
    fill: &(dyn Fn(&mut Page) + Send + Sync),
    stopped: &Receiver<Infallible>,
) {
    loop {
        let accepted = listener.accept();
        // Out of file descriptors, most likely: others end, so a moment's wait is a cure.
        let pause = if accepted.is_err() { Duration::from_millis(100) } else { Duration::ZERO };
        if let Err(RecvTimeoutError::Disconnected) = stopped.recv_timeout(pause) {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = serve(&stream, fill) {
                    log::debug!("metrics not served peer={peer} error={error}");
                }
            }
            Err(error) => log::warn!("metrics: no connection is accepted error={error}"),
        }
    }
}

fn serve(stream: &TcpStream, fill: &(dyn Fn(&mut Page) + Send + Sync)) -> io::Result<()> {
    let head = read_head(stream)?;
    let (status, body) = match target(&head) {
        Some(("GET", "/metrics")) => {
            let mut page = Page::default();
            match catch_unwind(AssertUnwindSafe(|| fill(&mut page))) {
                Ok(()) => ("200 OK", page.text()),
                Err(_) => ("500 Internal Server Error", "this is a bug\n".to_string()),
            }
        }
        Some(("GET", _)) => ("404 Not Found", "there is only /metrics\n".to_string()),
        Some(_) => ("405 Method Not Allowed", "there is only GET\n".to_string()),
        None => ("400 Bad Request", "this is not HTTP\n".to_string()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    write_all(stream, &[head.as_bytes(), body.as_bytes()].concat())?;
    stream.shutdown(Shutdown::Write)
}

/// The request up to the empty line that ends it, or what there is of one that is too long.
fn read_head(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < MAX_REQUEST_BYTES {
        stream.set_read_timeout(Some(left_until(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(head)
}

fn write_all(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left_until(deadline)?))?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            length => bytes = &bytes[length..],
        }
    }
    Ok(())
}

fn left_until(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// The method, and the path without what may follow a question mark.
fn target(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let path = target.split('?').next()?;
    (version.starts_with("HTTP/1.") && words.next().is_none()).then_some((method, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (Endpoint, SocketAddr) {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).expect("a port");
        let address = listener.local_addr().expect("its address");
        let fill = |page: &mut Page| page.gauge("answers", "A number.", 42.0);
        (Endpoint::start(listener, fill).expect("threads"), address)
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(request).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

    #[test]
    fn metrics_are_got_over_http() {
        let (_endpoint, address) = start();
        let answer = ask(address, GET);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(body, "# HELP answers A number.\n# TYPE answers gauge\nanswers 42\n");
    }

    #[test]
    fn nothing_else_is_there() {
        let (_endpoint, address) = start();
        for (request, status) in [
            (&b"GET / HTTP/1.0\r\n\r\n"[..], "404"),
            (b"GET /metrics/.. HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\xff\xfe\r\n\r\n", "400"),
            (b"GET /metrics\r\n\r\n", "400"),
        ] {
            let answer = ask(address, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        assert!(ask(address, b"GET /metrics?a=b HTTP/1.1\r\n\r\n").contains("answers 42"));
    }

    #[test]
    fn peers_that_say_nothing_or_too_much_shut_nobody_out() {
        let (_endpoint, address) = start();
        let silent: Vec<TcpStream> =
            (0..THREADS).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        let mut flood = TcpStream::connect(address).expect("it listens");
        // It is cut off once it was answered, before or after all of this is written.
        let _ = flood.write_all(&vec![b'x'; 4 * MAX_REQUEST_BYTES]);
        assert!(ask(address, GET).contains("answers 42"));
        drop(silent);
    }

    #[test]
    fn a_panic_while_it_is_filled_in_costs_one_answer() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).expect("a port");
        let address = listener.local_addr().expect("its address");
        let _endpoint = Endpoint::start(listener, |_| panic!("on purpose")).expect("threads");
        for _ in 0..2 * THREADS {
            assert!(ask(address, GET).starts_with("HTTP/1.1 500 "));
        }
    }

    #[test]
    fn it_stops_also_while_a_peer_hangs() {
        let (mut endpoint, address) = start();
        let _silent = TcpStream::connect(address).expect("it listens");
        assert!(ask(address, GET).contains("answers 42"));
        endpoint.stop();
        drop(endpoint);
        assert!(TcpStream::connect(address).is_err(), "it still listens");
    }

    #[test]
    fn other_machines_are_served_only_where_that_is_said() {
        let open = "0.0.0.0:0".parse().unwrap();
        assert!(matches!(bind(open, false), Err(EndpointError::NotLoopback(_))));
        assert!(bind(open, true).is_ok());
    }
}
