//! The eight verbs on wire objects. [`crate::Api`] and [`crate::DynamicApi`] differ only in how they decode.

use serde_json::Value;
use weir_proto::Kind;
use weir_proto::weir::v1::{
    self as wire, CreateRequest, DeleteCollectionRequest, DeleteRequest, GetRequest, KindRef, ListRequest,
    ListResponse, Object, ObjectRef, PatchRequest, UpdateRequest, WatchRequest, object, patch_request,
};

use crate::client::{Call, Client};
use crate::{Error, Result};

/// Which objects of a kind.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// 0: all in one answer.
    pub limit: i64,
    pub continue_token: String,
}

impl ListOptions {
    pub fn labels(selector: impl Into<String>) -> ListOptions {
        ListOptions { label_selector: selector.into(), ..ListOptions::default() }
    }

    pub fn fields(selector: impl Into<String>) -> ListOptions {
        ListOptions { field_selector: selector.into(), ..ListOptions::default() }
    }
}

/// A list, or a page of one, and the revision it reflects.
#[derive(Debug, Clone)]
pub struct List<T> {
    pub resource_version: String,
    pub items: Vec<T>,
    /// Where the next page begins; empty on the last.
    pub continue_token: String,
    pub remaining: i64,
}

#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// Events after this revision; empty: the present state first, then a bookmark, then changes.
    pub resource_version: String,
    /// Ask for bookmarks now and then.
    pub bookmarks: bool,
}

/// A change by parts.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own: lists of named things are merged by name.
    Strategic(Value),
}

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// What the kind has by default (background for all kinds so far).
    #[default]
    Default,
    /// They go after it.
    Background,
    /// It goes after them.
    Foreground,
    /// They stay.
    Orphan,
}

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// None: the object's own; 0: at once.
    pub grace_period_seconds: Option<i64>,
    pub propagation: Propagation,
    /// Refuse unless the object still has this uid.
    pub uid: String,
    /// Refuse unless the object still is at this revision.
    pub resource_version: String,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Only the very object that was seen, not a successor of the same name.
    pub fn only(uid: &str) -> DeleteOptions {
        DeleteOptions { uid: uid.to_owned(), ..DeleteOptions::default() }
    }

    /// Without waiting for anybody.
    pub fn now(uid: &str) -> DeleteOptions {
        DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::only(uid) }
    }
}

impl Propagation {
    fn as_str(self) -> &'static str {
        match self {
            Propagation::Default => "",
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// A kind, in one namespace or (empty) in all.
#[derive(Debug, Clone)]
pub(crate) struct Verbs {
    pub(crate) client: Client,
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: String,
    pub(crate) dry_run: bool,
}

impl Verbs {
    /// The namespace of an object that names one wins: an `Api` over all namespaces can write too.
    fn namespace_of<'a>(&'a self, own: &'a str) -> &'a str {
        if own.is_empty() { &self.namespace } else { own }
    }

    fn call<'a>(&'a self, verb: &'static str, namespace: &'a str, name: &'a str) -> Call<'a> {
        Call { verb, kind: self.kind, namespace, name }
    }

    fn reference(&self, namespace: &str, name: &str, subresource: &str) -> Option<ObjectRef> {
        Some(ObjectRef {
            kind: Some(self.kind.to_ref()),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    pub(crate) async fn get(&self, name: &str, subresource: &str) -> Result<Object> {
        let request = GetRequest { r#ref: self.reference(&self.namespace, name, subresource) };
        let call = self.call("get", &self.namespace, name);
        self.client.call(&call, request, |mut c, r| async move { c.get(r).await }).await
    }

    pub(crate) async fn list(&self, options: &ListOptions) -> Result<ListResponse> {
        let request = ListRequest {
            kind: Some(self.kind.to_ref()),
            namespace: self.namespace.clone(),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            limit: options.limit,
            continue_token: options.continue_token.clone(),
        };
        let call = self.call("list", &self.namespace, "");
        self.client.call(&call, request, |mut c, r| async move { c.list(r).await }).await
    }

    pub(crate) async fn watch(&self, options: &WatchOptions) -> Result<tonic::Streaming<wire::WatchEvent>> {
        let request = WatchRequest {
            kind: Some(self.kind.to_ref()),
            namespace: self.namespace.clone(),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: options.resource_version.clone(),
            bookmarks: options.bookmarks,
        };
        let call = self.call("watch", &self.namespace, "");
        self.client.call(&call, request, |mut c, r| async move { c.watch(r).await }).await
    }

    /// `name` and `subresource` are empty but for the creation of a subresource (a binding).
    pub(crate) async fn create(
        &self,
        own_namespace: &str,
        name: &str,
        subresource: &str,
        object: Object,
    ) -> Result<Object> {
        let namespace = self.namespace_of(own_namespace);
        let request = CreateRequest {
            r#ref: self.reference(namespace, name, subresource),
            object: Some(object),
            dry_run: self.dry_run,
            field_manager: self.client.field_manager(),
        };
        let call = self.call("create", namespace, name);
        self.client.call(&call, request, |mut c, r| async move { c.create(r).await }).await
    }

    pub(crate) async fn update(
        &self,
        own_namespace: &str,
        name: &str,
        subresource: &str,
        object: Object,
    ) -> Result<Object> {
        let namespace = self.namespace_of(own_namespace);
        let request = UpdateRequest {
            r#ref: self.reference(namespace, name, subresource),
            object: Some(object),
            dry_run: self.dry_run,
            field_manager: self.client.field_manager(),
        };
        let call = self.call("update", namespace, name);
        self.client.call(&call, request, |mut c, r| async move { c.update(r).await }).await
    }

    pub(crate) async fn patch(&self, name: &str, subresource: &str, patch: &Patch) -> Result<Object> {
        let call = self.call("patch", &self.namespace, name);
        let (kind, value) = match patch {
            Patch::Json(value) => (patch_request::Type::Json, value),
            Patch::Merge(value) => (patch_request::Type::Merge, value),
            Patch::Strategic(value) => (patch_request::Type::StrategicMerge, value),
        };
        let patch = serde_json::to_vec(value)
            .map_err(|source| Error::Patch { operation: call.to_string(), source })?;
        let request = PatchRequest {
            r#ref: self.reference(&self.namespace, name, subresource),
            r#type: kind.into(),
            patch,
            dry_run: self.dry_run,
            field_manager: self.client.field_manager(),
        };
        self.client.call(&call, request, |mut c, r| async move { c.patch(r).await }).await
    }

    pub(crate) async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<Object> {
        let request = DeleteRequest {
            r#ref: self.reference(&self.namespace, name, ""),
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation.as_str().to_owned(),
            uid: options.uid.clone(),
            resource_version: options.resource_version.clone(),
            dry_run: self.dry_run || options.dry_run,
        };
        let call = self.call("delete", &self.namespace, name);
        let answer = self.client.call(&call, request, |mut c, r| async move { c.delete(r).await }).await?;
        answer.object.ok_or_else(|| self.undecodable("delete", "the object is missing"))
    }

    pub(crate) async fn delete_collection(&self, list: &ListOptions, options: &DeleteOptions) -> Result<i64> {
        let request = DeleteCollectionRequest {
            kind: Some(self.kind.to_ref()),
            namespace: self.namespace.clone(),
            label_selector: list.label_selector.clone(),
            field_selector: list.field_selector.clone(),
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation.as_str().to_owned(),
        };
        let call = self.call("delete all", &self.namespace, "");
        let answer =
            self.client.call(&call, request, |mut c, r| async move { c.delete_collection(r).await }).await?;
        Ok(answer.deleted)
    }

    pub(crate) fn undecodable(&self, verb: &'static str, reason: impl ToString) -> Error {
        Error::Decode {
            operation: self.call(verb, &self.namespace, "").to_string(),
            reason: reason.to_string(),
        }
    }

    /// The protobuf inside a wire object.
    pub(crate) fn payload(&self, verb: &'static str, object: Object) -> Result<Vec<u8>> {
        match object.payload {
            Some(object::Payload::Protobuf(bytes)) => Ok(bytes),
            Some(object::Payload::Json(_)) => Err(self.undecodable(verb, "JSON where protobuf was expected")),
            None => Err(self.undecodable(verb, "the object is empty")),
        }
    }
}

pub(crate) fn object(kind: KindRef, protobuf: Vec<u8>) -> Object {
    Object { kind: Some(kind), payload: Some(object::Payload::Protobuf(protobuf)) }
}
