//! Frames: a head of eight bytes (the JSON's length and the payload's, both u32 big-endian), the
//! JSON, the payload. Lengths are checked before anything is allocated for them, and buffers grow
//! only with bytes that arrived.

mod reader;

use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use serde::Serialize;

use reader::Timeout;
pub use reader::{FrameReader, PayloadBuffer};

use super::{MAX_HELLO_BYTES, MAX_JSON_BYTES, MAX_PAYLOAD_BYTES};

/// Bytes of a head.
pub const HEAD_BYTES: usize = 8;
/// What is asked of the socket at once, at most.
pub const BUFFER_BYTES: usize = 8 * 1024;

/// The lengths of a message's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub json_bytes: u32,
    pub payload_bytes: u32,
}

impl Head {
    /// The largest message.
    pub const LARGEST: Head = Head { json_bytes: MAX_JSON_BYTES, payload_bytes: MAX_PAYLOAD_BYTES };
    /// The largest message before `hello` was answered.
    pub const LARGEST_HELLO: Head = Head { json_bytes: MAX_HELLO_BYTES, payload_bytes: 0 };

    fn parse(bytes: [u8; HEAD_BYTES]) -> Head {
        let [a, b, c, d, e, f, g, h] = bytes;
        let json_bytes = u32::from_be_bytes([a, b, c, d]);
        Head { json_bytes, payload_bytes: u32::from_be_bytes([e, f, g, h]) }
    }

    fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let [a, b, c, d] = self.json_bytes.to_be_bytes();
        let [e, f, g, h] = self.payload_bytes.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// The head itself, unless it announces more than `most`.
    fn within(self, most: Head) -> Result<Head, FrameError> {
        if self.json_bytes > most.json_bytes || self.payload_bytes > most.payload_bytes {
            return Err(FrameError::TooLarge { announced: self, most });
        }
        Ok(self)
    }
}

/// How long a message may take on its way, whatever the single reads and writes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For any message.
    pub base: Duration,
    /// A second more for each so many bytes.
    pub bytes_per_second: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { base: Duration::from_secs(30), bytes_per_second: 16 * 1024 }
    }
}

impl Pace {
    /// The time for a message with this head.
    pub fn allows(&self, head: Head) -> Duration {
        let bytes = u64::from(head.json_bytes) + u64::from(head.payload_bytes);
        self.base + Duration::from_secs(bytes / u64::from(self.bytes_per_second.max(1)))
    }
}

/// Why no message could be read or written. The stream is of no use after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error(
        "a message announces {} bytes of JSON and {} of payload; the limits here are {} and {}",
        announced.json_bytes, announced.payload_bytes, most.json_bytes, most.payload_bytes
    )]
    TooLarge { announced: Head, most: Head },
    /// The peer closed in the middle of a message.
    #[error("the connection was closed in the middle of a message")]
    CutOff,
    /// No message began in the time given.
    #[error("nothing came in time")]
    Idle,
    /// The message, or the space to write one, did not come in time.
    #[error("the other side did not proceed in time")]
    TimedOut,
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

/// A socket written under a deadline for the whole message, whatever the single calls do.
struct Deadlined<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Deadlined<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Write for Deadlined<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    /// What the socket takes at once needs no timeout, and that is most messages.
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let left = self.left()?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(self.stream, parts, &mut SendAncillaryBuffer::default(), flags) {
            Err(Errno::AGAIN) => {}
            sent => return Ok(sent?),
        }
        self.stream.set_write_timeout(Some(left))?;
        (&mut &*self.stream).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn frame_error(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::CutOff,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => FrameError::TimedOut,
        _ => FrameError::Io(error),
    }
}

/// Writes a message: head, JSON and payload in one vectored call where the socket takes it whole.
///
/// One that is over the limits is refused with `TooLarge` before anything was written.
pub fn write_message(stream: &TcpStream, json: &[u8], payload: &[&[u8]]) -> Result<(), FrameError> {
    write_message_within(stream, Pace::default(), json, payload)
}

/// As `write_message`, in another time than the protocol's.
pub fn write_message_within(
    stream: &TcpStream,
    pace: Pace,
    json: &[u8],
    payload: &[&[u8]],
) -> Result<(), FrameError> {
    let payload_bytes = payload.iter().map(|part| part.len()).sum::<usize>();
    let head = Head {
        json_bytes: u32::try_from(json.len()).unwrap_or(u32::MAX),
        payload_bytes: u32::try_from(payload_bytes).unwrap_or(u32::MAX),
    };
    let head_bytes = head.within(Head::LARGEST)?.to_bytes();
    let mut slices = Vec::with_capacity(2 + payload.len());
    slices.push(IoSlice::new(&head_bytes));
    slices.push(IoSlice::new(json));
    slices.extend(payload.iter().map(|part| IoSlice::new(part)));
    let mut output = Deadlined { stream, deadline: Instant::now() + pace.allows(head) };
    write_all_vectored(&mut output, &mut slices).map_err(frame_error)
}

/// Ends a connection so that what was written last still reaches the peer: a close with bytes
/// unread would make the kernel send a reset, which can overtake it (RFC 2525, 2.17). Reads on,
/// for at most `patience` and a bounded number of bytes, until the peer closes too.
pub fn say_farewell(stream: &TcpStream, patience: Duration) {
    const MAX_BYTES: usize = 4 << 20;
    let (mut timeout, deadline) = (Timeout::default(), Instant::now() + patience);
    let mut scratch = [0; 2048];
    let mut passed_over = 0;
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    while passed_over < MAX_BYTES {
        match timeout.read(stream, deadline, &mut scratch) {
            Ok(0) | Err(_) => return,
            Ok(count) => passed_over += count,
        }
    }
}

fn write_all_vectored(output: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // The kernel takes at most 1,024 slices in one call (IOV_MAX, writev(2)).
    const MAX_SLICES: usize = 1024;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let now = slices.len().min(MAX_SLICES);
        match output.write_vectored(&slices[..now]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The JSON of a request: an object with one member, named after it.
pub fn encode_request<M: super::Message>(request: &M) -> Vec<u8> {
    struct Envelope<'a, M>(&'a M);
    impl<M: super::Message> Serialize for Envelope<'_, M> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeMap;
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(M::NAME, self.0)?;
            map.end()
        }
    }
    encode(&Envelope(request))
}

/// The JSON of any message of ours.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have text keys and no failing serializers")
}
