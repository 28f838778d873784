//! From steps and a document to values and text.

use std::cell::Cell;
use std::cmp::Ordering;

use serde_json::Value;

/// How many values may be looked at: `..` over a large cluster looks at millions, and no template needs more. Without a
/// bound, `{..[*]..[*]..[*]}` would not end.
const MOST_WORK: usize = 10_000_000;

/// Text and paths, as `-o jsonpath=` takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub(super) parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Text(String),
    Path(Path),
    Range(Path, Vec<Part>),
}

/// From a document to any number of values in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// `$`: from the document, even inside a range or a filter.
    pub(super) from_root: bool,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Field(String),
    /// `['metadata.name']`: a field of just that name or, as Kubernetes reads it, a path.
    Quoted {
        name: String,
        path: Option<Path>,
    },
    /// Each element, each field's value.
    Wildcard,
    /// The value and every object and list in it.
    Recursive,
    /// From the end where negative.
    Index(i64),
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    Filter(Box<Condition>),
    Path(Path),
    Union(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub(super) left: Operand,
    pub(super) against: Option<(Comparison, Operand)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    #[error("array index out of bounds: index {index}, length {length}")]
    OutOfBounds { index: i64, length: usize },
    #[error("the template finds the same values over and over: more than {MOST_WORK}")]
    TooMuch,
}

/// One evaluation: the document that `$` means, and how much may still be done.
struct Run<'v> {
    root: &'v Value,
    left: Cell<usize>,
}

impl<'v> Run<'v> {
    fn new(root: &'v Value) -> Self {
        Self { root, left: Cell::new(MOST_WORK) }
    }

    fn spend(&self, work: usize) -> Result<(), EvaluateError> {
        self.left.set(self.left.get().checked_sub(work).ok_or(EvaluateError::TooMuch)?);
        Ok(())
    }
}

type Found<'v> = Result<Vec<&'v Value>, EvaluateError>;

impl Template {
    /// The text for a document: each path's values joined by spaces.
    pub fn render(&self, document: &Value) -> Result<String, EvaluateError> {
        let mut text = String::new();
        render(&self.parts, &Run::new(document), document, &mut text)?;
        Ok(text)
    }

    /// What the paths find, as values.
    pub fn values<'v>(&self, document: &'v Value) -> Found<'v> {
        let mut found = Vec::new();
        collect(&self.parts, &Run::new(document), document, &mut found)?;
        Ok(found)
    }
}

impl Path {
    pub fn find<'v>(&self, document: &'v Value) -> Found<'v> {
        self.follow(&Run::new(document), document)
    }

    fn follow<'v>(&self, run: &Run<'v>, current: &'v Value) -> Found<'v> {
        let mut values = vec![if self.from_root { run.root } else { current }];
        for step in &self.steps {
            let mut next = Vec::new();
            // A union lists what its first choice finds in all values, then the second, ….
            let choices =
                if let Step::Union(choices) = step { choices.as_slice() } else { std::slice::from_ref(step) };
            for choice in choices {
                for value in &values {
                    let before = next.len();
                    choice.follow(run, value, &mut next)?;
                    run.spend(1 + next.len() - before)?;
                }
            }
            values = next;
        }
        Ok(values)
    }
}

fn render<'v>(
    parts: &[Part],
    run: &Run<'v>,
    current: &'v Value,
    text: &mut String,
) -> Result<(), EvaluateError> {
    for part in parts {
        match part {
            Part::Text(fixed) => text.push_str(fixed),
            Part::Path(path) => {
                for (index, value) in path.follow(run, current)?.into_iter().enumerate() {
                    let begin = text.len();
                    text.push_str(if index == 0 { "" } else { " " });
                    text.push_str(&show(value));
                    run.spend((text.len() - begin) / 4)?;
                }
            }
            Part::Range(over, body) => {
                for value in over.follow(run, current)? {
                    render(body, run, value, text)?;
                }
            }
        }
        run.spend(1)?;
    }
    Ok(())
}

fn collect<'v>(
    parts: &[Part],
    run: &Run<'v>,
    current: &'v Value,
    found: &mut Vec<&'v Value>,
) -> Result<(), EvaluateError> {
    for part in parts {
        match part {
            Part::Text(_) => {}
            Part::Path(path) => found.extend(path.follow(run, current)?),
            Part::Range(over, body) => {
                for value in over.follow(run, current)? {
                    collect(body, run, value, found)?;
                }
            }
        }
        run.spend(1)?;
    }
    Ok(())
}

/// Strings as they are, objects and lists as JSON.
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Step {
    fn follow<'v>(
        &self,
        run: &Run<'v>,
        value: &'v Value,
        found: &mut Vec<&'v Value>,
    ) -> Result<(), EvaluateError> {
        match self {
            Self::Field(name) => found.extend(value.get(name)),
            Self::Quoted { name, path } => match (value.get(name), path) {
                (Some(field), _) => found.push(field),
                (None, Some(path)) => found.extend(path.follow(run, value)?),
                (None, None) => {}
            },
            Self::Wildcard => found.extend(children(value)),
            Self::Recursive => recurse(value, found),
            Self::Index(index) => {
                let Some(list) = value.as_array() else { return Ok(()) };
                let from_end = if *index < 0 { list.len() as i64 } else { 0 };
                let at = usize::try_from(from_end.saturating_add(*index)).ok().and_then(|at| list.get(at));
                found.push(at.ok_or(EvaluateError::OutOfBounds { index: *index, length: list.len() })?);
            }
            Self::Slice { start, end, step } => found.extend(slice(value, *start, *end, *step)),
            Self::Filter(condition) => {
                for child in children(value) {
                    if condition.holds(run, child)? {
                        found.push(child);
                    }
                }
            }
            Self::Path(path) => found.extend(path.follow(run, value)?),
            Self::Union(steps) => {
                for step in steps {
                    step.follow(run, value, found)?;
                }
            }
        }
        Ok(())
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn recurse<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    let children = children(value);
    if !children.is_empty() {
        found.push(value);
        children.into_iter().for_each(|child| recurse(child, found));
    }
}

fn slice(value: &Value, start: Option<i64>, end: Option<i64>, step: i64) -> Vec<&Value> {
    let Some(list) = value.as_array() else { return Vec::new() };
    let length = list.len() as i64;
    let clamp = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at.min(length) } as usize;
    let (start, end) = (clamp(start.unwrap_or(0)), clamp(end.unwrap_or(length)));
    let step = usize::try_from(step).unwrap_or(1).max(1);
    list.get(start..end).unwrap_or_default().iter().step_by(step).collect()
}

impl Condition {
    fn holds<'v>(&'v self, run: &Run<'v>, current: &'v Value) -> Result<bool, EvaluateError> {
        let left = self.left.values(run, current)?;
        let Some((comparison, right)) = &self.against else { return Ok(!left.is_empty()) };
        let right = right.values(run, current)?;
        Ok(match (left.first(), right.first()) {
            (Some(left), Some(right)) => comparison.holds(left, right),
            _ => false,
        })
    }
}

impl Operand {
    fn values<'v>(&'v self, run: &Run<'v>, current: &'v Value) -> Found<'v> {
        match self {
            Self::Path(path) => path.follow(run, current),
            Self::Literal(value) => Ok(vec![value]),
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Number(left), Value::Number(right)) => {
                left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right))
            }
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            (left, right) => (left == right).then_some(Ordering::Equal),
        };
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::More => order == Some(Ordering::Greater),
            Self::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}
