//! What the targets' input is made of.
//!
//! An input is a text, and behind a NUL the bytes that a target makes documents of: seeds are texts that people can read.
//! Documents are made of few names and few values, so that two of them overlap.

use arbitrary::{Arbitrary, Result, Unstructured};
use serde_json::{Map, Value, json};

/// Names that need escaping in pointers and paths are among them.
const NAMES: &[&str] = &["a", "b", "spec", "a/b", "~0", "x.y", ""];

const DEEPEST: usize = 4;

/// The text of an input, and what is made of the bytes behind it; None where the text is none.
pub fn text_and<'a, T: Arbitrary<'a>>(input: &'a [u8]) -> Option<(&'a str, T)> {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (text, rest) = input.split_at(end);
    let made = T::arbitrary_take_rest(Unstructured::new(rest.get(1..).unwrap_or_default()));
    Some((std::str::from_utf8(text).ok()?, made.ok()?))
}

/// JSON without null, as objects of the API are.
#[derive(Debug, Clone)]
pub struct Document(pub Value);

/// JSON with nulls: a merge patch.
#[derive(Debug, Clone)]
pub struct Change(pub Value);

impl<'a> Arbitrary<'a> for Document {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        value(input, DEEPEST, false).map(Self)
    }
}

impl<'a> Arbitrary<'a> for Change {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        value(input, DEEPEST, true).map(Self)
    }
}

fn value(input: &mut Unstructured<'_>, depth: usize, nulls: bool) -> Result<Value> {
    let leaf = depth == 0;
    Ok(match input.int_in_range(0..=7)? {
        0 if nulls => Value::Null,
        0 | 1 => json!(input.int_in_range(0..=3_i64)?),
        2 => json!(bool::arbitrary(input)?),
        3 => json!(*input.choose(NAMES)?),
        _ if leaf => json!(0),
        4 | 5 => {
            let count = input.int_in_range(0..=3)?;
            (0..count).map(|_| value(input, depth - 1, nulls)).collect::<Result<_>>().map(Value::Array)?
        }
        _ => Value::Object(object(input, depth, nulls)?),
    })
}

fn object(input: &mut Unstructured<'_>, depth: usize, nulls: bool) -> Result<Map<String, Value>> {
    let count = input.int_in_range(0..=4)?;
    (0..count).map(|_| Ok(((*input.choose(NAMES)?).to_owned(), value(input, depth - 1, nulls)?))).collect()
}
