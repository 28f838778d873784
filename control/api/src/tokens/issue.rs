//! `POST …/serviceaccounts/NAME/token`: a TokenRequest becomes a token.

use std::sync::Arc;

use weir_proto::Resource;
use weir_proto::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
};
use weir_proto::core::v1::{Node, Pod, PodSpec, Secret, ServiceAccount};
use weir_proto::meta::v1::Time;
use weir_proto::status::ApiError;

use super::ISSUER;
use super::claims::{Claims, Private, Reference, user_name};
use crate::auth::forbidden;
use crate::cache::CachedObject;
use crate::metrics;
use crate::random;
use crate::registry::{Context, Registry, Target, Written};
use crate::validation::{Errors, Path};

/// What is asked for without a word about it.
const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;
/// Audiences that one token may be for.
const MOST_AUDIENCES: usize = 32;
const LONGEST_AUDIENCE: usize = 1024;

impl Registry {
    /// To be called of those who may create the subresource; what a node may ask for is decided here.
    pub(crate) async fn issue_token(
        &self,
        context: &Context,
        target: &Target,
        mut request: TokenRequest,
    ) -> Result<Written, ApiError> {
        let account = self.find_fresh::<ServiceAccount>(&target.namespace, &target.name).await?;
        let account = account.ok_or_else(|| ApiError::not_found(ServiceAccount::KIND, &target.name))?;
        let mut spec = request.spec.take().unwrap_or_default();
        if spec.audiences.is_empty() {
            spec.audiences = vec![ISSUER.to_owned()];
        }
        let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
        validate(&spec, &target.name)?;

        let meta = account.object.meta();
        let mut private = Private {
            namespace: meta.namespace.clone(),
            serviceaccount: reference(&meta.name, &meta.uid),
            ..Private::default()
        };
        match &spec.bound_object_ref {
            Some(bound) => self.bind_token(context, target, bound, &spec.audiences, &mut private).await?,
            None if context.user.node_name().is_some() => {
                let reason = "a node may only request tokens that are bound to a pod of its own";
                return Err(forbidden(target.kind, &target.name, reason));
            }
            None => {}
        }
        let now = Time::now();
        let expires = now.unix().saturating_add(seconds);
        let claims = Claims {
            aud: spec.audiences.clone(),
            exp: expires,
            iat: now.unix(),
            iss: ISSUER.to_owned(),
            jti: random::uuid().map_err(|error| ApiError::internal(error.to_string()))?,
            sub: user_name(&private.namespace, &private.serviceaccount.name),
            private,
            nbf: now.unix(),
        };
        let token = match context.dry_run {
            true => String::new(),
            false => self.tokens().keys().await?.sign(&claims)?,
        };
        metrics::TOKENS_ISSUED.inc();
        let answered = request.meta_mut();
        answered.name.clone_from(&target.name);
        answered.namespace.clone_from(&target.namespace);
        answered.creation_timestamp = Some(now);
        request.spec = Some(spec);
        request.status =
            Some(TokenRequestStatus { token, expiration_timestamp: Some(Time::from_unix(expires)) });
        let mut object = CachedObject::new(Box::new(request), 0);
        object.object.meta_mut().resource_version.clear();
        Ok(Written { object: Arc::new(object), warnings: Vec::new() })
    }

    /// Names the bound object in the claims, as it is now.
    async fn bind_token(
        &self,
        context: &Context,
        target: &Target,
        bound: &BoundObjectReference,
        audiences: &[String],
        private: &mut Private,
    ) -> Result<(), ApiError> {
        let account = &target.name;
        let node_asks = context.user.node_name();
        match (bound.api_version.as_str(), bound.kind.as_str()) {
            ("" | "v1", "Pod") => {
                let found = self.find_fresh::<Pod>(&target.namespace, &bound.name).await?;
                let found = found.ok_or_else(|| ApiError::not_found(Pod::KIND, &bound.name))?;
                check_uid(target, bound, &found)?;
                let spec = found.typed::<Pod>().and_then(|pod| pod.spec.as_ref());
                let (runs_as, node) =
                    spec.map(|spec| (&*spec.service_account_name, &*spec.node_name)).unwrap_or_default();
                if runs_as != account {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different \
                         serviceaccount name."
                    )));
                }
                if node_asks.is_some_and(|asking| bound.uid.is_empty() || node != asking) {
                    let reason = "a node may only request tokens for pods that are bound to it, by their uid";
                    return Err(forbidden(target.kind, account, reason));
                }
                if node_asks.is_some() {
                    check_audiences(audiences, spec)
                        .map_err(|reason| forbidden(target.kind, account, &reason))?;
                }
                private.pod = Some(reference(&bound.name, &found.object.meta().uid));
                if !node.is_empty() {
                    let uid = self.find::<Node>("", node).await?.map(|found| found.object.meta().uid.clone());
                    private.node = Some(reference(node, &uid.unwrap_or_default()));
                }
                Ok(())
            }
            _ if node_asks.is_some() => {
                let reason = "a node may only request tokens that are bound to a pod of its own";
                Err(forbidden(target.kind, account, reason))
            }
            ("" | "v1", "Secret") => {
                let found = self.find_fresh::<Secret>(&target.namespace, &bound.name).await?;
                let found = found.ok_or_else(|| ApiError::not_found(Secret::KIND, &bound.name))?;
                check_uid(target, bound, &found)?;
                private.secret = Some(reference(&bound.name, &found.object.meta().uid));
                Ok(())
            }
            ("" | "v1", "Node") => {
                let found = self.find_fresh::<Node>("", &bound.name).await?;
                let found = found.ok_or_else(|| ApiError::not_found(Node::KIND, &bound.name))?;
                check_uid(target, bound, &found)?;
                private.node = Some(reference(&bound.name, &found.object.meta().uid));
                Ok(())
            }
            (version, kind) => Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to object {version}/{kind}: a token is bound to a \
                 Pod, a Secret or a Node of v1"
            ))),
        }
    }
}

fn reference(name: &str, uid: &str) -> Reference {
    Reference { name: name.to_owned(), uid: uid.to_owned() }
}

fn check_uid(target: &Target, bound: &BoundObjectReference, found: &CachedObject) -> Result<(), ApiError> {
    let uid = &found.object.meta().uid;
    if bound.uid.is_empty() || bound.uid == *uid {
        return Ok(());
    }
    let why = format!(
        "the UID in the bound object reference ({}) does not match the UID in record ({uid}). The object might have \
         been deleted and then recreated",
        bound.uid
    );
    Err(ApiError::conflict(target.kind, &target.name, &why))
}

fn validate(spec: &TokenRequestSpec, account: &str) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    let path = Path::root("spec");
    check_seconds(spec.expiration_seconds, &path.child("expirationSeconds"), &mut errors);
    let at = path.child("audiences");
    if spec.audiences.len() > MOST_AUDIENCES {
        errors.too_many(&at, spec.audiences.len(), MOST_AUDIENCES);
    }
    for (index, audience) in spec.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.required(&at.index(index), "must not be empty");
        } else if audience.len() > LONGEST_AUDIENCE {
            errors.too_long(&at.index(index), LONGEST_AUDIENCE);
        }
    }
    if spec.bound_object_ref.as_ref().is_some_and(|bound| bound.name.is_empty()) {
        errors.required(&path.child("boundObjectRef.name"), "");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(TokenRequest::KIND, account, errors.into_causes()))
}

/// A node that is not what it should be gets no tokens for services that none of its pods speak to: the audience that it
/// asks for is one that a volume of the pod shows. A volume that names none means this API.
fn check_audiences(asked: &[String], spec: Option<&PodSpec>) -> Result<(), String> {
    let [asked] = asked else {
        return Err("a node may only request a token for one audience".to_owned());
    };
    let projected =
        spec.into_iter().flat_map(|spec| &spec.volumes).filter_map(|volume| volume.projected.as_ref());
    let shown = projected
        .flat_map(|projected| &projected.sources)
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| if token.audience.is_empty() { ISSUER } else { &token.audience });
    match shown.into_iter().any(|shown| shown == asked) {
        true => Ok(()),
        false => Err(format!("audience {asked:?} not found in pod spec volume")),
    }
}

/// What a token's life may be, here and in projected volumes.
pub(crate) fn check_seconds(seconds: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    match seconds {
        Some(seconds) if seconds < LEAST_SECONDS => {
            errors.invalid(path, seconds, "may not specify a duration less than 10 minutes");
        }
        Some(seconds) if seconds > MOST_SECONDS => {
            errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        _ => {}
    }
}
