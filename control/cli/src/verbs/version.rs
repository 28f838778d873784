//! `weir version` and `weir cluster-info`.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
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
    print(terminal, options, None)
}

/// Where the server cannot be asked, this program's version is told all the same.
pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let server = ask(session).await;
    print(&session.terminal, options, server.as_ref().ok())?;
    server.map(drop)
}

async fn ask(session: &Session) -> Result<Value> {
    let document = session.client.document("/version").await?;
    serde_json::from_slice(&document).context("read the server's version")
}

fn print(terminal: &Terminal, options: &Options, server: Option<&Value>) -> Result<()> {
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let mut value = json!({ "clientVersion": { "gitVersion": version } });
    if let Some(server) = server {
        value["serverVersion"] = server.clone();
    }
    let text = match options.output.as_deref() {
        None => {
            let of_server = server.and_then(|server| server.get("gitVersion")).and_then(Value::as_str);
            let of_server = of_server.map(|version| format!("Server Version: {version}\n"));
            format!("Client Version: {version}\n{}", of_server.unwrap_or_default())
        }
        Some("json") => serde_json::to_string_pretty(&value)? + "\n",
        Some("yaml") => weir_proto::yaml::to_string(&value),
        Some(other) => bail!("-o {other}: no such format; use json or yaml"),
    };
    Ok(terminal.write(text.as_bytes())?)
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
