//! Credentials for registries, as Kubernetes' pull secrets carry them, and which of them serve an image. Pure.
//!
//! A key is a registry, with `*` for parts of its name, optionally followed by the beginning of a repository's path:
//! `registry.internal:5000`, `*.example.com`, `ghcr.io/team`. The longest path that fits is tried first.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::DecodePaddingMode};
use serde::Deserialize;

use crate::images::reference::DOCKER_HUB;

/// Written by many hands, with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("not a {form}: {problem}")]
    Malformed { form: &'static str, problem: String },
    #[error("the credentials for {0:?} are neither an auth in base64 nor a username and password")]
    Incomplete(String),
}

/// What a registry is shown. Secret: it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
}

impl Credentials {
    pub(super) fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "password of {user:?}"),
            Self::IdentityToken(_) => f.write_str("identity token"),
        }
    }
}

/// Credentials by registry.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    host: String,
    path: String,
    credentials: Credentials,
}

#[derive(Deserialize)]
struct ConfigJson {
    auths: BTreeMap<String, Auth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Keyring {
    /// Adds what a Secret of type `kubernetes.io/dockerconfigjson` holds under `.dockerconfigjson`.
    pub fn add_config_json(&mut self, json: &[u8]) -> Result<(), KeyringError> {
        let config: ConfigJson = parse(json, "Docker config.json")?;
        self.add(config.auths)
    }

    /// Adds what a Secret of type `kubernetes.io/dockercfg` holds under `.dockercfg`.
    pub fn add_dockercfg(&mut self, json: &[u8]) -> Result<(), KeyringError> {
        self.add(parse(json, "Docker .dockercfg")?)
    }

    fn add(&mut self, auths: BTreeMap<String, Auth>) -> Result<(), KeyringError> {
        for (key, auth) in auths {
            let credentials = auth.credentials().ok_or_else(|| KeyringError::Incomplete(key.clone()))?;
            let (host, path) = split(&key);
            self.entries.push(Entry { host, path, credentials });
        }
        // Stable: among equals the secret named first.
        self.entries.sort_by_key(|entry| std::cmp::Reverse(entry.path.len()));
        Ok(())
    }

    /// What to try for `name` (registry and repository), in order.
    pub(super) fn find(&self, name: &str) -> Vec<Credentials> {
        let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
        let fits = |entry: &&Entry| {
            let rest = repository.strip_prefix(entry.path.as_str());
            host_fits(&entry.host, registry)
                && rest.is_some_and(|rest| entry.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        self.entries.iter().filter(fits).map(|entry| entry.credentials.clone()).collect()
    }
}

impl Auth {
    fn credentials(self) -> Option<Credentials> {
        if !self.identitytoken.is_empty() {
            return Some(Credentials::IdentityToken(self.identitytoken));
        }
        if !self.auth.is_empty() {
            let decoded = String::from_utf8(BASE64.decode(self.auth.trim()).ok()?).ok()?;
            let (user, password) = decoded.split_once(':')?;
            let password = password.trim_end_matches('\0').to_owned();
            return Some(Credentials::Password { user: user.to_owned(), password });
        }
        let complete = !self.username.is_empty() || !self.password.is_empty();
        complete.then_some(Credentials::Password { user: self.username, password: self.password })
    }
}

fn parse<T: for<'de> Deserialize<'de>>(json: &[u8], form: &'static str) -> Result<T, KeyringError> {
    // Where a value has the wrong type, serde_json quotes it: the place alone is told, it may be the password.
    serde_json::from_slice(json).map_err(|error| KeyringError::Malformed {
        form,
        problem: format!("line {}, column {}", error.line(), error.column()),
    })
}

/// `https://index.docker.io/v1/` → (`docker.io`, ``).
fn split(key: &str) -> (String, String) {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { DOCKER_HUB } else { host };
    // What logins of old wrote behind the host is the version of the API.
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    (host.to_owned(), path.to_owned())
}

/// Part by part: `*.example.com` fits `a.example.com`, not `a.b.example.com`. Ports must be the same.
fn host_fits(pattern: &str, host: &str) -> bool {
    let port = |name: &str| name.rsplit_once(':').map(|(_, port)| port.to_owned());
    let parts = |name: &str| {
        let name = name.rsplit_once(':').map_or(name, |(host, _)| host);
        name.split('.').map(str::to_owned).collect::<Vec<_>>()
    };
    let (wanted, own) = (parts(pattern), parts(host));
    port(pattern) == port(host)
        && wanted.len() == own.len()
        && wanted.iter().zip(&own).all(|(pattern, part)| part_fits(pattern, part))
}

fn part_fits(pattern: &str, part: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == part };
    let Some(rest) = part.strip_prefix(head) else { return false };
    // The star may stand for anything: the rest of the pattern must fit behind some of it.
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| part_fits(tail, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(json: &str) -> Keyring {
        let mut keyring = Keyring::default();
        keyring.add_config_json(json.as_bytes()).expect(json);
        keyring
    }

    fn users(keyring: &Keyring, name: &str) -> Vec<String> {
        let user = |credentials| match credentials {
            Credentials::Password { user, password } => format!("{user}/{password}"),
            Credentials::IdentityToken(token) => token,
        };
        keyring.find(name).into_iter().map(user).collect()
    }

    #[test]
    fn every_form_of_credentials_is_read() {
        let keyring = keyring(
            r#"{"auths": {"a": {"auth": "dTpwOnE="}, "b:5000": {"username": "u", "password": "p"},
                "c": {"identitytoken": "t"}, "https://index.docker.io/v1/": {"auth": "aHViOnB3"}}}"#,
        );
        assert_eq!(users(&keyring, "a/x"), ["u/p:q"]);
        assert_eq!(users(&keyring, "b:5000/x/y"), ["u/p"]);
        assert_eq!(users(&keyring, "b/x"), Vec::<String>::new());
        assert_eq!(users(&keyring, "c/x"), ["t"]);
        assert_eq!(users(&keyring, "docker.io/library/busybox"), ["hub/pw"]);
        let mut old = Keyring::default();
        old.add_dockercfg(br#"{"a": {"auth": "dTpw", "email": "x"}}"#).expect("a dockercfg");
        assert_eq!(users(&old, "a/x"), ["u/p"]);
    }

    #[test]
    fn patterns_and_paths_fit_as_kubernetes_has_it() {
        let entry = |user: &str| format!(r#"{{"username": "{user}", "password": "p"}}"#);
        let keyring = keyring(&format!(
            r#"{{"auths": {{"*.example.com": {}, "r.example.com/team": {}, "r.example.com/team/app": {}, "x*y.io": {}}}}}"#,
            entry("any"),
            entry("team"),
            entry("app"),
            entry("star"),
        ));
        for (name, expected) in [
            ("r.example.com/team/app", vec!["app/p", "team/p", "any/p"]),
            ("r.example.com/team/app2", vec!["team/p", "any/p"]),
            ("r.example.com/teams", vec!["any/p"]),
            ("a.b.example.com/x", vec![]),
            ("example.com/x", vec![]),
            ("xaby.io/x", vec!["star/p"]),
            ("xaby.io:5000/x", vec![]),
        ] {
            assert_eq!(users(&keyring, name), expected, "{name}");
        }
    }

    #[test]
    fn mistakes_are_told_without_the_secret() {
        for json in [r#"{"auths": {"a": {"auth": 4711}}}"#, "{", r#"{"auths": "hunter2"}"#] {
            let error = Keyring::default().add_config_json(json.as_bytes()).expect_err(json).to_string();
            assert!(error.contains("Docker config.json") && !error.contains("hunter2"), "{error}");
        }
        let error = Keyring::default().add_config_json(br#"{"auths": {"a": {"auth": "?!"}}}"#);
        assert!(error.expect_err("refused").to_string().contains("\"a\""));
        let shown = format!("{:?}", keyring(r#"{"auths": {"a": {"auth": "dTpodW50ZXIy"}}}"#));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
