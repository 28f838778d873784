//! DataplaneNodes: what each node's kernel maps hold. All of it is status.

use weir_proto::net::v1alpha1::DataplaneNode;

use super::Strategy;
use crate::validation::{Errors, Path};

pub(super) struct DataplaneNodes;

impl Strategy for DataplaneNodes {
    type Object = DataplaneNode;

    fn copy_status(&self, to: &mut DataplaneNode, from: &DataplaneNode) {
        to.status.clone_from(&from.status);
    }

    /// What a node was seen to hold, it holds: others act on that. Word of less comes from a session that is over.
    fn validate_update(&self, new: &DataplaneNode, old: &DataplaneNode, errors: &mut Errors) {
        let (new, old) = (new.status().revision, old.status().revision);
        if new < old {
            let detail = format!("must not fall below {old}");
            errors.invalid(&Path::root("status.revision"), new, &detail);
        }
    }
}
