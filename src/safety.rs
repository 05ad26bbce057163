//! Why it holds: the argument for each promise of the store, in one place. It is documentation alone;
//! each step names the module in which it is made true. The tests that try to break each of them are
//! listed in `tests/PROMISES.md`.
//!
//! # What is assumed
//!
//! - A disk keeps what an `fdatasync` that returned without error had covered, until it tells of an
//!   error, or changes bits, which checksums find. It need not keep anything else, nor the order of
//!   writes: that is what a power cut takes away in the tests.
//! - BLAKE3 does not collide, and SHA-1 does not where a collision-detecting SHA-1 finds nothing.
//! - Processes end at any instruction, messages are lost, repeated, late or cut off, and clocks jump.
//!   None of the arguments below rests on a timeout but that of unknown serials, which wait a day, and
//!   that of the mark, under *What is not closed yet*: others only decide when to try something else.
//! - Fewer disks are destroyed together than a chunk has copies. Whoever has them all destroyed within
//!   the time that one repair takes loses what was on these alone.
//!
//! # 1. What was acknowledged is never lost
//!
//! *A copy that is reported exists.* A node answers and reports (`stored`) only after
//! `segments` returned from `wait_durable`: the record, whose bytes were hashed as
//! they came in, was written, its segment synced, and the directory that names the segment synced
//! before the segment took its first record. A sync that fails ends all storing of that node for good,
//! since nobody knows what the disk holds then; it is not tried again as if nothing had been.
//!
//! *A copy that counts is one that exists.* The `catalog` enters a copy on its
//! holder's own word alone, with a token as proof that it was to be there. A node that comes back
//! counts only after what it really holds was compared, bucket by bucket, with the books: nothing that
//! it lost while it was away is relied upon.
//!
//! *A commit rests on copies that count.* `commit_files` checks in its own transaction that every chunk
//! is the account's own, is not condemned, and has enough copies on nodes that are alive. Those two
//! checks and the new version become durable in one sync of the catalog, and only then is the client
//! answered. Confirmations may be answered before their sync, since none of them is a promise to a
//! client: the commit that makes them matter is in the same log behind them, so its sync covers them.
//!
//! *A version keeps its chunks.* From the commit on, the chunk's record counts its references; only a
//! transaction that takes the last of them away can condemn it (promise 2). An upload that has not come
//! to its commit is held by its lease; when that has run out, the commit finds the chunk missing and
//! says so, and the client stores it again.
//!
//! *The books outlive their disk.* Each change of the catalog is in the `journal` on
//! at least two nodes a moment later, and before an orderly end is over. What the main server's disk takes
//! with it is at most the lag that its status showed; recovery asks every node that a node or the catalog
//! names, and refuses to pass over a piece that is missing before that.
//!
//! # 2. Nothing that we do lowers the number of verified copies below what is wanted
//!
//! There are just three things by which the store itself takes a copy away: a node's drop of a damaged
//! one, the deletion of one that was condemned, and compaction. (A node that is struck off loses its
//! copies by a person's word; without force that is refused while anything depends on them.)
//!
//! *Damage.* What does not match its checksum is no copy. It is dropped only after a second reading said
//! the same, and reported, so that it is made anew from another. Nobody's word but the holder's own
//! reading costs a copy: a client's report only makes the holder look. What the disk fails to read,
//! twice, does not count any more either, but is not given up: it becomes trash, its segment is left
//! alone for as long as trash is held, and once the disk reads it again it is restored, and counts after
//! a comparison with the books.
//!
//! *Condemning comes before deleting, durably.* A copy is deleted on its node only by an order, an order
//! is made only from the table of condemned copies, and that table is read only where it is durable. The
//! transaction that condemns takes the copy off the chunk's record. So at no time, whatever crashes,
//! does a copy count for which an order may be out.
//!
//! - *Surplus* is condemned only if, in that very transaction, enough other copies are counted on nodes
//!   that are alive and compared, and stay. Two trims of one chunk are two transactions, and the second
//!   sees what the first took. The confirmations on which that rests are older entries of the same log,
//!   so they are durable when the order leaves: a power cut cannot take the new copy back and leave the
//!   trim standing.
//! - *Unreferred* chunks are condemned when nothing refers to them and no lease holds them (what a user
//!   purges, whatever holds it); a commit that would refer to one runs before that transaction, and is
//!   seen by it, or after it, finds it gone, and says so, and the client stores it again.
//! - *Unknown* serials, which a node holds and the books lack, wait a day of a clock that nobody doubts,
//!   and never go in large numbers without a person's word: they may be what a restored catalog has forgotten.
//!
//! *An order cannot hit other bytes.* It names serials. A serial is drawn once for each storing of a
//! chunk, from a sequence that each start of a main server moves above everything that any earlier life
//! of the catalog can have given out, backups and copies of it included; the same bytes stored anew have
//! another. But a copy that was deleted may be made again on that node, with its serial, and must not be
//! hit by an order of before:
//!
//! - While a serial is condemned on a node, a confirmation of it from there is refused, and nothing ends
//!   that but the acknowledgement of an order, durably noted: not a comparison, nor a restart.
//! - A node has one order to delete at a time, and no other is made before the acknowledgement of this
//!   one is in the catalog, or cannot come there any more, and then its copies stay condemned. One that was taken back may still be carried out: but a node carries such
//!   orders out one by one, as they came. So with the order that was acknowledged, all before it are over.
//! - Books that come next may count what the ones before wanted deleted. Before a node tells what it
//!   holds to a main server that started anew, it gives up the orders to delete that wait, and ends the
//!   one that it is at.
//! - What comes to the node between the deletion and its note in the catalog does not count, and is
//!   noted as there again: the acknowledgement passes it over, and the next order deletes it.
//!
//! *A confirmation cannot outlive its copy.* A `stored` that came after the removal was acknowledged,
//! and so forgotten, would count a copy that is gone. The node tells only of copies that its index
//! holds when the exchange begins, however long the confirmation has waited, and acknowledges a removal
//! only when the index holds its copies no more and the exchange that had begun before is over: so each
//! `stored` of it was answered before, while the copy was condemned and could not count; or else its
//! connection broke, and it may lie at the main server unread. Then the heartbeat that acknowledges the
//! removal says that this connection is given up, as does whatever comes on the next one, and before the acknowledgement is noted, what is being
//! taken in from there is over, and from then on nothing is. The same holds for lists of what is held, on
//! an earlier control connection, and for all that an earlier start of the node has said. Nothing is held
//! up for that, and nobody waits in a circle: whoever removes holds no lock while it waits for an
//! exchange, and an exchange waits for the main server alone, for a bounded time. In the same way a
//! `stored` never follows the `lost` of what was dropped: it is left out, or was sent before.
//!
//! *A main server that is not the right one deletes nothing.* Each start of a main server enters a random
//! incarnation into the catalog's history, and ends the one before it at the mark that the books have
//! then, a number that rises with each durable change. A node obeys an order to delete only from one
//! whose history holds the last incarnation that the node saw, up to the last mark that it heard. A blank
//! catalog, an old backup, or the second of two copies lacks the incarnation; a copy that was made while
//! the main server ran has it, but came to an earlier mark in it, and no later start of the copy changes
//! that, until a person adopts it. An honest start always has both, whatever crashed, since no mark is
//! told before it is durable; and no clock is in it. A node asks that anew whenever another main server may
//! have answered it since, be it only for a moment: two that take turns at one address are told apart
//! each time.
//!
//! *Even a wrong order is not the end.* A node moves what it is told to delete to its trash: a tombstone
//! hides the record, whose bytes stay for at least an hour and until the space is needed. An inventory
//! shows the trash, too, and what the books count on is taken out of it again. What a user purges skips
//! the trash; so that is ordered only once its removal is on two nodes, or cannot come there soon: a
//! catalog that is recovered from before it would count on what is gone.
//!
//! *Compaction moves, and only then forgets.* The live records of a segment are verified while they are
//! copied, the copies are synced, the index points to them, and only then does the old segment go. After
//! a crash in between both are there, and the later one counts. A tombstone hides every earlier record
//! of its serial, and stays until no older segment holds one, so nothing that was removed comes back.
//!
//! *Moving is copying, then trimming.* Draining and rebalancing have no operation of their own.
//!
//! *What is not closed yet.* The rule for main servers has one exception. A node hears of marks with its heartbeats, and has them on its disk a minute
//! later at the latest: a copy of the catalog that was made in the last seconds of its main server is
//! taken for the original, and one of its last minute by a node that was killed together with it.
//!
//! # 3. Nobody reads or writes what they were not granted
//!
//! Every transfer with a node needs a `token`: an HMAC over the operation, the node, the
//! chunk, its serial and length, the account and the expiry, under a key that only the main server and
//! that node have. A store token lets in the very bytes that it names; a fetch token reads one chunk; a
//! remove token names the list of serials by its hash. The main server makes them for an account's own
//! chunks alone: to know a hash is not enough, and no answer tells whether another account has it. What
//! the nodes keep of the catalog is sealed under a key that they do not have.
//!
//! # 4. It explains itself
//!
//! Placement returns a reason with every node that it takes or refuses, and the reason is kept with the
//! copy. Everything that waits (a brake, a node that is to come back, a disk that is full) is a notice in
//! the status with its numbers and the next thing to type. Faults come from one list, and say what
//! failed, on what, and why.
//!
//! # 5. Anyone can write a client
//!
//! protocol.md is the contract. Its examples and vectors are read by the tests with the very types that
//! the programs use, so it cannot drift; and a client of under 100 lines of Python, written by it, is run
//! against the programs.
//!
//! # 6. As fast as the machine
//!
//! The only work for each byte is one hash at each end, one copy to the disk and one to the network:
//! chunks are never inside JSON, never copied between buffers of ours, and never pass through the main
//! server. Durability costs what one sync shared by all that wait for it costs.
//!
//! # 7. Small
//!
//! Whatever a peer can make grow has a bound: messages by their limits, checked before anything is
//! allocated; connections by their number; payloads under way by a budget in bytes, which duplicates have
//! of their own, so that nodes which store to each other cannot wait for each other; queues by a capacity
//! beyond which their content is found again in the catalog. Lists of chunks are read in pages; what is
//! kept of each chunk in memory is the node's index entry alone.
