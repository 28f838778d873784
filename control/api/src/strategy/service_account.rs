//! ServiceAccounts.

use weir_proto::core::v1::ServiceAccount;

use super::Strategy;

pub(super) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    type Object = ServiceAccount;
}
