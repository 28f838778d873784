//! Who depends on whom, over all kinds, and what follows from it for one object. Pure.
//!
//! Only what ownership needs is kept of an object. An owner that is not in the graph may still exist (the graph may
//! be behind); whoever acts on its absence must ask the server.

use std::collections::{BTreeSet, HashMap};

use weir_client::{ObjectKey, Propagation};
use weir_proto::meta::v1::{ObjectMeta, OwnerReference};
use weir_proto::{Kind, Object};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) kind: &'static Kind,
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    foreground: bool,
    orphan: bool,
}

impl Entry {
    pub(super) fn of(object: &dyn Object) -> Entry {
        let meta: &ObjectMeta = object.meta();
        let has = |finalizer: &str| meta.finalizers.iter().any(|own| own == finalizer);
        Entry {
            kind: object.kind(),
            key: ObjectKey::from(meta),
            uid: meta.uid.clone(),
            owners: meta.owner_references.clone(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Its dependents go first.
    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    entries: HashMap<String, Entry>,
    /// By the uid of the owner, whether or not that is in the graph.
    dependents: HashMap<String, BTreeSet<String>>,
}

/// What is to be done about one object.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    Nothing,
    /// It is being deleted and its dependents are to stay: cut them loose, then let it go.
    Orphan(Vec<Entry>),
    /// It is being deleted after its dependents, and none is left that would hold it.
    Finish,
    /// None of these is in the graph. If none exists, and no other owner does, the object is garbage; if another
    /// does, the references to those that do not are to go.
    Verify {
        missing: Vec<OwnerReference>,
        present: Vec<OwnerReference>,
        delete: Propagation,
    },
    /// Its only owners are waiting for it to go.
    Delete(Propagation),
}

impl Graph {
    /// The objects for which something may follow from this.
    pub(super) fn put(&mut self, entry: Entry) -> Vec<String> {
        let uid = entry.uid.clone();
        let before = self.entries.get(&uid);
        if before == Some(&entry) {
            return Vec::new();
        }
        let mut concerned = vec![uid.clone()];
        if let Some(before) = self.entries.remove(&uid) {
            concerned.extend(before.owners.iter().map(|owner| owner.uid.clone()));
            self.unlink(&before);
        }
        for owner in &entry.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if entry.deleting {
            concerned.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        self.entries.insert(uid, entry);
        concerned
    }

    /// As [`Graph::put`]: the dependents have lost an owner, and the owners a dependent.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(entry) = self.entries.remove(uid) else { return Vec::new() };
        self.unlink(&entry);
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        dependents.chain(entry.owners.into_iter().map(|owner| owner.uid)).collect()
    }

    /// The whole of one kind anew.
    pub(super) fn replace(&mut self, kind: &'static Kind, entries: Vec<Entry>) -> Vec<String> {
        let present: BTreeSet<&str> = entries.iter().map(|entry| entry.uid.as_str()).collect();
        let of_kind = self.entries.values().filter(|entry| entry.kind == kind);
        let gone: Vec<String> =
            of_kind.map(|entry| entry.uid.clone()).filter(|uid| !present.contains(uid.as_str())).collect();
        let mut concerned: Vec<String> = gone.iter().flat_map(|uid| self.remove(uid)).collect();
        concerned.extend(entries.into_iter().flat_map(|entry| self.put(entry)));
        concerned
    }

    fn unlink(&mut self, entry: &Entry) {
        for owner in &entry.owners {
            let Some(dependents) = self.dependents.get_mut(&owner.uid) else { continue };
            dependents.remove(&entry.uid);
            if dependents.is_empty() {
                self.dependents.remove(&owner.uid);
            }
        }
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Entry> {
        self.entries.get(uid)
    }

    /// Every object that ownership may have to do with.
    pub(super) fn concerned(&self) -> Vec<String> {
        let concerned = self.entries.values().filter(|entry| entry.deleting || !entry.owners.is_empty());
        concerned.map(|entry| entry.uid.clone()).collect()
    }

    fn dependents(&self, uid: &str) -> impl Iterator<Item = &Entry> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.entries.get(uid))
    }

    pub(super) fn decide(&self, entry: &Entry) -> Decision {
        if entry.deleting {
            return self.decide_deleting(entry);
        }
        let (mut missing, mut present, mut waiting) = (Vec::new(), Vec::new(), false);
        for owner in &entry.owners {
            match self.entries.get(&owner.uid) {
                None => missing.push(owner.clone()),
                Some(known) if known.waits_for_dependents() && owner.block_owner_deletion == Some(true) => {
                    waiting = true;
                }
                Some(_) => present.push(owner.clone()),
            }
        }
        let has_dependents = self.dependents(&entry.uid).next().is_some();
        let after = if waiting && has_dependents { Propagation::Foreground } else { Propagation::Background };
        match (missing.is_empty(), waiting && present.is_empty()) {
            (false, _) => Decision::Verify { missing, present, delete: after },
            (true, true) => Decision::Delete(after),
            (true, false) => Decision::Nothing,
        }
    }

    fn decide_deleting(&self, entry: &Entry) -> Decision {
        if entry.orphan {
            return Decision::Orphan(self.dependents(&entry.uid).cloned().collect());
        }
        if !entry.foreground {
            return Decision::Nothing;
        }
        let blocks = |dependent: &Entry| {
            dependent.owners.iter().any(|o| o.uid == entry.uid && o.block_owner_deletion == Some(true))
        };
        if self.dependents(&entry.uid).any(blocks) { Decision::Nothing } else { Decision::Finish }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::Resource;
    use weir_proto::core::v1::Pod;

    fn entry(uid: &str, owners: &[&str]) -> Entry {
        let owner = |uid: &&str| OwnerReference {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        Entry {
            kind: Pod::KIND,
            key: ObjectKey::new("ns", uid),
            uid: uid.to_owned(),
            owners: owners.iter().map(owner).collect(),
            deleting: false,
            foreground: false,
            orphan: false,
        }
    }

    fn graph(entries: &[Entry]) -> Graph {
        let mut graph = Graph::default();
        for entry in entries {
            graph.put(entry.clone());
        }
        graph
    }

    fn decide(graph: &Graph, uid: &str) -> Decision {
        graph.decide(graph.get(uid).unwrap())
    }

    #[test]
    fn what_has_an_owner_stays_and_what_lost_it_is_verified() {
        let mut graph = graph(&[entry("set", &[]), entry("pod", &["set"])]);
        assert_eq!(decide(&graph, "pod"), Decision::Nothing);
        assert_eq!(decide(&graph, "set"), Decision::Nothing);
        assert_eq!(graph.remove("set"), ["pod"]);
        assert!(matches!(decide(&graph, "pod"), Decision::Verify { missing, .. } if missing[0].uid == "set"));
    }

    #[test]
    fn one_owner_that_is_left_keeps_an_object() {
        let graph = graph(&[entry("a", &[]), entry("pod", &["a", "b"])]);
        let Decision::Verify { missing, present, .. } = decide(&graph, "pod") else { panic!("not verified") };
        assert_eq!((missing.len(), missing[0].uid.as_str()), (1, "b"));
        assert_eq!((present.len(), present[0].uid.as_str()), (1, "a"));
    }

    #[test]
    fn in_the_foreground_dependents_go_first_from_the_leaves() {
        let deployment = Entry { deleting: true, foreground: true, ..entry("deployment", &[]) };
        let mut graph = graph(&[deployment, entry("set", &["deployment"]), entry("pod", &["set"])]);
        assert_eq!(decide(&graph, "deployment"), Decision::Nothing);
        assert_eq!(decide(&graph, "set"), Decision::Delete(Propagation::Foreground));
        assert_eq!(decide(&graph, "pod"), Decision::Nothing);

        graph.put(Entry { deleting: true, foreground: true, ..entry("set", &["deployment"]) });
        assert_eq!(decide(&graph, "pod"), Decision::Delete(Propagation::Background));
        assert!(graph.remove("pod").contains(&"set".to_owned()));
        assert_eq!(decide(&graph, "set"), Decision::Finish);
        assert!(graph.remove("set").contains(&"deployment".to_owned()));
        assert_eq!(decide(&graph, "deployment"), Decision::Finish);
    }

    #[test]
    fn orphans_are_cut_loose() {
        let set = Entry { deleting: true, orphan: true, ..entry("set", &[]) };
        let graph = graph(&[set, entry("pod", &["set"])]);
        let Decision::Orphan(dependents) = decide(&graph, "set") else { panic!("not orphaned") };
        assert_eq!(dependents[0].uid, "pod");
    }

    #[test]
    fn a_new_state_of_a_kind_removes_what_it_does_not_name() {
        let mut graph = graph(&[entry("set", &[]), entry("pod", &["set"])]);
        assert_eq!(graph.replace(Pod::KIND, vec![entry("pod", &["set"])]), ["pod"]);
        assert!(graph.get("set").is_none());
        assert_eq!(graph.dependents.len(), 1);
        graph.replace(Pod::KIND, Vec::new());
        assert!(graph.entries.is_empty() && graph.dependents.is_empty());
    }
}
