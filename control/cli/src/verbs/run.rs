//! `weir run`: an image in a pod.

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::arguments::Changing;
use crate::change::Changes;
use crate::session::Session;

use super::expose::pairs;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    name: String,
    #[arg(long)]
    image: String,
    #[command(flatten)]
    changing: Changing,
    /// The port that the container serves
    #[arg(long)]
    port: Option<u16>,
    /// NAME=VALUE
    #[arg(long)]
    env: Vec<String>,
    /// Annotations, KEY=VALUE
    #[arg(long)]
    annotations: Vec<String>,
    /// Labels, as a=b,c=d [default: run=NAME]
    #[arg(long, short)]
    labels: Option<String>,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    restart: String,
    /// When the image is fetched
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// All rights of root on the node
    #[arg(long)]
    privileged: bool,
    /// Make a Service for --port too
    #[arg(long, requires = "port")]
    expose: bool,
    /// What follows -- is the command, not its arguments
    #[arg(long)]
    command: bool,
    #[arg(long, short = 'i', hide = true)]
    stdin: bool,
    #[arg(long, short = 't', hide = true)]
    tty: bool,
    #[arg(long, hide = true)]
    attach: bool,
    #[arg(long, hide = true)]
    rm: bool,
    /// Arguments of the image's command
    #[arg(last = true)]
    args: Vec<String>,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    if options.stdin || options.tty || options.attach || options.rm {
        bail!("-i, -t, --attach and --rm are not supported: run the pod, then use weir attach");
    }
    let mut container = json!({ "name": options.name, "image": options.image });
    if let Some(port) = options.port {
        container["ports"] = json!([{ "containerPort": port }]);
    }
    if options.privileged {
        container["securityContext"] = json!({ "privileged": true });
    }
    if let Some(policy) = &options.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    let variable = |word: &String| {
        let (name, value) = word.split_once('=').with_context(|| format!("--env {word}: want NAME=VALUE"))?;
        Ok(json!({ "name": name, "value": value }))
    };
    if !options.env.is_empty() {
        container["env"] = options.env.iter().map(variable).collect::<Result<_>>()?;
    }
    if !options.args.is_empty() {
        container[if options.command { "command" } else { "args" }] = json!(options.args);
    }
    let labels = match &options.labels {
        Some(text) => pairs(text)?,
        None => pairs(&format!("run={}", options.name))?,
    };
    let mut metadata = json!({ "name": options.name, "labels": labels });
    for annotation in &options.annotations {
        for (key, value) in pairs(annotation)? {
            metadata["annotations"][key] = value;
        }
    }
    let pod = json!({
        "metadata": metadata,
        "spec": { "containers": [container], "restartPolicy": options.restart },
    });
    let changes = Changes::new(session, &options.changing)?;
    if options.expose {
        let port = json!({ "port": options.port, "protocol": "TCP", "targetPort": options.port });
        let service = json!({
            "metadata": { "name": options.name },
            "spec": { "ports": [port], "selector": pod["metadata"]["labels"] },
        });
        let service = weir_proto::resolve("services")?.from_json(&service, &mut Vec::new())?;
        changes.create(service, "created").await?;
    }
    let pod = weir_proto::resolve("pods")?.from_json(&pod, &mut Vec::new())?;
    changes.create(pod, "created").await
}
