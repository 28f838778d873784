//! What is done to an object's JSON, whatever its kind: [paths](jsonpath) into it, [patches](patch) of it.
//!
//! All of it is pure, and all of it takes what strangers write: every function here ends, in time and memory bounded by
//! its input, with a value or an error. `tests/fuzz/` holds it to that.

pub mod jsonpath;
pub mod patch;
