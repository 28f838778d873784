//! `weir`, the program, against an API server on a socket; and kubectl beside it, which sets the measure.

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

mod cluster;
mod kubectl;
mod process;
mod transcripts;
mod web;
