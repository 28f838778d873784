//! One simulated node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};
use weir_client::{Client, WatchEvent, WatchOptions};
use weir_proto::coordination::v1::Lease;
use weir_proto::core::v1::{Node as NodeObject, Pod};
use weir_proto::meta::v1::MicroTime;

use super::Progress;
use crate::objects;

/// How often a node renews its Lease.
pub(super) const RENEW: Duration = Duration::from_secs(10);
/// Before a watch that broke is begun again.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub(super) struct Node {
    client: Client,
    index: usize,
    name: String,
    run_pods: bool,
    progress: Arc<watch::Sender<Progress>>,
}

impl Node {
    pub(super) fn new(
        client: Client,
        index: usize,
        run_pods: bool,
        progress: Arc<watch::Sender<Progress>>,
    ) -> Self {
        Self { client, index, name: objects::node_name(index), run_pods, progress }
    }

    /// Lives in tasks of `running`; `first` is when it first renews its lease.
    pub(super) fn live(self, lease: Lease, first: Duration, running: &mut JoinSet<()>) {
        running.spawn(self.clone().keep_lease(lease, first));
        running.spawn(self.follow());
    }

    pub(super) async fn register(&self) -> Result<Lease> {
        self.try_register().await.with_context(|| format!("register {}", self.name))
    }

    async fn try_register(&self) -> Result<Lease> {
        let nodes = self.client.api::<NodeObject>();
        nodes.create(&objects::node(self.index)?).await?;
        let status = objects::node_status(self.index)?;
        nodes.modify_status(&self.name, |node| node.status = Some(status.clone())).await?;
        Ok(self.client.api::<Lease>().create(&objects::lease(&self.name)?).await?)
    }

    async fn keep_lease(self, mut lease: Lease, first: Duration) {
        let api = self.client.api::<Lease>();
        let mut ticks = interval_at(Instant::now() + first, RENEW);
        loop {
            ticks.tick().await;
            lease.spec.get_or_insert_default().renew_time = Some(MicroTime::now());
            // A renewal that failed is made up for by the next.
            if let Ok(renewed) = api.update(&lease).await {
                lease = renewed;
            }
        }
    }

    /// Follows its pods, and goes on where a broken watch was.
    async fn follow(self) {
        let mut known = HashSet::new();
        let mut from = String::new();
        loop {
            let options = WatchOptions {
                field_selector: format!("spec.nodeName={}", self.name),
                resource_version: from.clone(),
                bookmarks: true,
                ..WatchOptions::default()
            };
            match self.client.api::<Pod>().watch(&options).await {
                Ok(mut events) => {
                    while let Some(Ok(event)) = events.next().await {
                        from = event.resource_version().to_owned();
                        self.take(event, &mut known).await;
                    }
                }
                Err(error) if error.is_gone() => from.clear(),
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn take(&self, event: WatchEvent<Pod>, known: &mut HashSet<String>) {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { return };
        if !known.insert(pod.meta().uid.clone()) {
            return;
        }
        self.progress.send_modify(|progress| progress.bound += 1);
        if self.run_pods && self.report_ready(pod, known.len()).await.is_ok() {
            self.progress.send_modify(|progress| progress.ready += 1);
        }
    }

    async fn report_ready(&self, pod: Pod, number: usize) -> Result<()> {
        self.client.api::<Pod>().update_status(&objects::running(pod, self.index, number)?).await?;
        Ok(())
    }
}
