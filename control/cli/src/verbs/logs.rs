//! `weir logs`: what a container wrote, through the API server from the pod's agent.

use std::io::Write;

use anyhow::{Context, Result, bail};
use weir_client::ListOptions;
use weir_proto::core::v1::Pod;
use weir_proto::labels::Selector;
use weir_proto::weir::v1::LogsRequest;

use crate::arguments::Logs;
use crate::session::Session;
use crate::target;

pub(crate) async fn run(session: &Session, options: &Logs) -> Result<()> {
    let pod = pod_of(session, &options.target).await?;
    let request = LogsRequest {
        namespace: session.namespace.clone(),
        pod: pod.clone(),
        container: options.container.clone().unwrap_or_default(),
        follow: options.follow,
        previous: options.previous,
        tail_lines: (options.tail >= 0).then_some(options.tail),
        since_seconds: options.since.as_deref().map(seconds).transpose()?,
        timestamps: options.timestamps,
        limit_bytes: None,
    };
    let failed = |status| session.client.error(&format!("read the log of pod {pod}"), status);
    let mut chunks = session.client.streams().logs(request).await.map_err(failed)?.into_inner();
    let mut stdout = std::io::stdout().lock();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        // A reader that closed the pipe has seen enough.
        if stdout.write_all(&chunk.data).and_then(|()| stdout.flush()).is_err() {
            break;
        }
    }
    Ok(())
}

/// The pod itself, or one of those that the named object selects.
async fn pod_of(session: &Session, word: &str) -> Result<String> {
    if !word.contains('/') {
        return Ok(word.to_owned());
    }
    let named = target::parse_named(&[word.to_owned()])?;
    let (kind, name) = named.first().context("which pod?")?;
    if kind.kind == "Pod" {
        return Ok(name.clone());
    }
    let object = session.api(kind, "").get(name).await?.to_json();
    let Some(labels) =
        object["spec"]["selector"]["matchLabels"].as_object().or(object["spec"]["selector"].as_object())
    else {
        bail!("{word} selects no pods");
    };
    let selector: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let selector = selector.join(",");
    Selector::parse(&selector).with_context(|| format!("the selector of {word}"))?;
    let pods = session
        .client
        .namespaced::<Pod>(&session.namespace)
        .list(&ListOptions::labels(selector))
        .await?
        .items;
    let mut names: Vec<String> =
        pods.into_iter().filter_map(|pod| pod.metadata).map(|meta| meta.name).collect();
    names.sort();
    let count = names.len();
    let pod = names.into_iter().next().with_context(|| format!("{word} has no pods"))?;
    if count > 1 {
        eprintln!("Found {count} pods, using pod/{pod}");
    }
    Ok(pod)
}

/// `90`, `90s`, `5m`, `2h`.
fn seconds(text: &str) -> Result<i64> {
    let (number, unit) = match text.find(|character: char| !character.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: i64 = number.parse().with_context(|| format!("--since {text}: want 90s, 5m or 2h"))?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!("--since {text}: want 90s, 5m or 2h"),
    };
    number.checked_mul(factor).with_context(|| format!("--since {text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_kubectl_reads_them() {
        assert_eq!(seconds("90").ok(), Some(90));
        assert_eq!(seconds("5m").ok(), Some(300));
        assert_eq!(seconds("2h").ok(), Some(7200));
        for wrong in ["", "m", "5d", "-1s", "9999999999999999999h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
