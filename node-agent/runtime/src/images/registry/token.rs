//! Tokens: fetched from the service that a registry's challenge names (distribution, "Token Authentication", and its
//! OAuth2 form for identity tokens).

use serde::Deserialize;
use ureq::Agent;
use ureq::http::StatusCode;

use super::RegistryError;
use super::client::Client;
use super::keyring::Credentials;

pub(super) struct Wanted<'a> {
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// The header to show the registry; `None` when the service refuses the credentials.
pub(super) fn fetch(
    client: &Client<'_>,
    agent: &Agent,
    wanted: &Wanted<'_>,
    credentials: Option<&Credentials>,
) -> Result<Option<String>, RegistryError> {
    let failed = |problem: String| RegistryError::Challenge { host: client.host.name.clone(), problem };
    // A registry by HTTPS must not make anybody send a password in the clear.
    let plain_as_well = client.host.is_plain() && wanted.realm.starts_with("http://");
    if !plain_as_well && !wanted.realm.starts_with("https://") {
        return Err(failed(format!("its token service {:?} is not reached by HTTPS", wanted.realm)));
    }
    let what = "a token";
    let sent = match credentials {
        Some(Credentials::IdentityToken(refresh)) => agent.post(wanted.realm).send_form([
            ("grant_type", "refresh_token"),
            ("client_id", "weir"),
            ("service", wanted.service.unwrap_or_default()),
            ("scope", wanted.scope),
            ("refresh_token", refresh),
        ]),
        password => {
            let mut request = agent.get(wanted.realm).query("scope", wanted.scope);
            if let Some(service) = wanted.service {
                request = request.query("service", service);
            }
            if let Some(Credentials::Password { user, password }) = password {
                request = request.header("authorization", Credentials::basic(user, password));
            }
            request.call()
        }
    };
    let mut response = sent.map_err(|error| client.failed(what, error))?;
    match response.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
        status if status.is_success() => {}
        status => {
            return Err(RegistryError::Status {
                host: client.host.name.clone(),
                what: format!("a token from {}", wanted.realm),
                status: status.as_u16(),
                detail: String::new(),
            });
        }
    }
    let bytes = client.read_limited(response.body_mut(), what)?;
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|_| failed(format!("what {} sent is no token in JSON", wanted.realm)))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed(format!("{} sent no usable token", wanted.realm)));
    }
    Ok(Some(format!("Bearer {token}")))
}
