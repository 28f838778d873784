//! What an agent counts, from its `/metrics`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;

/// All of it, as an administrator is told.
pub fn agent_metrics(cluster: &Cluster, node: &str) -> Result<String> {
    let file = |name: &str, field: &str| -> Result<PathBuf> {
        let output = format!("-o=jsonpath={{{field}}}");
        let encoded = cluster.weir(&["config", "view", "--raw", &output])?;
        let path = cluster.layout.directory.join(name);
        let decoded = Command::new("sh")
            .args(["-c", "printf %s \"$0\" | base64 -d > \"$1\"", encoded.trim()])
            .arg(&path)
            .status()?;
        ensure!(decoded.success(), "cannot decode {field}");
        Ok(path)
    };
    let mut curl = cluster.command_in("hub", Path::new("/usr/bin/curl"))?;
    curl.args(["--silent", "--show-error", "--fail", "--insecure", "--cert"]);
    curl.arg(file("client.crt", ".users[0].user.client-certificate-data")?).arg("--key");
    curl.arg(file("client.key", ".users[0].user.client-key-data")?);
    curl.arg(format!("https://{}:10250/metrics", cluster.layout.address_of(node)));
    xtask::shell::output(&mut curl)
}

/// A count without labels. One that nothing was added to is not there, and 0.
pub fn agent_count(cluster: &Cluster, node: &str, name: &str) -> Result<u64> {
    let text = agent_metrics(cluster, node)?;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0))
}
