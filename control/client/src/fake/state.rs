//! The objects of the server in memory, and the log of their changes.

use std::collections::BTreeMap;

use weir_proto::meta::v1::Time;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::watch_event::Type;
use weir_proto::{Kind, Object};

type Answer = Result<Box<dyn Object>, ApiError>;

#[derive(Debug, Default)]
pub(super) struct State {
    revision: i64,
    objects: BTreeMap<String, Box<dyn Object>>,
    pub(super) log: Vec<Logged>,
    /// Revisions up to this one are no longer in the log.
    pub(super) compacted: i64,
    pub(super) conflicts: usize,
    pub(super) refuse_writes: bool,
    pub(super) refuse_creation: Option<&'static Kind>,
    pub(super) refusals: usize,
    pub(super) watches_paused: bool,
    pub(super) epoch: u64,
    pub(super) writes: u64,
    pub(super) tokens: u64,
    /// In seconds; None for what is asked.
    pub(super) token_life: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Logged {
    pub(super) revision: i64,
    pub(super) kind: &'static Kind,
    pub(super) event: Type,
    pub(super) object: Box<dyn Object>,
}

impl State {
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log.clear();
    }

    pub(super) fn list<'a>(
        &'a self,
        kind: &'static Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a dyn Object> {
        let of_kind = move |object: &&dyn Object| {
            object.kind().kind == kind.kind
                && object.kind().group == kind.group
                && (namespace.is_empty() || object.meta().namespace == namespace)
        };
        self.objects.values().map(AsRef::as_ref).filter(of_kind)
    }

    pub(super) fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Answer {
        let object = self.objects.get(&kind.key(namespace, name));
        object.map(|object| object.clone_box()).ok_or_else(|| ApiError::not_found(kind, name))
    }

    pub(super) fn create(&mut self, kind: &'static Kind, mut object: Box<dyn Object>) -> Answer {
        self.writable()?;
        if self.refuse_creation == Some(kind) {
            self.refusals += 1;
            return Err(ApiError::forbidden(format!("{} are forbidden: exceeded quota", kind.plural)));
        }
        let revision = self.revision + 1;
        let meta = object.meta_mut();
        if meta.name.is_empty() {
            meta.name = format!("{}{revision:05x}", meta.generate_name);
        }
        if self.objects.contains_key(&kind.key(&meta.namespace, &meta.name)) {
            return Err(ApiError::already_exists(kind, &meta.name));
        }
        meta.uid = format!("uid-{revision}");
        meta.creation_timestamp = Some(Time::now());
        meta.generation = 1;
        Ok(self.put(kind, object))
    }

    pub(super) fn update(
        &mut self,
        kind: &'static Kind,
        subresource: &str,
        mut object: Box<dyn Object>,
    ) -> Answer {
        self.writable()?;
        let meta = object.meta().clone();
        let present = self.get(kind, &meta.namespace, &meta.name)?;
        if self.conflicts > 0 {
            self.conflicts -= 1;
            return Err(ApiError::conflict(kind, &meta.name, "another writer was faster"));
        }
        let stale =
            !meta.resource_version.is_empty() && meta.resource_version != present.meta().resource_version;
        if stale {
            return Err(ApiError::conflict(kind, &meta.name, "the object has been modified"));
        }
        let generation = present.meta().generation;
        object.meta_mut().generation = generation + i64::from(subresource.is_empty());
        object.meta_mut().uid = present.meta().uid.clone();
        object.meta_mut().deletion_timestamp = present.meta().deletion_timestamp;
        if object.meta().deletion_timestamp.is_some() && object.meta().finalizers.is_empty() {
            return Ok(self.remove(kind, &kind.key(&meta.namespace, &meta.name)).unwrap_or(object));
        }
        Ok(self.put(kind, object))
    }

    /// Pods that run somewhere wait for their agent, which confirms with a grace period of 0.
    pub(super) fn delete(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        condition: &Condition,
    ) -> Answer {
        self.writable()?;
        let mut object = self.get(kind, namespace, name)?;
        if !condition.uid.is_empty() && condition.uid != object.meta().uid {
            return Err(ApiError::conflict(kind, name, "the uid is another"));
        }
        if condition.foreground {
            object.meta_mut().finalizers.push("foregroundDeletion".to_owned());
        }
        if condition.orphan {
            object.meta_mut().finalizers.push("orphan".to_owned());
        }
        let bound = object.to_json().pointer("/spec/nodeName").is_some();
        let graceful = kind.kind == "Pod" && bound && condition.grace != Some(0);
        if graceful || !object.meta().finalizers.is_empty() {
            if object.meta().deletion_timestamp.is_none() {
                object.meta_mut().deletion_timestamp = Some(Time::now());
                return Ok(self.put(kind, object));
            }
            return Ok(object);
        }
        Ok(self.remove(kind, &kind.key(namespace, name)).unwrap_or(object))
    }

    pub(super) fn put(&mut self, kind: &'static Kind, mut object: Box<dyn Object>) -> Box<dyn Object> {
        self.revision += 1;
        self.writes += 1;
        object.meta_mut().resource_version = self.revision.to_string();
        if object.meta().uid.is_empty() {
            object.meta_mut().uid = format!("uid-{}", self.revision);
        }
        let key = kind.key(&object.meta().namespace, &object.meta().name);
        let event = match self.objects.insert(key, object.clone_box()) {
            None => Type::Added,
            Some(_) => Type::Modified,
        };
        self.log.push(Logged { revision: self.revision, kind, event, object: object.clone_box() });
        object
    }

    pub(super) fn remove(&mut self, kind: &'static Kind, key: &str) -> Option<Box<dyn Object>> {
        let object = self.objects.remove(key)?;
        self.revision += 1;
        self.writes += 1;
        let logged = object.clone_box();
        self.log.push(Logged { revision: self.revision, kind, event: Type::Deleted, object: logged });
        Some(object)
    }

    pub(super) fn writable(&self) -> Result<(), ApiError> {
        match self.refuse_writes {
            true => Err(ApiError::unavailable("no writes for now")),
            false => Ok(()),
        }
    }
}

/// What a deletion asks for.
#[derive(Debug, Default)]
pub(super) struct Condition {
    pub(super) uid: String,
    pub(super) grace: Option<i64>,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}
