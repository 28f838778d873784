//! What users get wrong, and that the answer stands where they look: on the command line, in a condition, in an event.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::cluster::{Cluster, PATIENCE};
use weir_tests::{require, wait};
use xtask::cluster::Store;

/// A manifest that is refused, and words that the refusal must hold.
const REFUSED: &[(&str, &str, &[&str])] = &[
    ("malformed YAML", "apiVersion: v1\nkind: Pod\nmetadata: {name: x\n", &["line"]),
    ("an unknown kind", "apiVersion: v1\nkind: Pood\nmetadata: {name: x}\n", &["Pood", "Pod"]),
    ("an unknown version", "apiVersion: apps/v9\nkind: Deployment\nmetadata: {name: x}\n", &["apps/v9"]),
    (
        "an unknown field",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - {name: c, image: i, imagePolicy: Always}\n",
        &["spec.containers[0].imagePolicy"],
    ),
    (
        "a wrong type",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - {name: c, image: i, ports: [{containerPort: many}]}\n",
        &["containerPort"],
    ),
    (
        "an invalid name",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: Not_A_Name}\nspec:\n  containers:\n  - {name: c, image: i}\n",
        &["metadata.name"],
    ),
    (
        "no containers",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n",
        &["spec.containers"],
    ),
    (
        "an invalid quantity",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - {name: c, image: i, resources: {requests: {cpu: lots}}}\n",
        &["cpu"],
    ),
    (
        "a selector that does not match",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: c}}\n    spec: {containers: [{name: c, image: i}]}\n",
        &["spec.template.metadata.labels"],
    ),
    (
        "a namespace that does not exist",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}\n",
        &["nowhere"],
    ),
];

fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  containers:\n  - {container}\n"
    )
}

#[test]
fn every_mistake_is_answered_where_its_maker_looks() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("mistakes", 1, Store::Embedded)?;
    for (what, manifest, words) in REFUSED {
        let output = cluster.weir_fed(&["apply", "-f", "-"], manifest)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{what} was accepted: {}", String::from_utf8_lossy(&output.stdout));
        for word in *words {
            ensure!(stderr.contains(word), "{what}: the refusal does not say {word:?}: {stderr}");
        }
        ensure!(!stderr.contains("panicked"), "{what}: {stderr}");
    }
    an_image_that_does_not_exist(&cluster)?;
    a_command_that_does_not_exist(&cluster)?;
    no_room_for_the_pod(&cluster)?;
    // Nothing of it is stuck: the pods go when told to, and the cluster still serves.
    for name in ["no-image", "no-command", "too-big"] {
        cluster.weir(&["delete", "pod", name])?;
    }
    cluster.wait_for(&["pods"], |pods| pods["items"].as_array().is_none_or(Vec::is_empty))?;
    Ok(())
}

fn an_image_that_does_not_exist(cluster: &Cluster) -> Result<()> {
    cluster.apply(&pod("no-image", "{ name: c, image: 'weir.dev/nothing:1' }"))?;
    cluster.wait_for(&["pod", "no-image"], |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let named = waiting["message"].as_str().is_some_and(|message| message.contains("weir.dev/nothing:1"));
        named && matches!(waiting["reason"].as_str(), Some("ErrImagePull" | "ImagePullBackOff"))
    })?;
    described(cluster, "no-image", "weir.dev/nothing:1")
}

fn a_command_that_does_not_exist(cluster: &Cluster) -> Result<()> {
    cluster.apply(&pod(
        "no-command",
        "{ name: c, image: 'weir.dev/echo:0.1.0', command: [/no/such/program] }",
    ))?;
    cluster.wait_for(&["pod", "no-command"], |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status.to_string().contains("/no/such/program")
    })?;
    described(cluster, "no-command", "/no/such/program")
}

fn no_room_for_the_pod(cluster: &Cluster) -> Result<()> {
    cluster.apply(&pod(
        "too-big",
        "{ name: c, image: 'weir.dev/echo:0.1.0', resources: { requests: { cpu: '1000' } } }",
    ))?;
    cluster.wait_for(&["pod", "too-big"], |pod| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| {
            condition["type"] == "PodScheduled"
                && condition["reason"] == "Unschedulable"
                && condition["message"].as_str().is_some_and(|message| message.contains("Insufficient cpu"))
        })
    })?;
    described(cluster, "too-big", "Insufficient cpu")
}

/// `weir describe` shows the word, in the status or among the events.
fn described(cluster: &Cluster, pod: &str, word: &str) -> Result<()> {
    wait::until(&format!("weir describe pod {pod}"), PATIENCE, || {
        let text = cluster.weir(&["describe", "pod", pod])?;
        let events = text.split_once("Events:").context("no events")?.1;
        ensure!(events.contains(word), "no event says {word}:\n{text}");
        Ok(())
    })
}

#[test]
fn a_cluster_that_is_not_there_is_named_at_once() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let layout = xtask::cluster::Layout::for_test("weir-absent", 1, Store::Embedded)?;
    let start = std::time::Instant::now();
    let output = xtask::cluster::weir(&layout, &["get", "pods"]).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && stderr.contains("kubeconfig"), "{stderr}");
    ensure!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
    Ok(())
}
