//! A connection to the API server, from the flags and the kubeconfig.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use weir_client::{Client, Config, DynamicApi};
use weir_proto::Kind;

use crate::arguments::Connection;

pub(crate) struct Session {
    pub(crate) client: Client,
    /// Where objects without a namespace of their own are looked for.
    pub(crate) namespace: String,
}

impl Session {
    pub(crate) fn open(connection: &Connection) -> Result<Self> {
        let path = match &connection.kubeconfig {
            Some(path) => path.clone(),
            None => find_kubeconfig()?,
        };
        if !path.exists() {
            bail!(
                "no kubeconfig at {}; is the cluster up? (--kubeconfig FILE names another)",
                path.display()
            );
        }
        let config = Config::from_kubeconfig(&path, connection.context.as_deref())
            .with_context(|| format!("read the kubeconfig {}", path.display()))?;
        let namespace = connection.namespace.clone().or_else(|| config.namespace.clone());
        let client = Client::new(&config)?.with_field_manager("weir").with_warnings(warn);
        Ok(Self { client, namespace: namespace.unwrap_or_else(|| "default".to_owned()) })
    }

    /// The objects of a kind in `namespace` (empty: the session's); a kind without namespaces has none.
    pub(crate) fn api(&self, kind: &'static Kind, namespace: &str) -> DynamicApi {
        let namespace = if namespace.is_empty() { &self.namespace } else { namespace };
        self.client.dynamic(kind, kind.namespaced.then_some(namespace))
    }
}

/// What the server accepted but wants the user to know.
pub(crate) fn warn(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[33mWarning:\x1b[0m {text}");
    } else {
        eprintln!("Warning: {text}");
    }
}

/// `.weir/kubeconfig` of the workspace one stands in, else the user's own.
fn find_kubeconfig() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    let local =
        here.ancestors().map(|directory| directory.join(".weir/kubeconfig")).find(|path| path.exists());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    local.or_else(home).context("no kubeconfig: set KUBECONFIG or give --kubeconfig FILE")
}
