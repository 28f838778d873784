//! `weir net`: what the kernels of the nodes hold, read at this moment by their agents.

use anyhow::{Result, bail};
use clap::ValueEnum;
use weir_client::ListOptions;
use weir_proto::core::v1::Node;
use weir_proto::weir::v1::{NetRequest, NetTable};

use crate::output::Grid;
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    view: View,
    /// Of this node only
    #[arg(long)]
    node: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum View {
    /// Service addresses and ports, as the load balancer looks them up
    Services,
    /// The slots that services point into: who serves
    Backends,
    /// Every pinned map: its type, sizes, entries, who writes it and who reads it
    Maps,
    /// Flows that the dataplane translates
    Conntrack,
    /// Dropped packets by reason
    Drops,
    /// Pods' links: what may be sent from where
    Links,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let nodes = match &options.node {
        Some(node) => vec![node.clone()],
        None => {
            let nodes = session.client.api::<Node>().list(&ListOptions::default()).await?.items;
            nodes.into_iter().filter_map(|node| node.metadata).map(|meta| meta.name).collect()
        }
    };
    if nodes.is_empty() {
        bail!("the cluster has no nodes");
    }
    let mut grid: Option<Grid> = None;
    let mut silent = Vec::new();
    for node in nodes {
        match ask(session, &node, options.view).await {
            Ok(table) => add(&mut grid, table),
            // One node that is away must not hide the others.
            Err(error) => silent.push(format!("{node}: {error:#}")),
        }
    }
    if let Some(grid) = grid {
        session.print(grid)?;
    }
    if silent.is_empty() { Ok(()) } else { bail!("no answer from {}", silent.join("; ")) }
}

async fn ask(session: &Session, node: &str, view: View) -> Result<NetTable> {
    let view = match view {
        View::Services => "services",
        View::Backends => "backends",
        View::Maps => "maps",
        View::Conntrack => "conntrack",
        View::Drops => "drops",
        View::Links => "links",
    };
    let request = NetRequest { node_name: node.to_owned(), view: view.to_owned() };
    let answer = session.client.inspect().net(request).await;
    let table = answer.map_err(|status| session.client.error(&format!("read {view} of {node}"), status))?;
    Ok(table.into_inner())
}

fn add(grid: &mut Option<Grid>, table: NetTable) {
    let header = || {
        ["NODE".to_owned()].into_iter().chain(table.columns.iter().map(|name| name.to_uppercase())).collect()
    };
    let grid = grid.get_or_insert_with(|| Grid::new(header()));
    for row in table.rows {
        grid.push([table.node_name.clone()].into_iter().chain(row.cells).collect());
    }
}
