//! The machine's own limits: what disk and loopback give to a program that does nothing else. They
//! are measured beside each workload, since they change from minute to minute.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::bounded;

use super::content::Content;
use super::interrupt::Interrupt;
use super::measure::{Repeated, Run};
use super::tree;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::shown;

/// What is written to a file in one call, and after how much of it the disk is set to work.
const BLOCK_BYTES: usize = 1 << 20;
const SYNCED_EVERY: u64 = 32 << 20;
/// What is sent and received in one call: little enough to stay in a core's own cache.
const SENT_BYTES: usize = 256 << 10;
/// What a request of the raw round trips is: about what asks for a chunk.
const REQUEST_BYTES: usize = 64;

fn cannot(what: &str, error: &io::Error) -> Failure {
    Failure::because(Exit::Failed, format!("cannot measure {what}"), error)
}

/// Syncs a file of the bench's own. What is measured is the sync itself, and nothing relies on it.
#[expect(clippy::disallowed_methods, reason = "the cost of this very call is what is measured")]
fn sync(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// Writes out everything that waits for the disk of `place`, so that it is not charged to what is
/// measured next.
pub fn settle(place: &Path) -> Result<(), Failure> {
    let synced = File::open(place).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
    synced.map_err(|e| Failure::because(Exit::Failed, format!("cannot sync {}", shown(place)), &e))
}

/// Writes a file of `bytes` from front to back, durable at the end. A second thread syncs what is
/// there meanwhile, so that the disk works while the file is being filled.
pub fn disk_write(place: &Path, bytes: u64, interrupt: &Interrupt) -> Result<Run, Failure> {
    let failed = |error: io::Error| cannot("the synced writes of the disk", &error);
    let path = place.join("limit-file");
    let block = Content::random().map_err(failed)?.bytes(BLOCK_BYTES);
    let file = File::create(&path).map_err(failed)?;
    let begun = Instant::now();
    // Of one place: a sync that is asked for while another waits to begin is the same one.
    let (ask, asked) = bounded::<()>(1);
    let result = thread::scope(|scope| {
        let syncer = scope.spawn(|| asked.iter().try_for_each(|()| sync(&file)));
        let written = write_blocks(&mut &file, &block, bytes, interrupt, |written| {
            if written % SYNCED_EVERY == 0 {
                // Full: one is to begin anyhow.
                let _ = ask.try_send(());
            }
        });
        drop(ask);
        let synced = syncer.join().unwrap_or_else(|_| Err(io::Error::other("its thread failed")));
        written.and(synced).and_then(|()| sync(&file))
    });
    let run = Run::bulk(1, bytes, begun);
    result.and_then(|()| fs::remove_file(&path)).map_err(failed)?;
    interrupt.check().map(|()| run)
}

/// Writes `block` again and again until `bytes` are written; `wrote` hears how many are.
fn write_blocks(
    out: &mut impl Write,
    block: &[u8],
    bytes: u64,
    interrupt: &Interrupt,
    mut wrote: impl FnMut(u64),
) -> io::Result<()> {
    let mut written = 0;
    while written < bytes && !interrupt.is_requested() {
        let here = usize::try_from(bytes - written).unwrap_or(usize::MAX).min(block.len());
        out.write_all(&block[..here])?;
        written += here as u64;
        wrote(written);
    }
    Ok(())
}

/// Creates files of 4 KiB, each synced before the next, in one directory per thread. Their directory
/// is not synced beside: on Linux's usual file systems the file's own sync covers its entry.
pub fn create_and_sync(
    place: &Path,
    repeated: &Repeated,
    interrupt: &Interrupt,
) -> Result<Run, Failure> {
    let failed = |error: io::Error| cannot("creating and syncing of files", &error);
    let top = place.join("limit-creates");
    fs::create_dir(&top).map_err(failed)?;
    let content = Content::random().map_err(failed)?;
    let threads = AtomicUsize::new(0);
    let prepare = || {
        let directory = top.join(threads.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&directory).map_err(failed)?;
        Ok(directory)
    };
    let run = repeated.run(interrupt, prepare, |directory: &mut PathBuf, number| {
        let bytes = content.derived(number).bytes(repeated.bytes_each as usize);
        let path = directory.join(number.to_string());
        let begun = Instant::now();
        let file = File::create(path);
        file.and_then(|mut file| file.write_all(&bytes).and_then(|()| sync(&file)))
            .map_err(failed)?;
        Ok(begun.elapsed())
    })?;
    fs::remove_dir_all(&top).map_err(failed)?;
    Ok(run)
}

/// Creates as many small files as the tree has, with one sync for all of them at the end.
pub fn create_tree(place: &Path, files: u64, interrupt: &Interrupt) -> Result<Run, Failure> {
    let top = place.join("limit-tree");
    let content = Content::random().map_err(|e| cannot("creating of files", &e))?;
    let begun = Instant::now();
    tree::write(&top, content, files, interrupt)?;
    settle(place)?;
    let run = Run::bulk(files, files * tree::FILE_BYTES as u64, begun);
    fs::remove_dir_all(&top).map_err(|e| cannot("creating of files", &e))?;
    Ok(run)
}

/// Sends `bytes` over one connection of the loopback.
pub fn tcp_stream(bytes: u64, interrupt: &Interrupt) -> Result<Run, Failure> {
    let failed = |error: io::Error| cannot("raw TCP", &error);
    let (mut to, mut from) = connection().map_err(failed)?;
    let begun = Instant::now();
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut buffer, mut received) = (vec![0; SENT_BYTES], 0);
            loop {
                match from.read(&mut buffer)? {
                    0 => return Ok::<u64, io::Error>(received),
                    count => received += count as u64,
                }
            }
        });
        let block = vec![1; SENT_BYTES];
        let sent = write_blocks(&mut to, &block, bytes, interrupt, |_| {});
        let closed = to.shutdown(Shutdown::Both);
        let received =
            receiver.join().unwrap_or_else(|_| Err(io::Error::other("its thread failed")));
        sent.and(closed).and(received)
    });
    let run = Run::bulk(1, received.map_err(failed)?, begun);
    interrupt.check().map(|()| run)
}

/// Asks for 4 KiB and gets them, over one connection of the loopback per thread.
pub fn round_trips(repeated: &Repeated, interrupt: &Interrupt) -> Result<Run, Failure> {
    let failed = |error: io::Error| cannot("raw round trips", &error);
    let bytes_each = repeated.bytes_each as usize;
    let prepare = || {
        let (ours, mut theirs) = connection().map_err(failed)?;
        // Ends when our end is closed.
        let answering = thread::Builder::new().name("round trips".to_string()).spawn(move || {
            let (mut request, reply) = ([0; REQUEST_BYTES], vec![1; bytes_each]);
            while theirs.read_exact(&mut request).is_ok() && theirs.write_all(&reply).is_ok() {}
        });
        answering.map_err(failed)?;
        Ok((ours, vec![0; bytes_each]))
    };
    repeated.run(interrupt, prepare, |(ours, reply): &mut (TcpStream, Vec<u8>), _| {
        let begun = Instant::now();
        ours.write_all(&[0; REQUEST_BYTES])
            .and_then(|()| ours.read_exact(reply))
            .map_err(failed)?;
        Ok(begun.elapsed())
    })
}

/// Both ends of a connection over the loopback.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (other, from) = listener.accept()?;
        // Whoever else connects to our port meanwhile is not ours.
        if from == one.local_addr()? {
            one.set_nodelay(true)?;
            other.set_nodelay(true)?;
            return Ok((one, other));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_limit_is_measured_and_leaves_nothing_behind() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let interrupt = Interrupt::default();
        let repeated = Repeated { threads: 3, time: Duration::from_millis(20), bytes_each: 4096 };
        let runs = [
            disk_write(place.path(), (3 << 20) + 5, &interrupt),
            create_and_sync(place.path(), &repeated, &interrupt),
            create_tree(place.path(), 1200, &interrupt),
            tcp_stream((3 << 20) + 5, &interrupt),
            round_trips(&repeated, &interrupt),
        ]
        .map(|run| run.expect("it is measured"));
        assert_eq!((runs[0].bytes, runs[2].operations, runs[3].bytes), (3145733, 1200, 3145733));
        for run in &runs {
            assert!(run.operations > 0 && run.seconds > 0.0, "{run:?}");
        }
        assert!(runs[1].latency.is_some() && runs[4].latency.is_some());
        assert_eq!(fs::read_dir(place.path()).expect("it is there").count(), 0);
    }
}
