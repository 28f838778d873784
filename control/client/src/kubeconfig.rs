//! Reads a kubeconfig file, as `kubectl` uses it: the context that is asked for (or the current one), its cluster and
//! its user; data inline (`*-data`, base64) or in files beside it.
//!
//! A cluster may name further API servers in an extension of its own, which other clients pass over:
//! `extensions: [{name: weir, extension: {servers: ["https://…"]}}]`.
//!
//! Left out: exec plugins, auth providers, passwords, and trust without verification; each is refused by name.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, ConfigError};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: Option<String>,
    #[serde(default)]
    contexts: Option<Vec<NamedContext>>,
    #[serde(default)]
    clusters: Option<Vec<NamedCluster>>,
    #[serde(default)]
    users: Option<Vec<NamedUser>>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    proxy_url: Option<String>,
    extensions: Option<Vec<Extension>>,
}

#[derive(Deserialize)]
struct Extension {
    name: String,
    #[serde(default)]
    extension: Value,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    username: Option<String>,
    exec: Option<Value>,
    auth_provider: Option<Value>,
}

impl Config {
    /// Reads the kubeconfig at `path`; `context` None means its `current-context`.
    pub fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        let file = File { path };
        let config = file.parse(&text)?;
        file.select(config, context)
    }
}

/// The file that errors name and relative paths start from.
struct File<'a> {
    path: &'a Path,
}

impl File<'_> {
    fn parse(&self, text: &str) -> Result<Kubeconfig, ConfigError> {
        let broken = |reason: String| ConfigError::Parse { path: self.path.to_path_buf(), reason };
        let mut documents = weir_proto::yaml::documents(text).map_err(|e| broken(e.to_string()))?.into_iter();
        let document = documents.next().ok_or_else(|| broken("the file is empty".to_owned()))?;
        serde_json::from_value(document.value).map_err(|e| broken(e.to_string()))
    }

    fn select(&self, config: Kubeconfig, context: Option<&str>) -> Result<Config, ConfigError> {
        let wanted = context.map(str::to_owned).or(config.current_context).unwrap_or_default();
        let contexts = config.contexts.unwrap_or_default();
        let known = contexts.iter().map(|c| c.name.clone()).collect();
        let context = contexts
            .into_iter()
            .find(|c| c.name == wanted)
            .ok_or_else(|| self.missing("context", &wanted, known))?
            .context;

        let clusters = config.clusters.unwrap_or_default();
        let known = clusters.iter().map(|c| c.name.clone()).collect();
        let cluster = clusters
            .into_iter()
            .find(|c| c.name == context.cluster)
            .ok_or_else(|| self.missing("cluster", &context.cluster, known))?
            .cluster;

        let users = config.users.unwrap_or_default();
        let known = users.iter().map(|u| u.name.clone()).collect();
        let user = match users.into_iter().find(|u| u.name == context.user) {
            Some(named) => named.user,
            None if context.user.is_empty() => User::default(),
            None => return Err(self.missing("user", &context.user, known)),
        };
        self.assemble(cluster, user, context.namespace)
    }

    fn assemble(
        &self,
        cluster: Cluster,
        user: User,
        namespace: Option<String>,
    ) -> Result<Config, ConfigError> {
        let refused = [
            ("insecure-skip-tls-verify", cluster.insecure_skip_tls_verify == Some(true)),
            ("proxy-url", cluster.proxy_url.is_some()),
            ("username", user.username.is_some()),
            ("exec", user.exec.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
        ];
        if let Some((field, _)) = refused.into_iter().find(|(_, used)| *used) {
            return Err(ConfigError::Unsupported { path: self.path.to_path_buf(), field });
        }
        let mut servers = vec![cluster.server];
        servers.extend(further_servers(cluster.extensions.unwrap_or_default(), &servers[0]));
        let token = match (user.token, user.token_file) {
            (Some(token), _) => Some(token),
            (None, file) => self.pem("tokenFile", None, file)?.map(|text| text.trim().to_owned()),
        };
        Ok(Config {
            servers,
            ca_pem: self.pem(
                "certificate-authority",
                cluster.certificate_authority_data,
                cluster.certificate_authority,
            )?,
            cert_pem: self.pem(
                "client-certificate",
                user.client_certificate_data,
                user.client_certificate,
            )?,
            key_pem: self.pem("client-key", user.client_key_data, user.client_key)?,
            token,
            server_name: cluster.tls_server_name,
            namespace,
        })
    }

    /// Inline data wins over a path, as in kubectl.
    fn pem(
        &self,
        field: &'static str,
        data: Option<String>,
        file: Option<String>,
    ) -> Result<Option<String>, ConfigError> {
        let broken = |reason: String| ConfigError::Field { path: self.path.to_path_buf(), field, reason };
        if let Some(data) = data.filter(|d| !d.is_empty()) {
            let bytes = STANDARD.decode(data.trim()).map_err(|e| broken(e.to_string()))?;
            return String::from_utf8(bytes).map(Some).map_err(|e| broken(e.to_string()));
        }
        let Some(file) = file.filter(|f| !f.is_empty()) else { return Ok(None) };
        let path = self.path.parent().map_or_else(|| PathBuf::from(&file), |dir| dir.join(&file));
        std::fs::read_to_string(&path).map(Some).map_err(|e| broken(format!("{}: {e}", path.display())))
    }

    fn missing(&self, what: &'static str, name: &str, known: Vec<String>) -> ConfigError {
        let known =
            if known.is_empty() { String::new() } else { format!("; there are: {}", known.join(", ")) };
        ConfigError::Missing { path: self.path.to_path_buf(), what, name: name.to_owned(), known }
    }
}

fn further_servers(extensions: Vec<Extension>, first: &str) -> Vec<String> {
    let servers = extensions.into_iter().filter(|e| e.name == "weir").flat_map(|e| {
        let list = e.extension.get("servers").and_then(Value::as_array).cloned().unwrap_or_default();
        list.into_iter().filter_map(|server| server.as_str().map(str::to_owned))
    });
    servers.filter(|server| server != first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
apiVersion: v1
kind: Config
current-context: main
contexts:
- name: main
  context: {cluster: c, user: u, namespace: shop}
- name: other
  context: {cluster: nowhere, user: u}
clusters:
- name: c
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority: ca.crt
    extensions: [{name: weir, extension: {servers: ["https://127.0.0.1:6443", "https://127.0.0.2:6443"]}}]
users:
- name: u
  user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}
"#;

    fn load(text: &str, context: Option<&str>) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), "CA").unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        Config::from_kubeconfig(&path, context)
    }

    #[test]
    fn data_inline_and_in_files_is_read_and_further_servers_are_kept() {
        let config = load(TEXT, None).unwrap();
        assert_eq!(config.servers, ["https://127.0.0.1:6443", "https://127.0.0.2:6443"]);
        assert_eq!(config.ca_pem.as_deref(), Some("CA"));
        assert_eq!(config.cert_pem.as_deref(), Some("CERT"));
        assert_eq!(config.key_pem.as_deref(), Some("KEY"));
        assert_eq!(config.namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn what_is_missing_is_named_together_with_what_there_is() {
        let error = load(TEXT, Some("mian")).unwrap_err().to_string();
        assert!(error.contains("no context is named \"mian\"; there are: main, other"), "{error}");
        let error = load(TEXT, Some("other")).unwrap_err().to_string();
        assert!(error.contains("no cluster is named \"nowhere\""), "{error}");
    }

    #[test]
    fn ways_to_log_in_that_are_not_supported_are_refused_by_name() {
        let text = TEXT.replace("client-key-data: S0VZ", "exec: {command: aws}");
        let error = load(&text, None).unwrap_err().to_string();
        assert!(error.contains("exec is not supported"), "{error}");
    }

    #[test]
    fn base64_that_is_broken_names_its_field() {
        let error = load(&TEXT.replace("S0VZ", "S0VZA"), None).unwrap_err().to_string();
        assert!(error.contains("client-key"), "{error}");
    }
}
