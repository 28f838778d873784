//! `weir expose`: a Service for the pods of a Deployment, a ReplicaSet, a Service or a Pod.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use weir_proto::Object;

use crate::arguments::{Changing, Choosing, Files};
use crate::change::Changes;
use crate::selection;
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE NAME or TYPE/NAME
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    changing: Changing,
    /// The Service's name [default: the object's]
    #[arg(long)]
    name: Option<String>,
    /// The port that the Service serves [default: the containers']
    #[arg(long)]
    port: Option<u16>,
    /// The containers' port, by number or name [default: the Service's]
    #[arg(long)]
    target_port: Option<String>,
    /// TCP or UDP
    #[arg(long, default_value = "TCP")]
    protocol: String,
    /// ClusterIP, NodePort or LoadBalancer
    #[arg(long = "type", default_value = "ClusterIP", hide_default_value = true)]
    of_type: String,
    /// A fixed address, or None
    #[arg(long)]
    cluster_ip: Option<String>,
    /// Labels of the Service, as a=b,c=d [default: the object's]
    #[arg(long, short)]
    labels: Option<String>,
    /// Labels of the pods, as a=b,c=d [default: the object's selector]
    #[arg(long)]
    selector: Option<String>,
    /// ClientIP sends a client to the same pod again
    #[arg(long)]
    session_affinity: Option<String>,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let changes = Changes::new(session, &options.changing)?;
    let picks =
        selection::pick(session, &options.targets, Some(&options.files), &Choosing::default()).await?;
    for mut pick in picks {
        let exposed = pick.object(session).await?;
        let service =
            service(options, exposed.as_ref()).with_context(|| format!("expose {}", pick.display()))?;
        let mut service = weir_proto::resolve("services")?.from_json(&service, &mut Vec::new())?;
        service.meta_mut().namespace = exposed.meta().namespace.clone();
        changes.create(service, "exposed").await?;
    }
    Ok(())
}

fn service(options: &Options, exposed: &dyn Object) -> Result<Value> {
    let value = exposed.to_json();
    let selector = match &options.selector {
        Some(text) => pairs(text)?,
        None => selector(exposed, &value)?,
    };
    let labels = match &options.labels {
        Some(text) => pairs(text)?,
        None => exposed.meta().labels.iter().map(|(key, label)| (key.clone(), json!(label))).collect(),
    };
    let mut spec = json!({ "selector": selector, "ports": ports(options, &value)? });
    let fixed = [
        ("type", Some(&options.of_type).filter(|of_type| *of_type != "ClusterIP")),
        ("clusterIP", options.cluster_ip.as_ref()),
        ("sessionAffinity", options.session_affinity.as_ref()),
    ];
    for (field, text) in fixed {
        if let Some(text) = text {
            spec[field] = json!(text);
        }
    }
    let name = options.name.as_ref().unwrap_or(&exposed.meta().name);
    Ok(json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }))
}

fn selector(exposed: &dyn Object, value: &Value) -> Result<Map<String, Value>> {
    let selector = match exposed.kind().kind {
        "Deployment" | "ReplicaSet" => {
            let expressions = &value["spec"]["selector"]["matchExpressions"];
            if expressions.as_array().is_some_and(|list| !list.is_empty()) {
                bail!("couldn't convert expressions to a map-based selector: give --selector");
            }
            &value["spec"]["selector"]["matchLabels"]
        }
        "Service" => &value["spec"]["selector"],
        "Pod" => &value["metadata"]["labels"],
        other => bail!("cannot expose a {other}"),
    };
    let selector = selector.as_object().filter(|selector| !selector.is_empty());
    selector.cloned().context("it selects no pods by label: give --selector")
}

fn ports(options: &Options, value: &Value) -> Result<Value> {
    let of_service = value["spec"]["ports"].as_array();
    let containers =
        value["spec"]["containers"].as_array().or(value["spec"]["template"]["spec"]["containers"].as_array());
    let of_containers =
        containers.into_iter().flatten().filter_map(|container| container["ports"].as_array()).flatten();
    let known: Vec<(i64, String)> = match (options.port, of_service) {
        (Some(port), _) => vec![(i64::from(port), options.protocol.clone())],
        (None, Some(ports)) => ports.iter().map(|port| known_port(port, "port")).collect(),
        (None, None) => of_containers.map(|port| known_port(port, "containerPort")).collect(),
    };
    if known.is_empty() {
        bail!("couldn't find port via --port flag or introspection");
    }
    let several = known.len() > 1;
    let port = |(index, (number, protocol)): (usize, (i64, String))| {
        let mut port = json!({ "port": number, "protocol": protocol, "targetPort": number });
        if let Some(target) = &options.target_port {
            port["targetPort"] = target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number));
        }
        if several {
            port["name"] = json!(format!("port-{}", index + 1));
        }
        port
    };
    Ok(known.into_iter().enumerate().map(port).collect())
}

fn known_port(port: &Value, field: &str) -> (i64, String) {
    (port[field].as_i64().unwrap_or_default(), port["protocol"].as_str().unwrap_or("TCP").to_owned())
}

/// `a=b,c=d`.
pub(super) fn pairs(text: &str) -> Result<Map<String, Value>> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').with_context(|| format!("{part:?}: want KEY=VALUE"))?;
        Ok((key.trim().to_owned(), json!(value.trim())))
    };
    text.split(',').map(pair).collect()
}
