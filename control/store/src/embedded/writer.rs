//! The one thread that changes the store.
//!
//! It takes all transactions that have queued up while it was busy, decides them in order, writes them as one commit with one
//! fsync, shows them, and only then answers. So the more writers there are, the more each fsync carries.
//!
//! **Faults.** redb is unusable after an I/O error, so the file is opened anew. The number of the commit that failed
//! (`serial`) then tells whether it is in the file after all; if so it is shown and answered as done. While the file
//! cannot be opened, writes are refused and reads go on from memory.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    batch::Batch,
    disk::{Disk, Fault, Write},
    index::Place,
    medium::Medium,
    record,
    state::{Leased, Shared},
};
use crate::{Error, LeaseId, Op, Result, Txn, TxnOutcome};

/// Most transactions and bytes of one commit.
const GROUP_TXNS: usize = 1024;
const GROUP_BYTES: usize = 8 << 20;
/// How long to wait for the writers just answered to come back, once several have been seen. Small beside an fsync.
const GATHER: Duration = Duration::from_micros(150);
/// Most garbage removed with one commit.
const SWEEP: usize = 4096;
/// How often the file is opened anew after a fault, and for how long at once if only our own readers hold it.
const RETRY: Duration = Duration::from_millis(200);
const OWN_READERS: Duration = Duration::from_secs(1);
/// A lease that lasts longer does not end in practice, and its end can be computed.
const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Where the answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

pub(super) enum Request {
    /// The permit bounds the bytes that wait.
    Txn {
        txn: Txn,
        reply: Reply<TxnOutcome>,
        permit: OwnedSemaphorePermit,
    },
    Grant {
        ttl: Duration,
        reply: Reply<LeaseId>,
    },
    Revoke {
        lease: LeaseId,
        reply: Reply<()>,
    },
    Compact {
        revision: i64,
        reply: Reply<()>,
    },
}

/// What becomes visible once a write is durable.
enum Effect {
    Changes(Vec<Leased>),
    Compaction(i64),
    Grant(LeaseId, Duration),
    End(LeaseId, Vec<Leased>),
    Sweep,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    medium: Box<dyn Medium>,
    requests: Receiver<Request>,
    serial: i64,
    last_lease: i64,
    garbage: Vec<Place>,
    /// Transactions of the last group: whether it is worth waiting for more.
    last_group: usize,
    trouble: Option<Trouble>,
}

/// The file had a fault and has not been opened since.
struct Trouble {
    fault: Fault,
    retry_at: Instant,
    /// The write of which nobody knows whether it is in the file.
    doubtful: Option<(i64, Effect)>,
}

/// Whatever ends the thread closes the store: no call may wait for it in vain.
struct CloseAtEnd(Arc<Shared>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        medium: Box<dyn Medium>,
        requests: Receiver<Request>,
        (serial, last_lease): (i64, i64),
        mut garbage: Vec<Place>,
    ) -> Self {
        // Taken from the end, so that the older goes first.
        garbage.reverse();
        Self { shared, medium, requests, serial, last_lease, garbage, last_group: 0, trouble: None }
    }

    /// Serves until no one can send requests any more.
    pub(super) fn run(mut self) {
        let _close = CloseAtEnd(Arc::clone(&self.shared));
        loop {
            match self.requests.recv_timeout(self.idle_time()) {
                Ok(request) => self.serve(request),
                Err(RecvTimeoutError::Timeout) => self.sweep(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.end_leases();
        }
    }

    /// How long there is nothing to do without a request.
    fn idle_time(&self) -> Duration {
        const FOREVER: Duration = Duration::from_secs(3600);
        let next_end = self.shared.leases().next_end();
        let lease = next_end.map_or(FOREVER, |end| end.saturating_duration_since(Instant::now()));
        let sweep = if self.garbage.is_empty() { FOREVER } else { Duration::from_millis(20) };
        let trouble = if self.trouble.is_some() { RETRY } else { FOREVER };
        lease.min(sweep).min(trouble)
    }

    fn serve(&mut self, first: Request) {
        let (mut txns, mut replies) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut next = Some(first);
        let mut control = None;
        let gather_until = Instant::now() + GATHER;
        while let Some(request) = next.take() {
            match request {
                Request::Txn { txn, reply, permit } => {
                    bytes += txn.size();
                    txns.push(txn);
                    replies.push((reply, permit));
                }
                other => {
                    control = Some(other);
                    break;
                }
            }
            if txns.len() < GROUP_TXNS && bytes < GROUP_BYTES {
                next = self.requests.try_recv().ok().or_else(|| self.gather(txns.len(), gather_until));
            }
        }
        self.last_group = txns.len();
        if !txns.is_empty() {
            self.commit(txns, replies);
        }
        match control {
            Some(Request::Grant { ttl, reply }) => answer(reply, self.grant(ttl)),
            Some(Request::Revoke { lease, reply }) => answer(reply, self.revoke(lease)),
            Some(Request::Compact { revision, reply }) => answer(reply, self.compact(revision)),
            Some(Request::Txn { .. }) | None => {}
        }
    }

    /// Waits a moment for the next request, if the last group was larger than this one is yet.
    fn gather(&self, size: usize, until: Instant) -> Option<Request> {
        if size >= self.last_group {
            return None;
        }
        self.requests.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }

    fn commit(&mut self, txns: Vec<Txn>, replies: Vec<(Reply<TxnOutcome>, OwnedSemaphorePermit)>) {
        let decided = self.ready("write").and_then(|disk| Ok((disk, self.decide(txns)?)));
        let (disk, (outcomes, changes)) = match decided {
            Ok(decided) => decided,
            Err(error) => {
                replies.into_iter().for_each(|(reply, _)| answer(reply, Err(error.clone())));
                return;
            }
        };
        // Even an outcome that changes nothing may rest on another of the group that does.
        let written = if changes.is_empty() {
            Ok(())
        } else {
            self.perform("write", disk, changes_write(&changes), Effect::Changes(changes))
        };
        for ((reply, _permit), outcome) in replies.into_iter().zip(outcomes) {
            answer(reply, outcome.and_then(|outcome| written.clone().map(|()| outcome)));
        }
    }

    fn decide(&self, txns: Vec<Txn>) -> Result<(Vec<Result<TxnOutcome>>, Vec<Leased>)> {
        let state = self.shared.read("write")?;
        let leases = self.shared.leases();
        let mut batch = Batch::new(&state.index, state.revision);
        let outcomes =
            txns.into_iter().map(|txn| batch.decide(txn, |lease| leases.is_alive(lease))).collect();
        Ok((outcomes, batch.into_changes()))
    }

    fn grant(&mut self, ttl: Duration) -> Result<LeaseId> {
        let ttl = Duration::from_secs(ttl.as_nanos().div_ceil(1_000_000_000).max(1) as u64).min(MAX_TTL);
        let disk = self.ready("grant a lease")?;
        let id = LeaseId(self.last_lease + 1);
        let write = Write { grant: Some((id, ttl)), ..Write::default() };
        self.perform("grant a lease", disk, write, Effect::Grant(id, ttl))?;
        Ok(id)
    }

    /// Deletes the lease's keys and the lease, in one commit.
    fn revoke(&mut self, lease: LeaseId) -> Result<()> {
        let disk = self.ready("end a lease")?;
        let keys = self.shared.leases().keys(lease).ok_or(Error::LeaseNotFound(lease))?;
        let changes = {
            let state = self.shared.read("end a lease")?;
            let mut batch = Batch::new(&state.index, state.revision);
            batch.perform(keys.into_iter().map(|key| Op::Delete { key }).collect());
            batch.into_changes()
        };
        let write = Write { end: Some(lease), ..changes_write(&changes) };
        self.perform("end a lease", disk, write, Effect::End(lease, changes))
    }

    fn end_leases(&mut self) {
        let expired = self.shared.leases().expire(Instant::now());
        for lease in expired {
            if let Err(error) = self.revoke(lease) {
                tracing::warn!(%lease, %error, "lease cannot be ended yet");
                self.shared.leases().postpone_end(lease, Instant::now() + RETRY);
            }
        }
    }

    fn compact(&mut self, revision: i64) -> Result<()> {
        let disk = self.ready("compact")?;
        let (newest, compacted) = {
            let state = self.shared.read("compact")?;
            (state.revision, state.compacted)
        };
        if revision > newest {
            return Err(Error::FutureRevision { requested: revision });
        }
        if revision <= compacted {
            return Ok(());
        }
        let write = Write { compacted: Some(revision), ..Write::default() };
        self.perform("compact", disk, write, Effect::Compaction(revision))
    }

    /// Removes some of what compactions left, when there is nothing else to do. Tries the file again after a fault.
    fn sweep(&mut self) {
        let swept = self.ready("compact").and_then(|disk| {
            if self.garbage.is_empty() {
                return Ok(());
            }
            self.perform("compact", disk, Write::default(), Effect::Sweep)
        });
        if let Err(error) = swept {
            tracing::debug!(%error, "store is not in order yet");
        }
    }

    /// Makes a write durable and shows its effect. Whoever decides on a write asks for the disk first: that may show
    /// the effect of a doubtful one, on which the decision has to build.
    fn perform(
        &mut self,
        operation: &'static str,
        disk: Arc<Disk>,
        mut write: Write,
        effect: Effect,
    ) -> Result<()> {
        self.serial += 1;
        write.serial = self.serial;
        if write.revision == 0 {
            write.revision = self.shared.read(operation)?.revision;
        }
        let keep = self.garbage.len().saturating_sub(SWEEP);
        write.garbage = self.garbage[keep..].iter().rev().copied().collect();
        match disk.commit(&write) {
            Ok(()) => {
                self.garbage.truncate(keep);
                self.show(effect);
                Ok(())
            }
            Err(fault) => {
                drop(disk);
                self.resolve(operation, fault, effect)
            }
        }
    }

    fn show(&mut self, effect: Effect) {
        match effect {
            Effect::Changes(changes) => self.shared.publish(changes),
            Effect::Grant(id, ttl) => {
                self.last_lease = id.0;
                self.shared.leases().grant(id, ttl, Instant::now());
            }
            Effect::End(id, changes) => {
                self.shared.publish(changes);
                self.shared.leases().remove(id);
            }
            Effect::Compaction(revision) => {
                let mut garbage = self.shared.compact(revision);
                garbage.reverse();
                // What is older waits at the end, to go first.
                garbage.append(&mut self.garbage);
                self.garbage = garbage;
            }
            Effect::Sweep => {}
        }
    }

    /// After a fault: finds out what became of the write.
    fn resolve(&mut self, operation: &'static str, fault: Fault, effect: Effect) -> Result<()> {
        tracing::warn!(%fault, "store cannot be written");
        self.shared.set_disk(None);
        let serial = self.serial;
        let refusal = fault.refusal(operation);
        let reason = fault.to_string();
        self.trouble = Some(Trouble { fault, retry_at: Instant::now(), doubtful: Some((serial, effect)) });
        match self.ready(operation) {
            Ok(_) if self.serial == serial => Ok(()),
            Ok(_) => Err(refusal),
            Err(_) => Err(Error::OutcomeUnknown { operation, reason }),
        }
    }

    /// The file, opened anew if it had a fault and it is time to try.
    fn ready(&mut self, operation: &'static str) -> Result<Arc<Disk>> {
        let Some(trouble) = &mut self.trouble else {
            let closed = || Error::Unavailable { operation, reason: "store is closed".to_owned() };
            return self.shared.disk().ok_or_else(closed);
        };
        if Instant::now() < trouble.retry_at {
            return Err(trouble.fault.refusal(operation));
        }
        match reopen(&*self.medium) {
            Ok((disk, serial)) => {
                let disk = Arc::new(disk);
                self.shared.set_disk(Some(Arc::clone(&disk)));
                self.serial = serial;
                let doubtful = self.trouble.take().and_then(|trouble| trouble.doubtful);
                // It is in the file. What it removed there is removed again, which does no harm.
                if let Some((_, effect)) = doubtful.filter(|(tried, _)| *tried == serial) {
                    self.show(effect);
                }
                tracing::info!("store is in order again");
                Ok(disk)
            }
            Err(fault) => {
                trouble.retry_at = Instant::now() + RETRY;
                let refusal = fault.refusal(operation);
                trouble.fault = fault;
                Err(refusal)
            }
        }
    }
}

/// Opens the file, whose lock readers of the former one may hold for a moment yet, and reads the number of its last commit.
fn reopen(medium: &dyn Medium) -> Result<(Disk, i64), Fault> {
    let deadline = Instant::now() + OWN_READERS;
    loop {
        match Disk::open(medium) {
            Err(Fault::InUse) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            Err(fault) => return Err(fault),
            Ok(disk) => {
                let serial = disk.meta()?.serial;
                return Ok((disk, serial));
            }
        }
    }
}

fn changes_write(changes: &[Leased]) -> Write {
    let mut write = Write::default();
    for Leased { change, leases } in changes {
        write.revision = change.revision;
        for (sub, (event, lease)) in (0..).zip(change.events.iter().zip(leases)) {
            let mut bytes = Vec::new();
            record::encode(event, *lease, &mut bytes);
            write.records.push(((change.revision, sub), bytes));
        }
    }
    write
}

/// Answers, unless the asker has gone.
fn answer<T>(reply: Reply<T>, result: Result<T>) {
    drop(reply.send(result));
}
