//! Filter, score, place, bind.

pub mod cluster;
pub mod counters;
pub mod evaluation;
pub mod failure;
pub mod framework;
pub mod node;
pub mod placement;
pub mod plugins;
pub mod pod;
pub mod resources;
pub mod selector;
pub mod tally;
#[cfg(test)]
mod testing;
