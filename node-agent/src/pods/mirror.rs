//! How static pods and their mirrors are told from others, and from each other.
//!
//! A static pod comes from a file of this node and runs whether or not there is a control plane. Its mirror is the object
//! by which the API shows it: of the same name, with an uid of its own, and the static pod's uid in an annotation.

use weir_proto::core::v1::Pod;

/// Where a pod comes from: `file`, or (without it) the API.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// The static pod's uid, which is a hash of its file.
pub const HASH: &str = "kubernetes.io/config.hash";
/// When the agent first saw it.
pub const SEEN: &str = "kubernetes.io/config.seen";
/// Of mirrors alone: the hash of the static pod that they show.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Priorities from here on are the system's own (`system-cluster-critical` and above).
const CRITICAL: i32 = 2_000_000_000;

/// A pod from a file, as its worker knows it.
pub fn is_static(pod: &Pod) -> bool {
    let annotations = &pod.meta().annotations;
    !annotations.contains_key(MIRROR) && annotations.get(SOURCE).is_some_and(|source| source != "api")
}

pub fn is_mirror(pod: &Pod) -> bool {
    pod.meta().annotations.contains_key(MIRROR)
}

/// The uid under which this node knows the pod: a mirror's is its static pod's.
pub fn local_uid(pod: &Pod) -> &str {
    pod.meta().annotations.get(MIRROR).map_or(&pod.meta().uid, |hash| hash)
}

/// Whether no pressure ends the pod: static ones, and those that the system cannot do without.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || pod.spec().priority.is_some_and(|priority| priority >= CRITICAL)
}

/// Uids of static pods are 32 hexadecimal digits, those of the API have dashes.
pub(super) fn is_static_uid(uid: &str) -> bool {
    uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_known_by_its_static_pods_uid() {
        let mut pod = Pod::default();
        pod.meta_mut().uid = "0b7b8e9c-0000-4000-8000-000000000000".to_owned();
        assert!(!is_static(&pod) && !is_mirror(&pod) && !is_critical(&pod));
        assert_eq!(local_uid(&pod), "0b7b8e9c-0000-4000-8000-000000000000");
        let annotations = &mut pod.meta_mut().annotations;
        annotations.insert(SOURCE.to_owned(), "file".to_owned());
        assert!(is_static(&pod) && is_critical(&pod));
        let hash = "00112233445566778899aabbccddeeff";
        pod.meta_mut().annotations.insert(MIRROR.to_owned(), hash.to_owned());
        assert!(is_mirror(&pod) && !is_static(&pod) && is_static_uid(local_uid(&pod)));
        assert!(!is_static_uid(&pod.meta().uid));
    }
}
