//! Values that JSON writes as one scalar, or as it pleases: the hand-written half of `k8s/meta/v1/scalar.proto`.

mod extra;
mod int_or_string;
mod quantity;
mod raw;
mod time;

pub use int_or_string::IntOrString;
pub use quantity::{Format, Quantity};

/// A scalar whose text says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScalarError {
    #[error("{0:?} is not a quantity such as 250m, 0.5 or 1Gi")]
    Quantity(String),
    #[error("{0:?} is not a time such as 2006-01-02T15:04:05Z")]
    Time(String),
    #[error("{0:?} is neither a number nor a percentage such as 25%")]
    Percentage(String),
}

/// Long enough for any sensible scalar: what is longer is cut before a message quotes it.
fn quoted(text: &str) -> String {
    text.chars().take(64).collect()
}
