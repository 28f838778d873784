//! A watch over one gRPC stream of its own: HTTP/2's flow control then holds up a slow reader's stream and no other, and
//! etcd, not we, keeps its place.

use std::{collections::VecDeque, time::Duration};

use etcd_client::{WatchOptions, WatchResponse};
use futures::{StreamExt, stream};
use tokio::{sync::watch, time::timeout};

use super::{
    convert::{self, Base},
    members::Member,
};
use crate::{Batch, Error, Result, WatchStream};

/// How long etcd may take to put a watch in place.
const CREATION: Duration = Duration::from_secs(5);

/// Since when etcd's answer to a question for progress cannot overtake events any more (etcd issue 15220).
const ORDERED_PROGRESS: [(u32, u32, u32); 2] = [(3, 4, 25), (3, 5, 8)];

struct Reader {
    stream: etcd_client::WatchStream,
    ready: VecDeque<Batch>,
    /// Changes when somebody wants to know how far the watches are.
    asked: watch::Receiver<u64>,
    may_ask: bool,
    base: Base,
}

/// Puts a watch in place on one member, from a revision of etcd's. The outer error is the transport's, and lets another member be tried.
pub(super) async fn open(
    mut member: Member,
    prefix: &str,
    from: i64,
    asked: watch::Receiver<u64>,
    base: Base,
) -> Result<Result<WatchStream>, etcd_client::Error> {
    let may_ask = orders_progress(member.version().await?);
    let (start, end) = convert::range(prefix, None);
    let options =
        WatchOptions::new().with_range(end).with_start_revision(from).with_prev_key().with_progress_notify();
    let mut stream = member.watch.watch(start, Some(options)).await?;
    let created = timeout(CREATION, stream.message()).await;
    let created =
        created.map_err(|_| etcd_client::Error::WatchError("watch is not created in time".to_owned()))??;
    let first = match created {
        None => return Err(etcd_client::Error::WatchError("etcd closed the stream".to_owned())),
        Some(response) => batches(&response, base),
    };
    let reader = match first {
        Ok(ready) => Reader { stream, ready: ready.into(), asked, may_ask, base },
        Err(error) => return Ok(Err(error)),
    };
    let batches = stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match reader.next().await {
            Ok(batch) => Some((Ok(batch), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Ok(batches.boxed()))
}

impl Reader {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let response = tokio::select! {
                response = self.stream.message() => response,
                Ok(()) = self.asked.changed(), if self.may_ask => {
                    self.stream.request_progress().await.map_err(lost)?;
                    continue;
                }
            };
            match response {
                Ok(Some(response)) => self.ready.extend(batches(&response, self.base)?),
                Ok(None) => return Err(unavailable("etcd closed the stream".to_owned())),
                Err(error) => return Err(lost(error)),
            }
        }
    }
}

/// The batches of a response: one for each revision, or one without events. None of the response to the creation.
fn batches(response: &WatchResponse, base: Base) -> Result<Vec<Batch>> {
    if response.compact_revision() > 0 {
        return Err(Error::Compacted { compacted: base.ours(response.compact_revision()) });
    }
    if response.canceled() {
        return Err(unavailable(format!("etcd ended the watch: {}", response.cancel_reason())));
    }
    if response.created() {
        return Ok(Vec::new());
    }
    if response.events().is_empty() {
        let revision = base.ours(response.header().map_or(0, etcd_client::ResponseHeader::revision));
        return Ok(vec![Batch { revision, events: Vec::new() }]);
    }
    let mut batches: Vec<Batch> = Vec::new();
    for event in response.events() {
        let Some(event) = convert::event(event, base)? else { continue };
        let revision = event.kv.mod_revision;
        match batches.last_mut() {
            Some(batch) if batch.revision == revision => batch.events.push(event),
            _ => batches.push(Batch { revision, events: vec![event] }),
        }
    }
    Ok(batches)
}

fn lost(error: etcd_client::Error) -> Error {
    unavailable(error.to_string())
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable { operation: "watch", reason }
}

fn orders_progress(version: (u32, u32, u32)) -> bool {
    let [in_34, in_35] = ORDERED_PROGRESS;
    if version < (3, 5, 0) { version >= in_34 } else { version >= in_35 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_keep_progress_in_order_are_asked_for_it() {
        let table = [
            ((3, 4, 23), false),
            ((3, 4, 25), true),
            ((3, 5, 7), false),
            ((3, 5, 8), true),
            ((3, 6, 0), true),
        ];
        for (version, expected) in table {
            assert_eq!(orders_progress(version), expected, "{version:?}");
        }
    }
}
