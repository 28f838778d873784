//! The parameters of a request.

use weir_proto::status::ApiError;

use crate::registry::FieldValidation;

#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) label_selector: String,
    pub(super) field_selector: String,
    pub(super) resource_version: String,
    pub(super) version_match: String,
    pub(super) limit: usize,
    pub(super) continue_token: String,
    pub(super) bookmarks: bool,
    pub(super) initial_events: bool,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) dry_run: bool,
    pub(super) field_validation: FieldValidation,
    pub(super) grace_period_seconds: Option<i64>,
    pub(super) propagation_policy: String,
    /// All, as they were written, for those who read parameters of their own.
    pairs: Vec<(String, String)>,
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| {
        ApiError::bad_request(format!("{name}: Invalid value: {value:?}: not a number in range"))
    })
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "" | "1" | "true" | "True" => Ok(true),
        "0" | "false" | "False" => Ok(false),
        other => {
            Err(ApiError::bad_request(format!("{name}: Invalid value: {other:?}: neither true nor false")))
        }
    }
}

pub(super) fn dry_run(values: &[String]) -> Result<bool, ApiError> {
    match values.iter().find(|value| !matches!(value.as_str(), "" | "All")) {
        Some(other) => Err(ApiError::bad_request(format!(
            "dryRun: Unsupported value: {other:?}: supported values: \"All\""
        ))),
        None => Ok(values.iter().any(|value| value == "All")),
    }
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let uri =
            format!("/?{text}").parse().map_err(|_| ApiError::bad_request("the query is not a query"))?;
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri)
            .map_err(|error| ApiError::bad_request(error.to_string()))?
            .0;
        let mut query = Query::default();
        for (name, value) in &pairs {
            match name.as_str() {
                "watch" => query.watch = flag(name, value)?,
                "labelSelector" => query.label_selector.clone_from(value),
                "fieldSelector" => query.field_selector.clone_from(value),
                "resourceVersion" => query.resource_version.clone_from(value),
                "resourceVersionMatch" => query.version_match.clone_from(value),
                "limit" => query.limit = number(name, value)?,
                "continue" => query.continue_token.clone_from(value),
                "allowWatchBookmarks" => query.bookmarks = flag(name, value)?,
                "sendInitialEvents" => query.initial_events = flag(name, value)?,
                "timeoutSeconds" => query.timeout_seconds = Some(number(name, value)?),
                "dryRun" => query.dry_run |= dry_run(std::slice::from_ref(value))?,
                "fieldValidation" => {
                    query.field_validation = match value.as_str() {
                        "" | "Warn" => FieldValidation::Warn,
                        "Ignore" => FieldValidation::Ignore,
                        "Strict" => FieldValidation::Strict,
                        other => {
                            return Err(ApiError::bad_request(format!(
                                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \
                                 \"Warn\""
                            )));
                        }
                    }
                }
                "gracePeriodSeconds" => query.grace_period_seconds = Some(number(name, value)?),
                "propagationPolicy" => query.propagation_policy.clone_from(value),
                _ => {}
            }
        }
        query.pairs = pairs;
        Ok(query)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter, in order.
    pub(super) fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        self.text(name).map_or(Ok(false), |value| flag(name, value))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.text(name).map(|value| number(name, value)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_decoded() {
        let query =
            Query::parse("watch=1&labelSelector=a%3Db%2Cc&limit=500&fieldValidation=Strict&tail=3").unwrap();
        assert!(query.watch);
        assert_eq!((query.label_selector.as_str(), query.limit), ("a=b,c", 500));
        assert_eq!(query.field_validation, FieldValidation::Strict);
        assert_eq!(query.number("tail").unwrap(), Some(3));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "watch=maybe",
            "limit=-1",
            "limit=x",
            "dryRun=Some",
            "fieldValidation=Loose",
            "timeoutSeconds=1e9",
        ] {
            assert_eq!(Query::parse(text).unwrap_err().code(), 400, "{text}");
        }
    }
}
