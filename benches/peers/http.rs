//! As much of HTTP/1.1 as a load generator needs: connections that are kept, over the loopback only.
//! What is sent goes out in one call where it is small; what comes goes from the buffer of the
//! connection straight to whoever takes it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use p2pdfs::cli::bench::interrupt::Interrupt;

/// What is received in one call, and what is sent of a file between two looks at the interrupt.
const RECEIVED_BYTES: usize = 256 << 10;
const SENT_BYTES: u64 = 8 << 20;
/// How long a server may say nothing, and how often the interrupt is looked at meanwhile.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A reply that says what went wrong is kept up to here.
const ERROR_BYTES: usize = 4096;

/// Why a request was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0} is not an address of the loopback")]
    NotLoopback(String),
    #[error("{request}: status {status}: {reply}")]
    Refused { request: String, status: u16, reply: String },
    #[error("{0} is not what HTTP/1.1 allows")]
    Malformed(&'static str),
    #[error("{0} said nothing for too long")]
    Silent(SocketAddr),
    #[error("interrupted")]
    Interrupted,
    #[error("the connection to {address} failed")]
    Io { address: SocketAddr, source: io::Error },
}

/// What is sent with a PUT.
pub enum Body<'a> {
    Bytes(&'a [u8]),
    /// So many bytes of a file from its beginning.
    File(&'a File, u64),
}

/// One connection to a server, made when it is needed.
pub struct Http {
    address: SocketAddr,
    interrupt: Interrupt,
    connection: Option<BufReader<TcpStream>>,
    request: Vec<u8>,
}

/// How long the body of a reply is.
enum Length {
    Known(u64),
    Chunked,
    UntilClosed,
}

struct Head {
    status: u16,
    length: Length,
    is_last: bool,
}

impl Http {
    /// A connection to be to `address`, a number and a port.
    pub fn new(address: &str, interrupt: &Interrupt) -> Result<Http, HttpError> {
        let parsed: Option<SocketAddr> = address.parse().ok();
        let address = parsed
            .filter(|address| address.ip().is_loopback())
            .ok_or_else(|| HttpError::NotLoopback(address.to_string()))?;
        Ok(Http { address, interrupt: interrupt.clone(), connection: None, request: Vec::new() })
    }

    /// Gets what is at `path` into `sink`.
    pub fn get(&mut self, path: &str, sink: &mut dyn Write) -> Result<(), HttpError> {
        self.ask("GET", path, None, sink)
    }

    /// Puts `body` to `path`; returns the reply.
    pub fn put(&mut self, path: &str, body: &Body<'_>) -> Result<Vec<u8>, HttpError> {
        let mut reply = Vec::new();
        self.ask("PUT", path, Some(body), &mut reply)?;
        Ok(reply)
    }

    fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Body<'_>>,
        sink: &mut dyn Write,
    ) -> Result<(), HttpError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        self.send(connection.get_mut(), method, path, body)?;
        let mut receiver = Receiver { http: self, from: &mut connection };
        let head = receiver.head()?;
        if head.status / 100 == 2 {
            receiver.body(&head.length, sink)?;
        } else {
            let mut reply = Limited(Vec::new());
            receiver.body(&head.length, &mut reply)?;
            return Err(HttpError::Refused {
                request: format!("{method} http://{}{path}", self.address),
                status: head.status,
                reply: String::from_utf8_lossy(&reply.0).trim().to_string(),
            });
        }
        // Only one that is in step is kept: what failed halfway has left by now.
        if !head.is_last {
            self.connection = Some(connection);
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> HttpError {
        HttpError::Io { address: self.address, source }
    }

    fn connect(&self) -> Result<BufReader<TcpStream>, HttpError> {
        let connect = || {
            let stream = TcpStream::connect(self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK_EVERY))?;
            Ok(BufReader::with_capacity(RECEIVED_BYTES, stream))
        };
        connect().map_err(|error| self.failed(error))
    }

    fn send(
        &mut self,
        stream: &mut TcpStream,
        method: &str,
        path: &str,
        body: Option<&Body<'_>>,
    ) -> Result<(), HttpError> {
        let mut request = std::mem::take(&mut self.request);
        request.clear();
        let length = body.map(|body| match body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File(_, bytes) => *bytes,
        });
        // Into memory, which takes all.
        let _ = write!(request, "{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if let Some(length) = length {
            let kind = "Content-Type: application/octet-stream";
            let _ = write!(request, "{kind}\r\nContent-Length: {length}\r\n");
        }
        request.extend_from_slice(b"\r\n");
        if let Some(Body::Bytes(bytes)) = body {
            request.extend_from_slice(bytes);
        }
        let sent = stream.write_all(&request).map_err(|error| self.failed(error));
        self.request = request;
        sent?;
        match body {
            Some(Body::File(file, bytes)) => self.send_file(stream, file, *bytes),
            _ => Ok(()),
        }
    }

    /// Sends a file without a copy of it in this process: `io::copy` is sendfile(2) here.
    fn send_file(&self, stream: &mut TcpStream, file: &File, bytes: u64) -> Result<(), HttpError> {
        let mut left = bytes;
        while left > 0 {
            if self.interrupt.is_requested() {
                return Err(HttpError::Interrupted);
            }
            let mut part = file.take(left.min(SENT_BYTES));
            match io::copy(&mut part, stream).map_err(|error| self.failed(error))? {
                0 => return Err(self.failed(ErrorKind::UnexpectedEof.into())),
                sent => left -= sent,
            }
        }
        Ok(())
    }
}

/// The receiving half of one request.
struct Receiver<'a> {
    http: &'a Http,
    from: &'a mut BufReader<TcpStream>,
}

impl Receiver<'_> {
    /// What came; waits when there is nothing. Empty once the other end has closed.
    fn some(&mut self) -> Result<&[u8], HttpError> {
        let begun = Instant::now();
        while self.from.buffer().is_empty() {
            match self.from.fill_buf() {
                Ok([]) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.http.interrupt.is_requested() {
                        return Err(HttpError::Interrupted);
                    }
                    if begun.elapsed() > PATIENCE {
                        return Err(HttpError::Silent(self.http.address));
                    }
                }
                Err(error) => return Err(self.http.failed(error)),
            }
        }
        Ok(self.from.buffer())
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<String, HttpError> {
        let mut line = Vec::new();
        loop {
            let bytes = self.some()?;
            if bytes.is_empty() {
                return Err(self.http.failed(ErrorKind::UnexpectedEof.into()));
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            line.extend_from_slice(&bytes[..taken]);
            self.from.consume(taken);
            if end.is_some() {
                return Ok(String::from_utf8_lossy(&line).trim_end().to_string());
            }
        }
    }

    fn head(&mut self) -> Result<Head, HttpError> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(HttpError::Malformed("the first line of a reply"))?;
        let mut head = Head { status, length: Length::UntilClosed, is_last: false };
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => {
                    let bytes = value.parse();
                    let bytes = bytes.map_err(|_| HttpError::Malformed("a reply's length"))?;
                    head.length = Length::Known(bytes);
                }
                Some(("transfer-encoding", value)) if value.contains("chunked") => {
                    head.length = Length::Chunked;
                }
                Some(("connection", "close")) => head.is_last = true,
                None if line.is_empty() => break,
                _ => {}
            }
        }
        if status == 204 {
            head.length = Length::Known(0);
        }
        head.is_last |= matches!(head.length, Length::UntilClosed);
        Ok(head)
    }

    fn body(&mut self, length: &Length, sink: &mut dyn Write) -> Result<(), HttpError> {
        match length {
            Length::Known(bytes) => self.pass(*bytes, sink),
            Length::UntilClosed => loop {
                match self.some()?.len() as u64 {
                    0 => return Ok(()),
                    bytes => self.pass(bytes, sink)?,
                }
            },
            Length::Chunked => loop {
                let line = self.line()?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let bytes = u64::from_str_radix(digits, 16);
                let bytes = bytes.map_err(|_| HttpError::Malformed("the length of a part"))?;
                self.pass(bytes, sink)?;
                self.line()?;
                if bytes == 0 {
                    return Ok(());
                }
            },
        }
    }

    /// Hands over exactly so many bytes.
    fn pass(&mut self, bytes: u64, sink: &mut dyn Write) -> Result<(), HttpError> {
        let mut left = bytes;
        while left > 0 {
            let some = self.some()?;
            if some.is_empty() {
                return Err(self.http.failed(ErrorKind::UnexpectedEof.into()));
            }
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(some.len());
            let taken = sink.write_all(&some[..here]);
            taken.map_err(|error| self.http.failed(error))?;
            self.from.consume(here);
            left -= here as u64;
        }
        Ok(())
    }
}

/// Keeps the beginning of what it is given.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = ERROR_BYTES.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
