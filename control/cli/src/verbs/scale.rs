//! `weir scale`: how many replicas.

use anyhow::{Result, bail};
use serde_json::json;
use weir_client::Patch;

use crate::arguments::Scale;
use crate::session::Session;
use crate::target::{self, display};

pub(crate) async fn run(session: &Session, options: &Scale) -> Result<()> {
    for (kind, name) in target::parse_named(&options.targets)? {
        if !kind.has_subresource("scale") {
            bail!("{} cannot be scaled", kind.plural);
        }
        let api = session.api(kind, "");
        if let Some(expected) = options.current_replicas {
            let now = api.get(&name).await?.to_json()["spec"]["replicas"].as_i64().unwrap_or(1);
            if now != i64::from(expected) {
                bail!("{} runs {now} replicas, not {expected}", display(kind, &name));
            }
        }
        api.patch(&name, &Patch::Merge(json!({ "spec": { "replicas": options.replicas } }))).await?;
        println!("{} scaled", display(kind, &name));
    }
    Ok(())
}
