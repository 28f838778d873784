//! ServiceAccounts.

use weir_proto::core::v1::ServiceAccount;

use super::Strategy;

pub(super) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    type Object = ServiceAccount;

    fn warnings(&self, account: &ServiceAccount) -> Vec<String> {
        if account.image_pull_secrets.is_empty() {
            return Vec::new();
        }
        vec!["imagePullSecrets: not supported yet on service accounts; name them in each pod".to_owned()]
    }
}
