//! Who is asking, and whether they may.
//!
//! [`User`] is established once per connection, from the verified client certificate (common name = user,
//! organisations = groups), or else once per request, from a service account's token ([`crate::tokens`]), and travels in
//! the request's extensions. [`authorize`] decides every access to
//! objects. `system:masters` may do anything; a node what its own pods need ([`node`]); whoever is known may look
//! at discovery and ask who they are; nobody else anything.
//!
//! Left out: roles and bindings (RBAC). So a service account is known, and may do no more than that.

pub(crate) mod bootstrap;
pub(crate) mod mirror;
mod node;

pub(crate) use node::may_create_as;

use std::collections::BTreeMap;
use std::fmt;

use weir_proto::Kind;
use weir_proto::meta::v1::StatusDetails;
use weir_proto::status::ApiError;

use crate::cache::Filter;
use crate::metrics;
use crate::registry::Registry;

pub const MASTERS: &str = "system:masters";
pub const NODES: &str = "system:nodes";
/// Everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
const NODE_PREFIX: &str = "system:node:";

/// An authenticated user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    /// Empty where the name is all there is.
    pub uid: String,
    /// What else the credential tells.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        User { name: name.into(), groups, ..User::default() }
    }

    /// A part of the control plane: may do anything.
    pub fn system(name: impl Into<String>) -> Self {
        User::new(name, &[MASTERS])
    }

    pub fn node(node_name: &str) -> Self {
        User::new(format!("{NODE_PREFIX}{node_name}"), &[NODES])
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// What sort of user metrics count.
    pub(crate) fn sort(&self) -> &'static str {
        if self.node_name().is_some() {
            "node"
        } else if self.name.starts_with("system:serviceaccount:") {
            "serviceaccount"
        } else {
            "other"
        }
    }

    /// The node that this user is the agent of.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty() && self.is_in(NODES))
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// How metrics call it: as HTTP does, where it does.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::List => "LIST",
            Verb::Watch => "WATCH",
            Verb::Create => "POST",
            Verb::Update => "PUT",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
            Verb::DeleteCollection => "DELETECOLLECTION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        })
    }
}

/// An access to objects of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) verb: Verb,
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: &'a str,
    /// Empty for a list, a watch, or a name yet to be given.
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
    /// Of a list, watch or deletecollection.
    pub(crate) filter: Option<&'a Filter>,
}

/// Decides; a refusal says who was refused what.
pub(crate) async fn authorize(user: &User, access: &Access<'_>, registry: &Registry) -> Result<(), ApiError> {
    metrics::note(access.verb.label(), access.kind, access.namespace, access.name, access.subresource);
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let denied = match user.node_name() {
        Some(node_name) => match node::allows(node_name, access, registry).await {
            Ok(()) => return Ok(()),
            Err(reason) => format!(": {reason}"),
        },
        None => ": roles and bindings (RBAC) are not supported yet; without them only nodes and system:masters are allowed anything".to_owned(),
    };
    let resource = match access.subresource {
        "" => access.kind.plural.to_owned(),
        subresource => format!("{}/{subresource}", access.kind.plural),
    };
    let place = match access.namespace {
        "" => " at the cluster scope".to_owned(),
        namespace => format!(" in the namespace {namespace:?}"),
    };
    let reason = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?}{place}{denied}",
        user.name, access.verb, access.kind.group
    );
    Err(forbidden(access.kind, access.name, &reason))
}

/// 403, about an object.
pub(crate) fn forbidden(kind: &Kind, name: &str, reason: &str) -> ApiError {
    let about = match (kind.resource_name(), name) {
        (resource, "") => resource,
        (resource, name) => format!("{resource} {name:?}"),
    };
    let mut error = ApiError::forbidden(format!("{about} is forbidden: {reason}"));
    error.0.details = Some(StatusDetails {
        group: kind.group.to_owned(),
        kind: kind.plural.to_owned(),
        name: name.to_owned(),
        ..StatusDetails::default()
    });
    error
}
