//! Fixtures that tests of whole clusters build on. The tests themselves are in `tests/tests/`, a file a story.

#![expect(clippy::print_stderr, reason = "a skipped test says why on standard error")]

pub mod cluster;
pub mod machine;
pub mod require;
pub mod wait;
