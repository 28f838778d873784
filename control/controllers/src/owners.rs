//! Who controls what: `ownerReferences` with `controller: true`.
//!
//! A controller has what it controls, takes what matches its selector and is nobody's, lets go of its own that
//! matches no longer, and never touches what another controls.

use std::collections::BTreeMap;

use weir_proto::Resource;
use weir_proto::labels::Selector;
use weir_proto::meta::v1::{ObjectMeta, OwnerReference};

/// The reference of the controller, where there is one.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().find(|owner| owner.controller == Some(true))
}

pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// What an object that `owner` controls carries.
pub(crate) fn controller_reference<R: Resource>(owner: &R) -> OwnerReference {
    let meta = Resource::meta(owner);
    OwnerReference {
        api_version: R::KIND.api_version(),
        kind: R::KIND.kind.to_owned(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What is to become of an object, from its controller's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Controlled already.
    Own,
    /// To be controlled from now on.
    Adopt,
    /// To be let go.
    Release,
    /// Not ours.
    Foreign,
}

pub(crate) fn claim(owner: &ObjectMeta, selector: &Selector, object: &ObjectMeta) -> Claim {
    let selected = matches(selector, &object.labels);
    let going = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if controller.uid != owner.uid => Claim::Foreign,
        Some(_) if selected => Claim::Own,
        // Who is being deleted leaves everything as it is, for the garbage collector.
        Some(_) if going => Claim::Own,
        Some(_) => Claim::Release,
        None if selected && !going && object.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Foreign,
    }
}

fn matches(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    selector.matches(labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::meta::v1::Time;

    fn owner(uid: &str) -> ObjectMeta {
        ObjectMeta { uid: uid.to_owned(), ..ObjectMeta::default() }
    }

    fn object(controller: Option<&str>, app: &str) -> ObjectMeta {
        let reference = |uid: &str| OwnerReference {
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            owner_references: controller.map(reference).into_iter().collect(),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn only_what_matches_and_is_nobodys_is_adopted() {
        let selector = Selector::parse("app=web").unwrap();
        let mut going = owner("me");
        going.deletion_timestamp = Some(Time::now());
        let mut dying = object(None, "web");
        dying.deletion_timestamp = Some(Time::now());
        let cases = [
            (owner("me"), object(Some("me"), "web"), Claim::Own),
            (owner("me"), object(Some("me"), "db"), Claim::Release),
            (owner("me"), object(Some("other"), "web"), Claim::Foreign),
            (owner("me"), object(None, "web"), Claim::Adopt),
            (owner("me"), object(None, "db"), Claim::Foreign),
            (owner("me"), dying, Claim::Foreign),
            (going.clone(), object(None, "web"), Claim::Foreign),
            (going, object(Some("me"), "db"), Claim::Own),
        ];
        for (owner, object, expected) in cases {
            assert_eq!(claim(&owner, &selector, &object), expected, "{object:?}");
        }
    }
}
