//! `weir cordon` and `weir uncordon`: whether nodes take new pods.

use anyhow::{Result, bail};
use serde_json::json;
use weir_client::Patch;
use weir_proto::core::v1::Node;
use weir_proto::{Object, Resource};

use crate::arguments::{Changing, Choosing, DryRun};
use crate::change::Changes;
use crate::failure::Failures;
use crate::selection::{self, Pick};
use crate::session::Session;
use crate::target;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// NODE …
    nodes: Vec<String>,
    /// Nodes whose labels match
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// Change nothing
    #[arg(long, value_enum, default_value_t = DryRun::None, num_args = 0..=1, require_equals = true,
        default_missing_value = "client")]
    dry_run: DryRun,
}

pub(crate) async fn run(session: &Session, options: &Options, unschedulable: bool) -> Result<()> {
    let mut failures = Failures::default();
    let nodes = nodes(session, &options.nodes, &options.selector).await?;
    for node in selection::objects(session, nodes, &mut failures).await {
        failures.keep(session, set(session, node.as_ref(), unschedulable, options.dry_run).await);
    }
    failures.finish()
}

/// By name or by selector.
pub(super) async fn nodes(session: &Session, names: &[String], selector: &str) -> Result<Vec<Pick>> {
    match (names, selector) {
        ([], "") => bail!("which nodes? give names, or -l SELECTOR"),
        ([], selector) => {
            let choosing = Choosing { selector: selector.to_owned(), ..Choosing::default() };
            selection::pick(session, &["nodes".to_owned()], None, &choosing).await
        }
        (names, "") => {
            let names = target::parse_of(Node::KIND, names)?;
            Ok(names.iter().map(|name| Pick::named(Node::KIND, name)).collect())
        }
        _ => bail!("a name does not go with a selector"),
    }
}

pub(super) async fn set(
    session: &Session,
    node: &dyn Object,
    unschedulable: bool,
    dry_run: DryRun,
) -> Result<()> {
    let changes = Changes::new(session, &Changing { dry_run, output: None })?;
    let name = &node.meta().name;
    let now = node.to_json().pointer("/spec/unschedulable") == Some(&json!(true));
    let word = if unschedulable { "cordoned" } else { "uncordoned" };
    if now == unschedulable {
        return changes.said(Node::KIND, name, &format!("already {word}"));
    }
    if !changes.stays_here() {
        let value = if unschedulable { json!(true) } else { json!(null) };
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": value } }));
        changes.api(Node::KIND, "").patch(name, &patch).await?;
    }
    changes.said(Node::KIND, name, word)
}
