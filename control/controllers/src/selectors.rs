//! Label selectors that must select something in particular.

use weir_client::ObjectKey;
use weir_proto::labels::Selector;
use weir_proto::meta::v1::LabelSelector;

use crate::Error;

/// Refuses a selector that is missing, empty (it would take everything) or cannot be read.
pub(crate) fn required(object: &ObjectKey, selector: Option<&LabelSelector>) -> Result<Selector, Error> {
    let refused = |reason: String| Error::Selector { object: object.to_string(), reason };
    let selector = selector.filter(|s| !s.match_labels.is_empty() || !s.match_expressions.is_empty());
    let selector = selector.ok_or_else(|| refused("it is empty".to_owned()))?;
    Selector::try_from(selector).map_err(|error| refused(error.to_string()))
}
