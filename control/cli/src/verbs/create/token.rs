//! `weir create token`: a token of a service account, to be shown as `--token` or in an Authorization header.

use anyhow::{Context, Result, bail};
use weir_proto::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use weir_proto::core::v1::ServiceAccount;

use crate::duration;
use crate::output::{self, Format};
use crate::session::Session;

/// Kinds that a token may be bound to.
const BOUND: [&str; 3] = ["Node", "Pod", "Secret"];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The service account
    name: String,
    /// Whom it shall be shown to; may be given several times [default: the API server]
    #[arg(long)]
    audience: Vec<String>,
    /// How long it shall be valid, as 10m or 24h; the server may decide otherwise [default: 1h]
    #[arg(long, default_value = "0", hide_default_value = true)]
    duration: String,
    /// What it is bound to, and not valid without: Node, Pod or Secret
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_kind: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_name: String,
    /// Only if the object still has this uid
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_uid: String,
    /// Print the whole answer: json, yaml, jsonpath=…
    #[arg(long, short)]
    output: Option<String>,
}

pub(super) async fn run(session: &Session, options: &Options) -> Result<()> {
    let mut request = TokenRequest { spec: Some(options.spec()?), ..TokenRequest::default() };
    request.meta_mut().namespace.clone_from(&session.namespace);
    let api = session.client.namespaced::<ServiceAccount>(&session.namespace);
    let answer = api.request_token(&options.name, &request).await.context("failed to create token")?;
    let token = answer.status.as_ref().map(|status| status.token.clone()).unwrap_or_default();
    if token.is_empty() {
        bail!("failed to create token: no token in server response");
    }
    match options.output.as_deref() {
        None => session.say(token),
        Some(format) => output::print_objects(session, &[Box::new(answer)], true, &Format::parse(format)?),
    }
}

impl Options {
    fn spec(&self) -> Result<TokenRequestSpec> {
        if self.audience.iter().any(String::is_empty) {
            bail!("--audience must not be an empty string");
        }
        let duration = duration::parse(&self.duration).context("--duration")?;
        if duration.is_some_and(|duration| duration.subsec_nanos() != 0) {
            bail!("--duration cannot be expressed in units less than seconds");
        }
        let seconds = duration.map(|duration| i64::try_from(duration.as_secs())).transpose()?;
        Ok(TokenRequestSpec {
            audiences: self.audience.clone(),
            expiration_seconds: seconds,
            bound_object_ref: self.bound()?,
        })
    }

    fn bound(&self) -> Result<Option<BoundObjectReference>> {
        let (name, uid) = (&self.bound_object_name, &self.bound_object_uid);
        if self.bound_object_kind.is_empty() {
            for (flag, value) in [("name", name), ("uid", uid)] {
                if !value.is_empty() {
                    bail!("--bound-object-{flag} can only be set if --bound-object-kind is provided");
                }
            }
            return Ok(None);
        }
        if !BOUND.contains(&self.bound_object_kind.as_str()) {
            bail!("supported --bound-object-kind values are {}", BOUND.join(", "));
        }
        if name.is_empty() {
            bail!("--bound-object-name is required if --bound-object-kind is provided");
        }
        Ok(Some(BoundObjectReference {
            api_version: "v1".to_owned(),
            kind: self.bound_object_kind.clone(),
            name: name.clone(),
            uid: uid.clone(),
        }))
    }
}
