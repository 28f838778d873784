//! The eBPF object that was built into the agent.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::Error;

/// Aligned as the ELF parser wants it. Empty when the agent was built without programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir.bpf"));

pub(crate) fn bytes() -> Result<&'static [u8], Error> {
    if OBJECT.is_empty() { Err(Error::NotBuilt) } else { Ok(OBJECT) }
}

/// Names these very programs: an agent that finds it in the `NODE` map need not load them. Never zero.
pub(crate) fn build(object: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    hasher.finish().max(1)
}
