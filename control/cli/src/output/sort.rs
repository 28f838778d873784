//! `--sort-by`: by the value at a path. Numbers and quantities by size, times by time, other text by its words, with
//! numbers in it by size (`web-2` before `web-10`); what has no value there comes first.

use std::cmp::Ordering;

use anyhow::{Result, bail};
use serde_json::Value;
use weir_proto::{Object, Quantity};

use weir_document::jsonpath::Path;

pub(crate) fn sort(objects: &mut [Box<dyn Object>], path: &str) -> Result<()> {
    let parsed = Path::parse_relaxed(path)?;
    let mut keys = Vec::new();
    for object in objects.iter() {
        let value = object.to_json();
        keys.push(parsed.find(&value)?.first().map(|value| (*value).clone()));
    }
    if !keys.is_empty() && keys.iter().all(Option::is_none) {
        bail!("couldn't find any field with path {path:?} in the list of objects");
    }
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by(|one, other| compare(&keys[*one], &keys[*other]));
    let sorted: Vec<Box<dyn Object>> = order.into_iter().map(|index| objects[index].clone()).collect();
    for (place, object) in objects.iter_mut().zip(sorted) {
        *place = object;
    }
    Ok(())
}

fn compare(one: &Option<Value>, other: &Option<Value>) -> Ordering {
    match (one, other) {
        (Some(Value::String(one)), Some(Value::String(other))) => text(one, other),
        (Some(one), Some(other)) => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            _ => one.to_string().cmp(&other.to_string()),
        },
        (one, other) => one.is_some().cmp(&other.is_some()),
    }
}

fn text(one: &str, other: &str) -> Ordering {
    let quantity = |text: &str| text.parse::<Quantity>().ok();
    match (quantity(one), quantity(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => natural(one, other),
    }
}

/// Digits by the number that they are, everything else by character.
fn natural(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (Some(a), Some(b)) = (one.chars().next(), other.chars().next()) else {
            return one.len().cmp(&other.len());
        };
        if a.is_ascii_digit() && b.is_ascii_digit() {
            let (left, rest_of_one) = digits(one);
            let (right, rest_of_other) = digits(other);
            let by_size = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
            if by_size != Ordering::Equal {
                return by_size;
            }
            (one, other) = (rest_of_one, rest_of_other);
        } else if a != b {
            return a.cmp(&b);
        } else {
            (one, other) = (&one[a.len_utf8()..], &other[b.len_utf8()..]);
        }
    }
}

/// The leading number without leading zeros, and the rest.
fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|one: char| !one.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number.trim_start_matches('0'), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_ordered_as_people_expect() {
        for (less, more) in
            [("web-2", "web-10"), ("a", "b"), ("a", "aa"), ("500m", "1"), ("1Gi", "2Gi"), ("x9y", "x10a")]
        {
            assert_eq!(text(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(text(more, less), Ordering::Greater, "{more} {less}");
        }
        assert_eq!(text("web-02", "web-2"), Ordering::Equal);
    }

    proptest::proptest! {
        #[test]
        fn natural_order_is_an_order(one in "[a-c0-2é]{0,6}", other in "[a-c0-2é]{0,6}", third in "[a-c0-2é]{0,6}") {
            proptest::prop_assert_eq!(natural(&one, &other), natural(&other, &one).reverse());
            if natural(&one, &other).is_le() && natural(&other, &third).is_le() {
                proptest::prop_assert!(natural(&one, &third).is_le());
            }
        }
    }
}
