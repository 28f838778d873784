//! Objects from flags.

use anyhow::{Context, Result, bail};
use serde_json::json;
use weir_proto::Object;
use weir_proto::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use weir_proto::meta::v1::ObjectMeta;

use crate::arguments::Changing;

use super::data::Sources;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Generator {
    /// A namespace
    #[command(visible_alias = "ns")]
    Namespace(Named),
    /// A service account
    #[command(visible_alias = "sa", name = "serviceaccount")]
    ServiceAccount(Named),
    /// A config map from literals and files
    #[command(visible_alias = "cm", name = "configmap")]
    ConfigMap(Filled),
    /// A secret
    Secret {
        #[command(subcommand)]
        kind: SecretKind,
    },
    /// A deployment of an image
    #[command(visible_alias = "deploy")]
    Deployment(Deployment),
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum SecretKind {
    /// A secret from literals and files
    Generic {
        #[command(flatten)]
        filled: Filled,
        /// What it is used for
        #[arg(long = "type", default_value = "Opaque")]
        of_type: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    name: String,
    #[command(flatten)]
    changing: Changing,
}

#[derive(Debug, clap::Args)]
pub(super) struct Filled {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, clap::Args)]
pub(super) struct Deployment {
    #[command(flatten)]
    named: Named,
    /// The image to run; several make a container each
    #[arg(long, required = true)]
    image: Vec<String>,
    #[arg(long, short, default_value_t = 1)]
    replicas: i32,
    /// The port that the container serves
    #[arg(long)]
    port: Option<u16>,
    /// What to run in place of the image's own command
    #[arg(last = true)]
    command: Vec<String>,
}

impl Generator {
    pub(super) fn changing(&self) -> &Changing {
        match self {
            Self::Namespace(named) | Self::ServiceAccount(named) => &named.changing,
            Self::ConfigMap(filled) | Self::Secret { kind: SecretKind::Generic { filled, .. } } => {
                &filled.named.changing
            }
            Self::Deployment(deployment) => &deployment.named.changing,
        }
    }

    pub(super) fn object(&self) -> Result<Box<dyn Object>> {
        Ok(match self {
            Self::Namespace(named) => Box::new(Namespace { metadata: meta(named), ..Namespace::default() }),
            Self::ServiceAccount(named) => {
                Box::new(ServiceAccount { metadata: meta(named), ..ServiceAccount::default() })
            }
            Self::ConfigMap(filled) => Box::new(config_map(filled)?),
            Self::Secret { kind: SecretKind::Generic { filled, of_type } } => Box::new(Secret {
                metadata: meta(&filled.named),
                data: filled.sources.read()?,
                r#type: of_type.clone(),
                ..Secret::default()
            }),
            Self::Deployment(deployment) => deployment.object()?,
        })
    }
}

fn meta(named: &Named) -> Option<ObjectMeta> {
    Some(ObjectMeta { name: named.name.clone(), ..ObjectMeta::default() })
}

/// What is not text goes where bytes may be.
fn config_map(filled: &Filled) -> Result<ConfigMap> {
    let mut map = ConfigMap { metadata: meta(&filled.named), ..ConfigMap::default() };
    for (key, value) in filled.sources.read()? {
        match String::from_utf8(value) {
            Ok(text) => drop(map.data.insert(key, text)),
            Err(error) => drop(map.binary_data.insert(key, error.into_bytes())),
        }
    }
    Ok(map)
}

impl Deployment {
    fn object(&self) -> Result<Box<dyn Object>> {
        let name = &self.named.name;
        if self.image.len() > 1 && !self.command.is_empty() {
            bail!("cannot specify multiple --image options and command");
        }
        let mut containers = Vec::new();
        for image in &self.image {
            let mut container = json!({ "name": container_name(image)?, "image": image });
            if let Some(port) = self.port {
                container["ports"] = json!([{ "containerPort": port }]);
            }
            if !self.command.is_empty() {
                container["command"] = json!(self.command);
            }
            containers.push(container);
        }
        let labels = json!({ "app": name });
        let value = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "replicas": self.replicas,
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": containers } },
            },
        });
        Ok(weir_proto::resolve("deployments")?.from_json(&value, &mut Vec::new())?)
    }
}

/// `registry/team/app:v1@sha256:…` → `app`.
fn container_name(image: &str) -> Result<String> {
    let last = image.split('@').next().and_then(|image| image.rsplit('/').next()).unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    let allowed = |one: char| if one.is_ascii_alphanumeric() { one.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(allowed).collect();
    Some(name).filter(|name| !name.is_empty()).with_context(|| format!("{image:?} is no image"))
}
