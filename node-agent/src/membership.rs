//! The node's place in the cluster: joined, registered, and kept so, whenever the control plane is there.
//!
//! **Invariant:** nothing on this node waits for it, but for what only the control plane can give: the first certificate
//! and the first pod range.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_client::{Client, Informer, Notice};
use weir_proto::core::v1::Node;

use crate::config::Config;
use crate::identity::Identity;
use crate::node::{self, Reporter};

/// How often it is looked whether the certificate is to be renewed.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) reporter: Reporter,
    /// The node's own, once it has one.
    pub(crate) identity: watch::Sender<Option<Identity>>,
    pub(crate) registered: watch::Sender<bool>,
}

impl Membership {
    /// Fails when the control plane does not want this node; waits while it is away.
    pub(crate) async fn keep(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        if self.identity.borrow().is_none() {
            let joined = Identity::join(&self.config).await?;
            self.client.reconnect(&joined.client_config(&self.config))?;
            self.identity.send_replace(Some(joined));
        }
        self.reporter.register().await.context("cannot register the node")?;
        self.registered.send_replace(true);
        let name = self.config.node_name.clone();
        tokio::join!(
            node::keep_lease(self.client.clone(), name, shutdown.clone()),
            self.reporter.run(shutdown),
            renew(self.config, self.client, self.identity),
        );
        Ok(())
    }
}

/// Renews the certificate in time, for the client and for whoever serves with it.
async fn renew(config: Arc<Config>, client: Client, identity: watch::Sender<Option<Identity>>) {
    loop {
        let present = identity.borrow().clone();
        if let Some(present) =
            present.filter(|present| present.renew_at().is_ok_and(|at| at <= Timestamp::now()))
        {
            match present.renew(&config).await {
                Ok(renewed) => {
                    if let Err(error) = client.reconnect(&renewed.client_config(&config)) {
                        tracing::warn!(%error, "cannot use the renewed certificate");
                    }
                    tracing::info!("renewed the node's certificate");
                    identity.send_replace(Some(renewed));
                }
                Err(error) => tracing::warn!(%error, "cannot renew the node's certificate"),
            }
        }
        tokio::time::sleep(RENEWAL_LOOK).await;
    }
}

/// The range that the control plane gave this node, as it was last known; before that the one of `--pod-cidr`.
#[derive(Clone, Debug)]
pub(crate) struct PodRange {
    path: PathBuf,
}

impl PodRange {
    pub(crate) fn of(config: &Config) -> Self {
        Self { path: config.state_dir.join("pod-cidr") }
    }

    pub(crate) fn known(&self, config: &Config) -> Option<String> {
        let saved = fs::read_to_string(&self.path).ok().map(|text| text.trim().to_owned());
        saved.filter(|range| !range.is_empty()).or_else(|| config.pod_cidr.clone())
    }

    pub(crate) fn save(&self, range: &str) {
        let beside = self.path.with_extension("new");
        let written = fs::write(&beside, format!("{range}\n")).and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "cannot note down the node's pod range");
        }
    }

    /// Ends with an error when the control plane gives the node another range than the one in use: what is open was
    /// opened for that one.
    pub(crate) async fn hold(self, used: String, node: Informer<Node>) -> anyhow::Result<()> {
        let mut changes = node.subscribe();
        loop {
            if let Some(given) = node.list().first().map(|node| node.spec().pod_cidr.clone())
                && !given.is_empty()
            {
                self.save(&given);
                anyhow::ensure!(
                    given == used,
                    "the control plane gave this node the pod range {given}, where {used} is in use: start again"
                );
            }
            match changes.next().await {
                Some(Notice::Changed(_) | Notice::Resync) => {}
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_range_that_the_control_plane_gave_counts_more_than_the_flag() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = format!("--state-dir={}", dir.path().display());
        let flags = [
            "weir-agent",
            "--node-name=n",
            "--server=https://s:1",
            "--ca=/ca",
            &state,
            "--uplink=eth0",
            "--node-ip=10.31.0.11",
            "--listen=10.31.0.11:10250",
        ];
        let config = Config::try_parse_from(flags).expect("flags");
        let range = PodRange::of(&config);
        assert_eq!(range.known(&config), None);
        let config = Config::try_parse_from(flags.iter().chain(&["--pod-cidr=10.9.0.0/24"])).expect("flags");
        assert_eq!(range.known(&config).as_deref(), Some("10.9.0.0/24"));
        range.save("10.32.1.0/24");
        assert_eq!(range.known(&config).as_deref(), Some("10.32.1.0/24"));
    }
}
