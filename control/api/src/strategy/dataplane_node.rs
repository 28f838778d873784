//! DataplaneNodes: what each node's kernel maps hold. All of it is status.

use weir_proto::net::v1alpha1::DataplaneNode;

use super::Strategy;

pub(super) struct DataplaneNodes;

impl Strategy for DataplaneNodes {
    type Object = DataplaneNode;

    fn copy_status(&self, to: &mut DataplaneNode, from: &DataplaneNode) {
        to.status.clone_from(&from.status);
    }
}
