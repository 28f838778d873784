//! What a registry wants to be shown: the `WWW-Authenticate` header (RFC 9110, 11.6.1). Pure.

use super::RegistryError;

/// How to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// A token is to be fetched from `realm`; see the distribution project's "Token Authentication".
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Of several challenges, a bearer's is the stronger.
    pub(super) fn parse<'a>(
        host: &str,
        headers: impl Iterator<Item = &'a str>,
    ) -> Result<Self, RegistryError> {
        let failed = |problem: String| RegistryError::Challenge { host: host.to_owned(), problem };
        let mut basic = false;
        let mut seen = Vec::new();
        for header in headers {
            let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let parameters = parameters(rest);
                let find = |name: &str| {
                    let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.clone())
                };
                let realm =
                    find("realm").ok_or_else(|| failed("a bearer challenge without a realm".to_owned()))?;
                return Ok(Self::Bearer { realm, service: find("service"), scope: find("scope") });
            }
            basic |= scheme.eq_ignore_ascii_case("basic");
            seen.push(scheme.to_owned());
        }
        if basic {
            return Ok(Self::Basic);
        }
        Err(failed(match seen.as_slice() {
            [] => "401 without a WWW-Authenticate header".to_owned(),
            seen => format!("scheme {}", seen.join(", ")),
        }))
    }
}

/// `key="value with \" and ,", other=token`.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, value)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_owned();
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = value.split_once(',').unwrap_or((value, ""));
                (value.trim().to_owned(), after)
            }
        };
        found.push((key, value));
        rest = after;
    }
    found
}

/// What stands before the closing quote, and what behind it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &text[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(headers: &[&str]) -> Result<Challenge, RegistryError> {
        Challenge::parse("r", headers.iter().copied())
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        assert_eq!(
            parse(&[hub]).expect("a challenge"),
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:a/b:pull,push")
            )
        );
        assert_eq!(
            parse(&["Basic realm=x", r#"bearer realm=https://t, service="a\"b""#]).expect("a challenge"),
            bearer("https://t", Some("a\"b"), None)
        );
        assert_eq!(parse(&[r#"BASIC realm="Registry""#]).expect("a challenge"), Challenge::Basic);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse(&["Negotiate"]).expect_err("refused").to_string().ends_with("scheme Negotiate"));
        assert!(parse(&[]).expect_err("refused").to_string().contains("without a WWW-Authenticate"));
        assert!(parse(&["Bearer service=x"]).expect_err("refused").to_string().contains("without a realm"));
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in ".{0,200}") {
            let _ = parse(&[&header]);
            let _ = parse(&[&format!("Bearer {header}")]);
        }
    }
}
