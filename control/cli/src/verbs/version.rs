//! `weir version` and `weir cluster-info`.

use anyhow::{Result, bail};
use serde_json::json;
use weir_client::ListOptions;

use crate::session::Session;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this program's version
    #[arg(long)]
    pub(crate) client: bool,
    /// json or yaml
    #[arg(long, short)]
    output: Option<String>,
}

pub(crate) fn client(terminal: &Terminal, options: &Options) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({ "clientVersion": { "gitVersion": format!("v{version}") } });
    let text = match options.output.as_deref() {
        None => format!("Client Version: v{version}\n"),
        Some("json") => serde_json::to_string_pretty(&value)? + "\n",
        Some("yaml") => weir_proto::yaml::to_string(&value),
        Some(other) => bail!("-o {other}: no such format; use json or yaml"),
    };
    Ok(terminal.write(text.as_bytes())?)
}

/// The server tells its version over REST only; that it answers is worth knowing.
pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    client(&session.terminal, options)?;
    answers(session).await?;
    if options.output.is_none() {
        session.say(format_args!("Server: {}", session.server))?;
    }
    Ok(())
}

pub(crate) async fn cluster_info(session: &Session) -> Result<()> {
    answers(session).await?;
    session.say(format_args!("Weir control plane is running at {}", session.server))
}

async fn answers(session: &Session) -> Result<()> {
    let one = ListOptions { limit: 1, ..ListOptions::default() };
    session.client.dynamic(weir_proto::resolve("namespaces")?, None).list(&one).await?;
    Ok(())
}
