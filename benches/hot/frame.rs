//! Messages over a connection of the loopback: one there, a short one back.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use p2pdfs::ids::{ChunkId, HashAlgorithm};
use p2pdfs::token::Token;
use p2pdfs::wire::frame::{FrameReader, PayloadBuffer, encode_request, write_message};
use p2pdfs::wire::to_node::{Store, StoreChunk};

use crate::{LARGE, SMALL, content};

const IDLE: Duration = Duration::from_secs(60);

/// A `store` of one chunk, as a client sends it.
fn store(bytes: &[u8]) -> Vec<u8> {
    let chunk = StoreChunk {
        id: ChunkId::of(HashAlgorithm::Blake3, bytes),
        length: u32::try_from(bytes.len()).expect("a chunk"),
        token: Token::from_text("v1.".to_string() + &"t".repeat(135)),
    };
    encode_request(&Store { chunks: vec![chunk].into() })
}

/// Reads messages with their payloads and answers each, until the peer closes.
fn answer(stream: &TcpStream) {
    let (mut reader, mut json) = (FrameReader::default(), Vec::new());
    let mut payload = PayloadBuffer::default();
    while let Ok(Some(_)) = reader.read_message(stream, IDLE, &mut json) {
        payload.clear();
        let mut sum = 0u64;
        let read = reader.read_payload(stream, &mut payload, |piece| sum += piece.len() as u64);
        if read.is_err() || write_message(stream, b"{}", &[]).is_err() {
            return;
        }
    }
}

pub fn all(criterion: &mut Criterion) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let ours = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("connected");
    let (theirs, _) = listener.accept().expect("we are there");
    for stream in [&ours, &theirs] {
        stream.set_nodelay(true).expect("TCP");
    }
    let answering = thread::spawn(move || answer(&theirs));
    let (mut reader, mut json) = (FrameReader::default(), Vec::new());
    let mut group = criterion.benchmark_group("frame");
    for (name, bytes) in [("store of 4 KiB", SMALL), ("store of 4 MiB", LARGE)] {
        let payload = content(bytes);
        let request = store(&payload);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                write_message(&ours, &request, &[&payload]).expect("they read");
                reader.read_message(&ours, IDLE, &mut json).expect("they answer")
            });
        });
    }
    group.finish();
    drop(ours);
    answering.join().expect("it does not panic");
}
