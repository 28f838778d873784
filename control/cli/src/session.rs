//! A connection to the API server, from the flags and the kubeconfig, and the terminal that a verb talks to.

use std::fmt::Display;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use weir_client::{Client, Config, DynamicApi, ListOptions};
use weir_proto::meta::v1::Time;
use weir_proto::{Kind, Object};

use crate::arguments::Connection;
use crate::duration;
use crate::terminal::{Colour, Terminal, paint};

/// How many objects a page of a list has at most.
const PAGE: i64 = 500;

pub(crate) struct Session {
    pub(crate) client: Client,
    /// Where objects without a namespace of their own are looked for.
    pub(crate) namespace: String,
    /// The API server's URL, for people to see.
    pub(crate) server: String,
    pub(crate) terminal: Terminal,
    /// What ages are measured against.
    pub(crate) now: fn() -> Time,
}

impl Session {
    pub(crate) fn open(connection: &Connection) -> Result<Self> {
        let path = kubeconfig_path(connection)?;
        if !path.exists() {
            bail!(
                "no kubeconfig at {}; is the cluster up? (--kubeconfig FILE names another)",
                path.display()
            );
        }
        let mut config = Config::from_kubeconfig(&path, connection.context.as_deref())
            .with_context(|| format!("read the kubeconfig {}", path.display()))?;
        if let Some(server) = &connection.server {
            config.servers = vec![server.clone()];
        }
        if let Some(token) = &connection.token {
            // A certificate would go before it.
            (config.cert_pem, config.key_pem) = (None, None);
            config.token = Some(token.clone());
        }
        let namespace = connection.namespace.clone().or_else(|| config.namespace.clone());
        let mut client = Client::new(&config)?.with_field_manager("weir").with_warnings(warn);
        if let Some(timeout) = duration::parse(&connection.request_timeout).context("--request-timeout")? {
            client = client.with_request_timeout(timeout);
        }
        Ok(Self {
            client,
            namespace: namespace.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
            server: config.servers.first().cloned().unwrap_or_default(),
            terminal: Terminal::standard(),
            now: Time::now,
        })
    }

    /// The objects of a kind in `namespace` (empty: the session's); a kind without namespaces has none.
    pub(crate) fn api(&self, kind: &'static Kind, namespace: &str) -> DynamicApi {
        let namespace = if namespace.is_empty() { &self.namespace } else { namespace };
        self.client.dynamic(kind, kind.namespaced.then_some(namespace))
    }

    /// As [`Session::api`]; with `everywhere`, those of all namespaces.
    pub(crate) fn api_over(&self, kind: &'static Kind, everywhere: bool) -> DynamicApi {
        if everywhere { self.client.dynamic(kind, None) } else { self.api(kind, "") }
    }

    pub(crate) fn say(&self, line: impl Display) -> Result<()> {
        self.print(format_args!("{line}\n"))
    }

    pub(crate) fn print(&self, text: impl Display) -> Result<()> {
        Ok(self.terminal.write(text.to_string().as_bytes())?)
    }

    /// Something beside the output.
    pub(crate) fn note(&self, line: impl Display) {
        self.terminal.note(line);
    }

    pub(crate) fn age(&self, since: Option<Time>) -> String {
        let now = (self.now)().unix();
        let age = |time: Time| weir_proto::table::human_duration(now.saturating_sub(time.unix()));
        since.map_or_else(|| "<unknown>".to_owned(), age)
    }
}

/// All pages of a list.
pub(crate) async fn list_all(api: &DynamicApi, options: &ListOptions) -> Result<Vec<Box<dyn Object>>> {
    let mut options = ListOptions { limit: PAGE, ..options.clone() };
    let mut items = Vec::new();
    loop {
        let page = api.list(&options).await?;
        items.extend(page.items);
        if page.continue_token.is_empty() {
            return Ok(items);
        }
        options.continue_token = page.continue_token;
    }
}

/// What was accepted but should be known.
pub(crate) fn warn(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{} {text}", paint("Warning:", Colour::Yellow));
    } else {
        eprintln!("Warning: {text}");
    }
}

/// The file that the flags or the environment name, `.weir/kubeconfig` of the workspace one stands in, or the user's.
pub(crate) fn kubeconfig_path(connection: &Connection) -> Result<PathBuf> {
    if let Some(path) = &connection.kubeconfig {
        return Ok(path.clone());
    }
    let here = std::env::current_dir()?;
    let local =
        here.ancestors().map(|directory| directory.join(".weir/kubeconfig")).find(|path| path.exists());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    local.or_else(home).context("no kubeconfig: set KUBECONFIG or give --kubeconfig FILE")
}
