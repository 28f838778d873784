//! Real pods on the one node of a running cluster: how long they take to start, what they cost while they rest, how long a
//! command in one takes. Times are the client's: from sending the request to the event on a watch of its own.

mod burst;
mod exec;
mod rest;
mod seen;
mod start;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use futures::stream::{self, StreamExt, TryStreamExt};
use weir_client::{Api, Client, Config, DeleteOptions};
use weir_proto::core::v1::Pod;

use crate::objects;
use seen::Watched;

/// Requests under way at a time.
const AT_ONCE: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// An administrator's kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// One pod after another, from nothing to Running, Ready and gone
    Start(start::Options),
    /// Many pods at once
    Burst(burst::Options),
    /// Pods that do nothing: memory and CPU of what looks after them
    Rest(rest::Options),
    /// Commands in a running pod, one after another
    Exec(exec::Options),
}

pub(crate) async fn run(options: Options) -> Result<String> {
    let client = Client::new(&Config::from_kubeconfig(&options.kubeconfig, None)?)?;
    let crowd = Crowd::new(client).await?;
    Ok(match options.load {
        Load::Start(options) => serde_json::to_string(&start::run(crowd, &options).await?)?,
        Load::Burst(options) => serde_json::to_string(&burst::run(crowd, &options).await?)?,
        Load::Rest(options) => serde_json::to_string(&rest::run(crowd, &options).await?)?,
        Load::Exec(options) => serde_json::to_string(&exec::run(crowd, &options).await?)?,
    })
}

/// The pods of a load, made, watched and removed.
struct Crowd {
    client: Client,
    api: Api<Pod>,
    watched: Watched,
}

impl Crowd {
    async fn new(client: Client) -> Result<Self> {
        let api = client.namespaced::<Pod>(objects::NAMESPACE);
        let watched = Watched::start(&api).await?;
        Ok(Self { client, api, watched })
    }

    /// Asks for all of them; returns as soon as the last request was answered.
    async fn create(&self, pods: &[Pod]) -> Result<()> {
        let created = stream::iter(pods).map(|pod| self.api.create(pod)).buffer_unordered(AT_ONCE);
        Ok(created.try_for_each(async |_| Ok(())).await?)
    }

    /// Asks for their end, and waits for it.
    async fn remove(&mut self, names: &[String]) -> Result<()> {
        let options = DeleteOptions::default();
        let asked = stream::iter(names).map(|name| self.api.delete(name, &options)).buffer_unordered(AT_ONCE);
        asked.try_for_each(async |_| Ok(())).await?;
        self.watched.until("gone", |seen| names.iter().all(|name| seen.gone.contains_key(name))).await
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}-{index}")).collect()
}
