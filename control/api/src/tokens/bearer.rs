//! Whose a presented token is.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_proto::Resource;
use weir_proto::core::v1::{Node, Pod, Secret, ServiceAccount};
use weir_proto::meta::v1::{ObjectMeta, Time};
use weir_proto::status::ApiError;

use super::claims::{Claims, LEEWAY, Reference, user_name};
use super::{ISSUER, Tokens};
use crate::auth::User;
use crate::registry::Registry;

/// No token that we make is near this long.
const LONGEST: usize = 16 * 1024;
const ALL_ACCOUNTS: &str = "system:serviceaccounts";

/// Why a token is not believed. A client is told no more than 401; the log and reviews say which.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("invalid bearer token: longer than {LONGEST} bytes")]
    TooLong,
    #[error("invalid bearer token: {0}")]
    Signature(String),
    #[error("invalid bearer token: its subject is not the account that it names")]
    Subject,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {0:?} is invalid for the target audiences")]
    Audience(Vec<String>),
    #[error("service account token has been invalidated: {kind} {name:?} {how}")]
    Invalidated { kind: &'static str, name: String, how: &'static str },
    #[error(transparent)]
    Unanswered(#[from] ApiError),
}

/// The token of an `Authorization` header.
pub(crate) fn of_header(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
}

impl Tokens {
    /// Who shows a token to this server.
    pub(crate) async fn authenticate(&self, registry: &Registry, token: &str) -> Result<User, Refused> {
        self.review(registry, token, &[ISSUER.to_owned()]).await.map(|(user, _)| user)
    }

    /// Whose a token is, and which of `audiences` it is for.
    pub(super) async fn review(
        &self,
        registry: &Registry,
        token: &str,
        audiences: &[String],
    ) -> Result<(User, Vec<String>), Refused> {
        if token.len() > LONGEST {
            return Err(Refused::TooLong);
        }
        let claims = match self.known(token) {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.keys().await?.verify(token)?);
                self.remember(token, claims.clone());
                claims
            }
        };
        let now = Time::now();
        let audiences = claims.check(now.unix(), audiences)?;
        still_there(registry, &claims, now).await?;
        Ok((user(&claims), audiences))
    }
}

/// The account and what the token is bound to are still those that it was made for.
async fn still_there(registry: &Registry, claims: &Claims, now: Time) -> Result<(), Refused> {
    let private = &claims.private;
    let namespace = private.namespace.as_str();
    is_still::<ServiceAccount>(registry, namespace, &private.serviceaccount, now).await?;
    if let Some(pod) = &private.pod {
        is_still::<Pod>(registry, namespace, pod, now).await?;
    }
    if let Some(secret) = &private.secret {
        is_still::<Secret>(registry, namespace, secret, now).await?;
    }
    match &private.node {
        // Where there is a pod, the node only says where it was.
        Some(node) if private.pod.is_none() => is_still::<Node>(registry, "", node, now).await,
        _ => Ok(()),
    }
}

async fn is_still<R: Resource>(
    registry: &Registry,
    namespace: &str,
    reference: &Reference,
    now: Time,
) -> Result<(), Refused> {
    let refuse = |how| {
        let (kind, name) = (R::KIND.kind, reference.name.clone());
        Err(Refused::Invalidated { kind, name, how })
    };
    // The cache may not have heard of an object that was made a moment ago, or know its predecessor.
    let known = registry.peek::<R>(namespace, &reference.name);
    let known = match known.filter(|known| known.object.meta().uid == reference.uid) {
        Some(known) => Some(known),
        None => registry.find::<R>(namespace, &reference.name).await?,
    };
    let Some(known) = known else { return refuse("has been deleted") };
    let meta: &ObjectMeta = known.object.meta();
    if meta.uid != reference.uid {
        return refuse("is another by now");
    }
    match meta.deletion_timestamp {
        Some(ends) if ends.unix() + LEEWAY < now.unix() => refuse("has been deleted"),
        _ => Ok(()),
    }
}

fn user(claims: &Claims) -> User {
    let private = &claims.private;
    let account = &private.serviceaccount;
    let namespaced = format!("{ALL_ACCOUNTS}:{}", private.namespace);
    let mut user = User::new(
        user_name(&private.namespace, &account.name),
        &[ALL_ACCOUNTS, &namespaced, crate::auth::AUTHENTICATED],
    );
    user.uid.clone_from(&account.uid);
    let mut extra = BTreeMap::from([("credential-id", format!("JTI={}", claims.jti))]);
    for (reference, name, uid) in
        [(&private.pod, "pod-name", "pod-uid"), (&private.node, "node-name", "node-uid")]
    {
        if let Some(reference) = reference {
            extra.insert(name, reference.name.clone());
            if !reference.uid.is_empty() {
                extra.insert(uid, reference.uid.clone());
            }
        }
    }
    let extra = extra.into_iter();
    user.extra =
        extra.map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value])).collect();
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_its_scheme() {
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
            ("abc", None),
            ("", None),
        ] {
            assert_eq!(of_header(header), token, "{header:?}");
        }
    }
}
