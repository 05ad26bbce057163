//! Fills a cluster as clients and nodes would: chunks are reserved, their copies confirmed, files
//! committed, in messages of the usual size. The nodes' stores, if there are any, get the bytes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use p2pdfs::catalog::{
    Catalog, Condition, Confirmation, LiveNodes, Manifest, NewFile, SqliteCatalog,
};
use p2pdfs::clock::{Clock, WallTime};
use p2pdfs::ids::{ChunkId, NodeId, RequestId, Secret, Serial};
use p2pdfs::segments::{NewChunk, Store, StoreOptions};

use crate::plan::{
    ACCOUNT, CHUNK_BYTES, GROUP_CHUNKS, GROUP_FILES, Plan, bytes_of, chunks_of, id_of, path_of,
};
use crate::process::Usage;
use crate::{Outcome, Place, cluster};

/// What one message carries.
pub const BATCH: usize = 1000;

#[derive(Debug, Args)]
pub struct FillArgs {
    /// Where to make it; nothing may be there
    dir: PathBuf,
    /// How many chunks: five for each file
    #[arg(long, default_value_t = 10_000_000)]
    chunks: u64,
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    #[arg(long, default_value_t = 3)]
    copies: u8,
    /// With real nodes, whose stores hold the chunks
    #[arg(long)]
    stores: bool,
}

impl FillArgs {
    /// One group of a cluster that is otherwise as planned.
    pub fn small(dir: PathBuf, plan: &Plan) -> FillArgs {
        FillArgs {
            dir,
            chunks: GROUP_CHUNKS,
            nodes: plan.nodes,
            copies: plan.copies,
            stores: false,
        }
    }
}

/// Makes a cluster and fills it.
pub fn fill(args: &FillArgs) -> Outcome<()> {
    let plan = Plan { groups: args.chunks / GROUP_CHUNKS, nodes: args.nodes, copies: args.copies };
    if u32::from(plan.copies) > plan.nodes {
        return Err("there cannot be more copies than nodes".into());
    }
    let place = Place(args.dir.clone());
    std::fs::create_dir(&place.0)?;
    place.write_plan(&plan)?;
    let invite = cluster::make_main(&place, plan.nodes)?;
    if args.stores {
        cluster::make_nodes(&place, plan.nodes, invite)?;
    }
    let catalog = SqliteCatalog::open(&place.main())?;
    if !args.stores {
        for _ in 0..plan.nodes {
            let secret = Secret::random().fingerprint();
            catalog.join_node(&invite.fingerprint(), &secret, Clock::system().wall())?;
        }
    }
    let stores = open_stores(&place)?;
    let filler = Filler { plan, catalog, stores, now: Clock::system().wall() };
    filler.fill_all()?;
    filler.close()?;
    report_size(&place, &plan)
}

fn open_stores(place: &Place) -> Outcome<Vec<Store>> {
    let open = |number| {
        let options = StoreOptions { reserve_bytes: Some(0), ..StoreOptions::offering(1 << 40) };
        Ok(Store::open(&place.node(number), options)?.0)
    };
    (1..=place.stores()).map(open).collect()
}

struct Filler {
    plan: Plan,
    catalog: SqliteCatalog,
    /// None, or all nodes' in order.
    stores: Vec<Store>,
    now: WallTime,
}

impl Filler {
    fn fill_all(&self) -> Outcome<()> {
        let (begun, every) = (Instant::now(), (self.plan.groups / 10).max(1));
        for group in 0..self.plan.groups {
            self.fill_group(group)?;
            let done = group + 1;
            if done % every == 0 || done == self.plan.groups {
                let (chunks, took) = (done * GROUP_CHUNKS, begun.elapsed().as_secs_f64());
                let rate = chunks as f64 / took;
                println!(
                    "{chunks:>9} chunks in {took:6.1} s, {rate:.0} a second; {}",
                    Usage::own()?
                );
            }
        }
        Ok(())
    }

    fn fill_group(&self, group: u64) -> Outcome<()> {
        let first = group * GROUP_CHUNKS;
        let numbers: Vec<u64> = (first..first + GROUP_CHUNKS).collect();
        let ids: Vec<ChunkId> = numbers.iter().map(|number| id_of(*number)).collect();
        let lease = self.now + Duration::from_secs(24 * 3600);
        for (numbers, ids) in numbers.chunks(BATCH).zip(ids.chunks(BATCH)) {
            let asked: Vec<(ChunkId, u32)> =
                ids.iter().map(|id| (*id, CHUNK_BYTES as u32)).collect();
            let reserved = self.catalog.reserve(ACCOUNT, self.plan.copies, lease, &asked)?;
            let serials = reserved.into_iter().map(|record| Ok(record?.serial));
            let serials: Vec<Serial> = serials.collect::<Outcome<_>>()?;
            self.store(numbers, ids, &serials)?;
            for node in (1..=self.plan.nodes).map(NodeId) {
                let said = self.confirmations(node, numbers, ids, &serials);
                for confirmed in self.catalog.confirm_copies(&said, lease)? {
                    confirmed?;
                }
            }
        }
        self.commit(group, &ids)
    }

    fn is_on(&self, chunk: u64, node: NodeId) -> bool {
        self.plan.holders(chunk).any(|holder| holder == node)
    }

    fn store(&self, numbers: &[u64], ids: &[ChunkId], serials: &[Serial]) -> Outcome<()> {
        for (store, node) in self.stores.iter().zip((1..).map(NodeId)) {
            let here: Vec<usize> =
                (0..numbers.len()).filter(|&at| self.is_on(numbers[at], node)).collect();
            let bytes: Vec<_> = here.iter().map(|&at| bytes_of(numbers[at])).collect();
            let new = here.iter().zip(&bytes).map(|(&at, bytes)| NewChunk {
                id: ids[at],
                serial: serials[at],
                account: ACCOUNT,
                bytes,
            });
            let new: Vec<NewChunk<'_>> = new.collect();
            let ticket = store.append(&new)?;
            store.wait_durable(ticket)?;
        }
        Ok(())
    }

    fn confirmations(
        &self,
        node: NodeId,
        numbers: &[u64],
        ids: &[ChunkId],
        serials: &[Serial],
    ) -> Vec<Confirmation> {
        let here = (0..numbers.len()).filter(|&at| self.is_on(numbers[at], node));
        let confirmation = |at| Confirmation {
            account: ACCOUNT,
            id: ids[at],
            serial: serials[at],
            length: CHUNK_BYTES as u32,
            wanted: self.plan.copies,
            node,
            reason: 1,
        };
        here.map(confirmation).collect()
    }

    fn commit(&self, group: u64, ids: &[ChunkId]) -> Outcome<()> {
        let live: LiveNodes = (1..=self.plan.nodes).map(NodeId).collect();
        let file = |place: u64| {
            let chunks = chunks_of(place);
            NewFile {
                path: path_of(group * GROUP_FILES + place),
                manifest: Manifest::Inline(
                    ids[chunks.start as usize..chunks.end as usize].to_vec(),
                ),
                copies: self.plan.copies,
                mtime_ms: self.now.0 as i64,
                executable: false,
                condition: Condition::Absent,
                parents: true,
            }
        };
        let files: Vec<NewFile> = (0..GROUP_FILES).map(file).collect();
        let request = RequestId::random();
        for committed in self.catalog.commit_files(ACCOUNT, request, self.now, &live, &files)? {
            committed?;
        }
        Ok(())
    }

    fn close(self) -> Outcome<()> {
        for store in self.stores {
            store.close()?;
        }
        Ok(())
    }
}

/// Says how large the catalog is, all things in it counted.
fn report_size(place: &Place, plan: &Plan) -> Outcome<()> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(place.main())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("catalog.db") {
            bytes += entry.metadata()?.len();
        }
    }
    let chunks = plan.chunks().max(1);
    println!(
        "{} files, {chunks} chunks with {} copies: {bytes} bytes, {} a chunk",
        plan.files(),
        plan.copies,
        bytes / chunks
    );
    Ok(())
}
