//! Label selectors: "app=web,tier in (a,b),!legacy", and the same from a `LabelSelector`.

use std::collections::BTreeMap;
use std::fmt;

use crate::meta::v1::LabelSelector;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("label selector {selector:?}: expected {expected} at {rest:?}")]
    Syntax { selector: String, expected: &'static str, rest: String },
    #[error("{operator:?} is not an operator of label selectors")]
    Operator { operator: String },
    #[error("operator {operator} on {key:?} {problem}")]
    Values { key: String, operator: &'static str, problem: &'static str },
}

/// What must hold of one label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    /// Holds too when the label is absent.
    NotIn,
    Exists,
    DoesNotExist,
    /// Both sides are integers.
    Gt,
    Lt,
}

impl Operator {
    fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(match text {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            "Gt" => Self::Gt,
            "Lt" => Self::Lt,
            other => return Err(SelectorError::Operator { operator: other.to_owned() }),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
            Self::Gt => "Gt",
            Self::Lt => "Lt",
        }
    }
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

impl Requirement {
    /// The operator by its name in a `LabelSelectorRequirement` or `NodeSelectorRequirement`.
    pub fn new(key: &str, operator: &str, values: Vec<String>) -> Result<Self, SelectorError> {
        Self { key: key.to_owned(), operator: Operator::parse(operator)?, values }.checked()
    }

    fn checked(self) -> Result<Self, SelectorError> {
        let problem = match (self.operator, self.values.as_slice()) {
            (Operator::In | Operator::NotIn, []) => "needs values",
            (Operator::Exists | Operator::DoesNotExist, [_, ..]) => "takes no values",
            (Operator::Gt | Operator::Lt, values) if !matches!(values, [one] if one.parse::<i64>().is_ok()) => {
                "needs one integer"
            }
            _ => return Ok(self),
        };
        Err(SelectorError::Values { key: self.key, operator: self.operator.name(), problem })
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let integers = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => integers().is_some_and(|(value, bound)| value > bound),
            Operator::Lt => integers().is_some_and(|(value, bound)| value < bound),
        }
    }
}

/// All requirements must hold; without any, everything matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

impl Selector {
    /// "a=b", "a==b", "a!=b", "a in (b,c)", "a notin (b)", "a", "!a", "a>1", "a<1", joined by commas.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { selector: text, rest: text.trim_start() };
        let mut requirements = Vec::new();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            if parser.rest.is_empty() {
                break;
            }
            parser.take(",").then_some(()).ok_or_else(|| parser.expected("a comma"))?;
            if parser.rest.is_empty() {
                return Err(parser.expected("a label"));
            }
        }
        Ok(Self { requirements })
    }

    /// Each of the labels with its value.
    pub fn equal(labels: &BTreeMap<String, String>) -> Self {
        let one = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        Self { requirements: labels.iter().map(one).collect() }
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl TryFrom<&LabelSelector> for Selector {
    type Error = SelectorError;

    fn try_from(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let mut all = Self::equal(&selector.match_labels);
        for expression in &selector.match_expressions {
            let requirement =
                Requirement::new(&expression.key, &expression.operator, expression.values.clone())?;
            if matches!(requirement.operator, Operator::Gt | Operator::Lt) {
                return Err(SelectorError::Operator { operator: expression.operator.clone() });
            }
            all.requirements.push(requirement);
        }
        Ok(all)
    }
}

struct Parser<'a> {
    selector: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn expected(&self, expected: &'static str) -> SelectorError {
        SelectorError::Syntax { selector: self.selector.to_owned(), expected, rest: self.rest.to_owned() }
    }

    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest.trim_start();
        true
    }

    /// A label's name or value; empty where none stands.
    fn word(&mut self) -> &'a str {
        let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let end = self.rest.find(|c| !in_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn key(&mut self) -> Result<&'a str, SelectorError> {
        match self.word() {
            "" => Err(self.expected("a label")),
            key => Ok(key),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.take("!");
        let key = self.key()?.to_owned();
        let one = |parser: &mut Self| vec![parser.word().to_owned()];
        let (operator, values) = if absent {
            (Operator::DoesNotExist, Vec::new())
        } else if self.take("!=") {
            (Operator::NotIn, one(self))
        } else if self.take("==") || self.take("=") {
            (Operator::In, one(self))
        } else if self.take(">") {
            (Operator::Gt, one(self))
        } else if self.take("<") {
            (Operator::Lt, one(self))
        } else {
            match self.word() {
                "" => (Operator::Exists, Vec::new()),
                "in" => (Operator::In, self.set()?),
                "notin" => (Operator::NotIn, self.set()?),
                _ => return Err(self.expected("=, ==, !=, in or notin")),
            }
        };
        Requirement { key, operator, values }.checked()
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.take("(") {
            return Err(self.expected("an opening parenthesis"));
        }
        let mut values = vec![self.word().to_owned()];
        while self.take(",") {
            values.push(self.word().to_owned());
        }
        if self.take(")") { Ok(values) } else { Err(self.expected("a closing parenthesis")) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, operator, values }) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let list = values.join(",");
            match (operator, values.len()) {
                (Operator::In, 1) => write!(f, "{comma}{key}={list}")?,
                (Operator::NotIn, 1) => write!(f, "{comma}{key}!={list}")?,
                (Operator::In, _) => write!(f, "{comma}{key} in ({list})")?,
                (Operator::NotIn, _) => write!(f, "{comma}{key} notin ({list})")?,
                (Operator::Exists, _) => write!(f, "{comma}{key}")?,
                (Operator::DoesNotExist, _) => write!(f, "{comma}!{key}")?,
                (Operator::Gt, _) => write!(f, "{comma}{key}>{list}")?,
                (Operator::Lt, _) => write!(f, "{comma}{key}<{list}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_operator_selects_what_it_should() {
        let web = labels(&[("app", "web"), ("tier", "front"), ("weight", "7"), ("empty", "")]);
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app == web , tier != back", true),
            ("app!=web", false),
            ("absent!=web", true),
            ("app in (api, web),tier notin (back)", true),
            ("absent notin (x)", true),
            ("absent in (x)", false),
            ("app,!absent", true),
            ("!app", false),
            ("empty=", true),
            ("empty in (,x)", true),
            ("weight>6,weight<8", true),
            ("weight>7", false),
            ("absent>1", false),
            ("in in (x)", false),
        ] {
            assert_eq!(Selector::parse(selector).unwrap().matches(&web), expected, "{selector}");
        }
    }

    #[test]
    fn text_survives_parsing() {
        for selector in ["a=b", "a!=b,c", "a in (b,c),!d", "example.com/a notin (x,y)", "n>1,m<2", ""] {
            assert_eq!(Selector::parse(selector).unwrap().to_string(), selector);
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for selector in
            [",", "a,", "a=b,,c", "=b", "a in", "a in (b", "a in b", "a b", "!", "a>x", "a=b c", "é=1"]
        {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn label_selectors_of_objects_are_checked() {
        let with = |operator: &str, values: &[&str]| LabelSelector {
            match_labels: labels(&[("app", "web")]),
            match_expressions: vec![LabelSelectorRequirement {
                key: "tier".to_owned(),
                operator: operator.to_owned(),
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            }],
        };
        let selector = Selector::try_from(&with("In", &["a", "b"])).unwrap();
        assert_eq!(selector.to_string(), "app=web,tier in (a,b)");
        for (operator, values) in [("In", &[][..]), ("Exists", &["a"]), ("Gt", &["1"]), ("Near", &["a"])] {
            assert!(Selector::try_from(&with(operator, values)).is_err(), "{operator}");
        }
    }
}
