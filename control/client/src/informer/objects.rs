//! The copy itself: objects by key, and indices that are kept along with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weir_proto::Resource;

use super::{IndexFn, TrimFn};
use crate::key::ObjectKey;

/// An object came (no `old`), changed, or went (no `new`).
#[derive(Debug)]
pub struct Change<R> {
    pub old: Option<Arc<R>>,
    pub new: Option<Arc<R>>,
}

impl<R> Clone for Change<R> {
    fn clone(&self) -> Change<R> {
        Change { old: self.old.clone(), new: self.new.clone() }
    }
}

impl<R> Change<R> {
    /// The states before and after, whichever there are.
    pub fn states(&self) -> impl Iterator<Item = &Arc<R>> {
        self.old.iter().chain(self.new.iter())
    }
}

pub(super) struct Objects<R> {
    objects: BTreeMap<Arc<ObjectKey>, Arc<R>>,
    indices: Vec<Index<R>>,
    trim: Option<TrimFn<R>>,
}

struct Index<R> {
    name: &'static str,
    values: IndexFn<R>,
    /// The objects themselves, so that a large entry is read without looking each of them up.
    entries: HashMap<String, BTreeMap<Arc<ObjectKey>, Arc<R>>>,
}

impl<R: Resource> Objects<R> {
    pub(super) fn new(indices: Vec<(&'static str, IndexFn<R>)>, trim: Option<TrimFn<R>>) -> Objects<R> {
        let indices =
            indices.into_iter().map(|(name, values)| Index { name, values, entries: HashMap::new() });
        Objects { objects: BTreeMap::new(), indices: indices.collect(), trim }
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<R>> {
        self.objects.get(key).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<R>> {
        self.objects.values().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<R>> {
        let index = self.indices.iter().find(|index| index.name == name);
        debug_assert!(index.is_some(), "no index is named {name:?}");
        let objects = index.and_then(|index| index.entries.get(value));
        objects.map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// None where the copy held this very revision already.
    pub(super) fn put(&mut self, mut object: R) -> Option<Change<R>> {
        if let Some(trim) = &self.trim {
            trim(&mut object);
        }
        let key = Arc::new(ObjectKey::of(&object));
        // It is kept for long: a decoder leaves room in the lists that it grew, a copy takes what it needs.
        let object = Arc::new(object.clone());
        let old = self.objects.insert(key.clone(), object.clone());
        if let Some(old) = &old {
            for index in &mut self.indices {
                index.remove(&key, old);
            }
        }
        for index in &mut self.indices {
            index.insert(&key, &object);
        }
        let same =
            old.as_ref().is_some_and(|old| old.meta().resource_version == object.meta().resource_version);
        (!same).then_some(Change { old, new: Some(object) })
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Change<R>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indices {
            index.remove(key, &old);
        }
        Some(Change { old: Some(old), new: None })
    }

    /// The whole state anew: what it does not name is gone.
    pub(super) fn replace(&mut self, objects: Vec<R>) -> Vec<Change<R>> {
        let present: BTreeSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
        let gone: Vec<Arc<ObjectKey>> =
            self.objects.keys().filter(|key| !present.contains(key.as_ref())).cloned().collect();
        let mut changes: Vec<_> = gone.iter().filter_map(|key| self.remove(key)).collect();
        changes.extend(objects.into_iter().filter_map(|object| self.put(object)));
        changes
    }
}

impl<R> Index<R> {
    fn insert(&mut self, key: &Arc<ObjectKey>, object: &Arc<R>) {
        for value in (self.values)(object) {
            self.entries.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &R) {
        for value in (self.values)(object) {
            let Some(objects) = self.entries.get_mut(&value) else { continue };
            objects.remove(key);
            if objects.is_empty() {
                self.entries.remove(&value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::core::v1::ConfigMap;

    fn object(name: &str, color: &str, revision: u32) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.meta_mut().name = name.to_owned();
        object.meta_mut().resource_version = revision.to_string();
        object.data.insert("color".to_owned(), color.to_owned());
        object
    }

    fn objects() -> Objects<ConfigMap> {
        Objects::new(vec![("color", Box::new(|object: &ConfigMap| vec![object.data["color"].clone()]))], None)
    }

    fn names(objects: Vec<Arc<ConfigMap>>) -> Vec<String> {
        objects.iter().map(|object| object.meta().name.clone()).collect()
    }

    #[test]
    fn indices_follow_every_change() {
        let mut objects = objects();
        objects.put(object("a", "red", 1));
        objects.put(object("b", "red", 2));
        assert_eq!(names(objects.by_index("color", "red")), ["a", "b"]);
        objects.put(object("a", "blue", 3));
        assert_eq!(names(objects.by_index("color", "red")), ["b"]);
        objects.remove(&ObjectKey::new("", "b"));
        assert!(objects.by_index("color", "red").is_empty());
        assert!(!objects.indices[0].entries.contains_key("red"), "an empty entry is kept");
    }

    #[test]
    fn what_is_trimmed_is_not_kept() {
        let mut objects =
            Objects::new(Vec::new(), Some(Box::new(|object: &mut ConfigMap| object.data.clear())));
        objects.put(object("a", "red", 1));
        assert!(objects.list()[0].data.is_empty());
    }

    #[test]
    fn a_new_state_removes_what_it_does_not_name_and_tells_only_of_what_changed() {
        let mut objects = objects();
        objects.put(object("a", "red", 1));
        objects.put(object("b", "red", 2));
        objects.put(object("c", "red", 3));
        let changes = objects.replace(vec![object("b", "red", 2), object("c", "blue", 4)]);
        let told: Vec<_> =
            changes.iter().map(|change| (change.old.is_some(), change.new.is_some())).collect();
        assert_eq!(told, [(true, false), (true, true)]);
        assert_eq!(names(objects.list()), ["b", "c"]);
    }
}
