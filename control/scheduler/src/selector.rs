//! Label selectors in a form that can be hashed and compared, so that equal ones are evaluated and counted once.
//!
//! They serve node selectors (with `Gt` and `Lt`) and label selectors alike.

use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

impl Requirement {
    pub fn is(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), operator: Operator::In, values: vec![value.into()] }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_value(labels.get(&self.key).map(String::as_str))
    }

    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known == value);
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => self.compares(value, |have, bound| have > bound),
            Operator::Lt => self.compares(value, |have, bound| have < bound),
        }
    }

    /// Values that are not integers match nothing, as in Kubernetes.
    fn compares(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        match (value.and_then(|v| v.parse().ok()), self.values.first().and_then(|v| v.parse().ok())) {
            (Some(have), Some(bound)) => holds(have, bound),
            _ => false,
        }
    }
}

/// All requirements must hold; the empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_match_as_kubernetes_defines_them() {
        let labels: Labels =
            [("zone", "a"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let cases = [
            ("zone", Operator::In, vec!["a", "b"], true),
            ("zone", Operator::In, vec!["b"], false),
            ("rack", Operator::In, vec!["b"], false),
            ("zone", Operator::NotIn, vec!["a"], false),
            ("rack", Operator::NotIn, vec!["a"], true),
            ("zone", Operator::Exists, vec![], true),
            ("rack", Operator::Exists, vec![], false),
            ("rack", Operator::DoesNotExist, vec![], true),
            ("cores", Operator::Gt, vec!["4"], true),
            ("cores", Operator::Gt, vec!["8"], false),
            ("cores", Operator::Lt, vec!["16"], true),
            ("zone", Operator::Lt, vec!["16"], false),
            ("rack", Operator::Lt, vec!["16"], false),
        ];
        for (key, operator, values, expected) in cases {
            let values = values.into_iter().map(str::to_owned).collect();
            let requirement = Requirement { key: key.to_owned(), operator, values };
            assert_eq!(requirement.matches(&labels), expected, "{requirement:?}");
        }
    }
}
