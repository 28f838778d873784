//! Pruning: what was applied before under the same labels, and is in no manifest any more, is deleted.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use weir_client::{DeleteOptions, ListOptions, Propagation};
use weir_proto::Kind;

use super::{LAST_APPLIED, Options};
use crate::arguments::DryRun;
use crate::manifest::Manifest;
use crate::session::{Session, list_all};
use crate::target::display;

/// What may be pruned without being named, as in kubectl; owners before what they own.
const KINDS: [&str; 7] =
    ["deployments", "replicasets", "services", "pods", "configmaps", "secrets", "namespaces"];

/// The objects that the manifests name.
#[derive(Debug, Default)]
pub(super) struct Applied {
    keys: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

impl Applied {
    pub(super) fn insert(&mut self, session: &Session, manifest: &Manifest) {
        let meta = manifest.object.meta();
        let namespace = if meta.namespace.is_empty() { &session.namespace } else { &meta.namespace };
        self.keys.insert(manifest.kind.key(namespace, &meta.name));
        if manifest.kind.namespaced {
            self.namespaces.insert(namespace.clone());
        }
    }

    pub(super) async fn prune(&self, session: &Session, options: &Options) -> Result<()> {
        for kind in kinds(&options.prune_allowlist)? {
            // A kind without namespaces is one place of its own.
            let places: Vec<&str> = match kind.namespaced {
                true => self.namespaces.iter().map(String::as_str).collect(),
                false => vec![""],
            };
            for place in places {
                self.prune_kind(session, options, kind, place).await?;
            }
        }
        Ok(())
    }

    async fn prune_kind(
        &self,
        session: &Session,
        options: &Options,
        kind: &'static Kind,
        namespace: &str,
    ) -> Result<()> {
        let dry_run = options.changing.dry_run;
        let api = session.api(kind, namespace).dry_run(dry_run == DryRun::Server);
        let list = ListOptions::labels(options.selector.as_str());
        for object in list_all(&api, &list).await? {
            let meta = object.meta();
            let ours = meta.annotations.contains_key(LAST_APPLIED) && meta.deletion_timestamp.is_none();
            if !ours || self.keys.contains(&kind.key(&meta.namespace, &meta.name)) {
                continue;
            }
            let delete =
                DeleteOptions { propagation: Propagation::Background, ..DeleteOptions::only(&meta.uid) };
            if dry_run != DryRun::Client {
                match api.delete(&meta.name, &delete).await {
                    Err(error) if error.is_not_found() => continue,
                    answer => answer.with_context(|| format!("prune {}", display(kind, &meta.name)))?,
                };
            }
            let note = match dry_run {
                DryRun::None => "",
                DryRun::Client => " (dry run)",
                DryRun::Server => " (server dry run)",
            };
            session.say(format_args!("{} pruned{note}", display(kind, &meta.name)))?;
        }
        Ok(())
    }
}

fn kinds(allowed: &[String]) -> Result<Vec<&'static Kind>> {
    if allowed.is_empty() {
        return KINDS.into_iter().map(|name| Ok(weir_proto::resolve(name)?)).collect();
    }
    let parse = |word: &String| {
        let mut parts = word.splitn(3, '/');
        let found = match (parts.next(), parts.next(), parts.next()) {
            (Some("core"), Some(version), Some(kind)) => weir_proto::find("", version, kind),
            (Some(group), Some(version), Some(kind)) => weir_proto::find(group, version, kind),
            _ => None,
        };
        found.with_context(|| {
            format!("--prune-allowlist {word}: want GROUP/VERSION/KIND, as apps/v1/Deployment")
        })
    };
    allowed.iter().map(parse).collect()
}
