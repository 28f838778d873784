//! The pod template as identity of a ReplicaSet: which template a set was made from, and the hash in its name.

use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::PodTemplateSpec;

pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Letters and digits that spell no words, as Kubernetes uses in generated names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The deployment's template; empty where there is none, which validation does not let pass.
pub(super) fn of(deployment: &Deployment) -> PodTemplateSpec {
    deployment.spec().template.clone().unwrap_or_default()
}

/// Whether the set was made from this template. The hash is not asked: it may have been computed by another version,
/// while templates that are equal stay equal.
pub(super) fn is_from(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    set.spec().template.as_ref().is_some_and(|own| without_hash(own) == without_hash(template))
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let mut meta = template.metadata.unwrap_or_default();
    meta.labels.remove(HASH_LABEL);
    template.metadata = Some(meta);
    template
}

/// Stable for equal templates; another for each count of collisions.
pub(super) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hash = Fnv::new();
    hash.write(&prost_bytes(&without_hash(template)));
    if let Some(collisions) = collisions {
        hash.write(&collisions.to_le_bytes());
    }
    hash.0
        .to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

/// The encoding is canonical: fields in order of their numbers, maps in order of their keys.
fn prost_bytes(template: &PodTemplateSpec) -> Vec<u8> {
    prost::Message::encode_to_vec(template)
}

/// FNV-1a, 32 bits.
struct Fnv(u32);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0x811c_9dc5)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::meta::v1::ObjectMeta;

    fn template(label: &str) -> PodTemplateSpec {
        let labels = [("app".to_owned(), label.to_owned())].into();
        PodTemplateSpec { metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }), spec: None }
    }

    #[test]
    fn the_hash_names_the_template_and_a_collision_changes_it() {
        assert_eq!(hash(&template("a"), None), hash(&template("a"), None));
        assert_ne!(hash(&template("a"), None), hash(&template("b"), None));
        assert_ne!(hash(&template("a"), None), hash(&template("a"), Some(1)));
        let mut labelled = template("a");
        labelled.metadata.get_or_insert_default().labels.insert(HASH_LABEL.to_owned(), "x".to_owned());
        assert_eq!(hash(&template("a"), None), hash(&labelled, None));
    }

    #[test]
    fn hashes_fit_into_names_and_labels() {
        let hash = hash(&template("a"), Some(3));
        assert!(hash.len() <= 10 && hash.bytes().all(|byte| ALPHABET.contains(&byte)), "{hash}");
    }
}
