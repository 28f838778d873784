//! Image references: `[registry/]repository[:tag][@digest]`, completed the way Docker and Kubernetes complete them.

use super::ImageError;
use super::digest::Digest;

/// The registry of references that name none.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// A reference in full: `busybox` has become `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, ImageError> {
        Self::split(text).map_err(|problem| ImageError::InvalidName { reference: text.to_owned(), problem })
    }

    fn split(text: &str) -> Result<Self, &'static str> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(Digest::parse(digest).ok_or("the digest is not sha256: and 64 hexadecimal digits")?),
            ),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let mut characters = tag.chars();
            let first = characters.next().ok_or("the tag is empty")?;
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !word(first) || !characters.all(|c| word(c) || c == '.' || c == '-') || tag.len() > 128 {
                return Err(
                    "the tag holds characters other than letters, digits, '_', '.', '-', or is too long",
                );
            }
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DOCKER_HUB, name),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let repository = match (registry, repository.contains('/')) {
            (DOCKER_HUB, false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        if name.is_empty() || repository.len() > 255 {
            return Err("the repository name is empty or too long");
        }
        if !registry.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !registry.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'))
        {
            return Err("the registry is not a host name");
        }
        if !repository.split('/').all(component_is_valid) {
            return Err(
                "repository names are lower-case letters and digits, separated by '.', '_', '-' and '/'",
            );
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { name: format!("{registry}/{repository}"), tag, digest })
    }

    /// Does an image that calls itself `name` and has manifest digest `digest` answer to this reference? A digest decides
    /// alone: it names the content.
    pub(super) fn matches(&self, name: &str, digest: &Digest) -> bool {
        if let Some(wanted) = &self.digest {
            return wanted == digest;
        }
        Self::split(name).is_ok_and(|other| other.name == self.name && other.tag == self.tag)
    }

    /// The registry's name as references have it: a host, with its port where one is given.
    pub(super) fn registry(&self) -> &str {
        self.name.split_once('/').map_or("", |(registry, _)| registry)
    }

    pub(super) fn repository(&self) -> &str {
        self.name.split_once('/').map_or("", |(_, repository)| repository)
    }

    /// Registry and repository: what credentials are chosen by.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the registry is asked for: the digest, which names the content, or else the tag.
    pub(super) fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_default(),
        }
    }

    /// The full form, equal for references that mean the same.
    pub(super) fn canonical(&self) -> String {
        let mut text = self.name.clone();
        if let Some(tag) = &self.tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }
}

/// `[a-z0-9]+` joined by single '.', one or two '_', or any number of '-'.
fn component_is_valid(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && component.chars().all(|c| alphanumeric(c) || matches!(c, '.' | '_' | '-'))
        && !["..", "___", "._", "_.", ".-", "-."].iter().any(|bad| component.contains(bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("weir/echo:v1", "docker.io/weir/echo:v1"),
            ("localhost/echo", "localhost/echo:latest"),
            ("docker.io/busybox:1", "docker.io/library/busybox:1"),
            ("index.docker.io/weir/echo", "docker.io/weir/echo:latest"),
            ("registry.local:5000/a/b_c/d-e:x.Y-1", "registry.local:5000/a/b_c/d-e:x.Y-1"),
        ] {
            assert_eq!(Reference::parse(text).expect(text).canonical(), full);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            ":v1",
            "UPPER",
            "a//b",
            "a:",
            "a:b:c",
            "a@sha256:12",
            "../etc",
            "a/../b",
            "a b",
            "-a",
            "a:tag/",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} was taken for a reference");
        }
    }

    #[test]
    fn names_match_in_any_spelling_and_digests_alone() {
        let digest = Digest::parse(&format!("sha256:{}", "ab".repeat(32))).expect("a digest");
        let other = Digest::parse(&format!("sha256:{}", "cd".repeat(32))).expect("a digest");
        let short = Reference::parse("busybox").expect("a reference");
        assert!(short.matches("docker.io/library/busybox:latest", &digest));
        assert!(!short.matches("docker.io/library/busybox:1.36", &digest));
        let pinned = Reference::parse(&format!("busybox@{digest}")).expect("a reference");
        assert!(pinned.matches("whatever", &digest));
        assert!(!pinned.matches("busybox", &other));
    }
}
