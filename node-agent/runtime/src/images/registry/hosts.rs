//! Which servers stand for a registry, and how they are trusted: `DIR/<registry>/hosts.toml` in containerd's form, and
//! `DIR/<registry>/*.crt` as Docker has it. `<registry>` is the name that references use, port included; `_default`
//! serves those without a directory of their own.
//!
//! ```toml
//! server = "https://registry.internal:5000"   # the registry itself; asked last
//! ca = "ca.crt"                               # beside this file, or absolute; a list for several
//!
//! [host."https://mirror.internal"]            # asked first, in this order
//! capabilities = ["pull", "resolve"]
//! ca = "/etc/ssl/mirror.crt"
//! ```
//!
//! Plain HTTP is spoken only to a server written as `http://`. Left out: client certificates, additional headers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistryError;
use crate::images::reference::DOCKER_HUB;

const FILE: &str = "hosts.toml";
const DEFAULT: &str = "_default";

/// A server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Scheme, host and port, and the path of the API: no slash at the end.
    pub(super) base: String,
    /// Host and port, for people.
    pub(super) name: String,
    /// PEM files of authorities, trusted beside the system's.
    pub(super) authorities: Vec<PathBuf>,
    pub(super) skip_verify: bool,
    /// A mirror, which may not have everything.
    pub(super) mirror: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: Option<String>,
    ca: Option<Paths>,
    skip_verify: bool,
    host: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mirror {
    capabilities: Option<Vec<String>>,
    ca: Option<Paths>,
    skip_verify: bool,
    override_path: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Paths {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// The servers of `registry`: mirrors first, the registry itself last.
pub(super) fn hosts(registry: &str, config_dir: Option<&Path>) -> Result<Vec<Host>, RegistryError> {
    let Some(dir) = config_dir.and_then(|dir| directory(registry, dir)) else {
        return Ok(vec![Host::registry(registry)]);
    };
    let path = dir.join(FILE);
    let failed =
        |problem: String| RegistryError::Config { host: registry.to_owned(), path: path.clone(), problem };
    let file: File = match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|error| failed(error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
        Err(error) => return Err(failed(error.to_string())),
    };
    let beside = certificates(&dir).map_err(|error| failed(error.to_string()))?;
    let mut hosts = Vec::new();
    for (url, table) in file.host {
        let mirror: Mirror =
            table.try_into().map_err(|error: toml::de::Error| failed(format!("host {url:?}: {error}")))?;
        // One that only takes pushes is none for us.
        let pulls =
            |names: &Vec<String>| ["pull", "resolve"].iter().all(|n| names.iter().any(|own| own == n));
        if !mirror.capabilities.as_ref().is_none_or(pulls) {
            continue;
        }
        let base = base(&url, mirror.override_path).map_err(&failed)?;
        hosts.push(Host {
            name: name(&base),
            base,
            authorities: authorities(&dir, mirror.ca, &beside),
            skip_verify: mirror.skip_verify,
            mirror: true,
        });
    }
    let base = match file.server {
        Some(server) => base(&server, false).map_err(&failed)?,
        None => Host::registry(registry).base,
    };
    hosts.push(Host {
        name: name(&base),
        base,
        authorities: authorities(&dir, file.ca, &beside),
        skip_verify: file.skip_verify,
        mirror: false,
    });
    Ok(hosts)
}

/// Where the configuration of `registry` would go, for advice.
pub(super) fn expected_directory(registry: &str, config_dir: Option<&Path>) -> PathBuf {
    config_dir.unwrap_or(Path::new("/etc/weir/certs.d")).join(registry)
}

impl Host {
    fn registry(registry: &str) -> Self {
        let server = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
        Self {
            base: format!("https://{server}/v2"),
            name: server.to_owned(),
            authorities: Vec::new(),
            skip_verify: false,
            mirror: false,
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.base.starts_with("http://")
    }

    /// Proxies from the environment do not stand before this machine's own services.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.name.rsplit_once(':').map_or(self.name.as_str(), |(host, _)| host);
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn directory(registry: &str, config_dir: &Path) -> Option<PathBuf> {
    // A registry's name holds no slash and no leading dot: references are checked.
    [registry, DEFAULT].into_iter().map(|name| config_dir.join(name)).find(|dir| dir.is_dir())
}

fn base(url: &str, override_path: bool) -> Result<String, String> {
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: ureq::http::Uri = full.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("{url:?} is not of the form https://host[:port]"));
    };
    let path = uri.path().trim_end_matches('/');
    let api = if override_path || path.ends_with("/v2") { "" } else { "/v2" };
    Ok(format!("{scheme}://{authority}{path}{api}"))
}

fn name(base: &str) -> String {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_owned()
}

fn authorities(dir: &Path, configured: Option<Paths>, beside: &[PathBuf]) -> Vec<PathBuf> {
    match configured {
        Some(Paths::One(path)) => vec![dir.join(path)],
        Some(Paths::Many(paths)) => paths.into_iter().map(|path| dir.join(path)).collect(),
        None => beside.to_vec(),
    }
}

fn certificates(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        found.extend(path.extension().is_some_and(|extension| extension == "crt").then_some(path));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(registry: &str, text: &str) -> Result<Vec<Host>, RegistryError> {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join(registry)).expect("a directory");
        fs::write(dir.path().join(registry).join(FILE), text).expect("a file");
        hosts(registry, Some(dir.path()))
    }

    #[test]
    fn a_registry_without_configuration_is_asked_by_https() {
        let bases = |registry| {
            hosts(registry, None).expect("hosts").into_iter().map(|host| host.base).collect::<Vec<_>>()
        };
        assert_eq!(bases("docker.io"), ["https://registry-1.docker.io/v2"]);
        assert_eq!(bases("localhost:5000"), ["https://localhost:5000/v2"]);
    }

    #[test]
    fn mirrors_come_first_and_in_their_order() {
        let hosts = with(
            "a.b:5000",
            "server = 'http://a.b:5000'\n[host.'https://z']\nskip_verify = true\n\
             [host.'push']\ncapabilities = ['push']\n[host.'https://m/sub/v2']\noverride_path = true\n",
        )
        .expect("hosts");
        let seen: Vec<_> =
            hosts.iter().map(|host| (host.base.as_str(), host.mirror, host.skip_verify)).collect();
        assert_eq!(
            seen,
            [
                ("https://z/v2", true, true),
                ("https://m/sub/v2", true, false),
                ("http://a.b:5000/v2", false, false)
            ]
        );
    }

    #[test]
    fn certificates_beside_the_file_are_trusted_where_it_names_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join("r");
        fs::create_dir(&own).expect("a directory");
        fs::write(own.join("b.crt"), "").expect("a file");
        assert_eq!(hosts("r", Some(dir.path())).expect("hosts")[0].authorities, [own.join("b.crt")]);
        fs::write(own.join(FILE), "ca = ['x.pem', '/y.pem']").expect("a file");
        let found = hosts("r", Some(dir.path())).expect("hosts");
        assert_eq!(found[0].authorities, [own.join("x.pem"), "/y.pem".into()]);
    }

    #[test]
    fn mistakes_are_named_with_the_file() {
        for (text, problem) in [
            ("sever = 'x'", "unknown field `sever`"),
            ("server = 'ftp://x'", "is not of the form"),
            ("[host.'https://m']\nheader = {}", "unknown field `header`"),
            ("server", "hosts.toml"),
        ] {
            let error = with("r", text).expect_err(text).to_string();
            assert!(error.contains(problem) && error.contains("r/hosts.toml"), "{text}: {error}");
        }
    }
}
