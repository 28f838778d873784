//! JSONPath in Kubernetes' dialect: templates such as `{range .items[*]}{.metadata.name}{"\n"}{end}`, and the bare
//! paths of `--sort-by`, `custom-columns` and `wait`.
//!
//! The dialect (<https://kubernetes.io/docs/reference/kubectl/jsonpath/>) is none of the standard ones: text outside
//! braces is printed, `range`/`end` repeat, and a missing field is no error, but an index beyond a list's end is.
//!
//! Left out on purpose: regular expressions, which Kubernetes refuses too.

mod evaluate;
mod parse;

pub use evaluate::{EvaluateError, Path, Template, show};
pub use parse::SyntaxError;

#[cfg(test)]
mod tests;
