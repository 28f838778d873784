//! Reading hash maps as a whole, many entries a call: there may be hundreds of thousands of flows, and somebody looks at all
//! of them every few seconds.
//!
//! What comes and goes meanwhile may be seen or not.

use std::os::fd::AsFd;

use aya::maps::{HashMap, IterableMap, MapData, MapError};

use crate::sys::{self, Position};
use crate::{Error, Result};

/// Entries of a call. The kernel locks one bucket at a time, whatever this is.
const ROOM: usize = 1024;

/// A pass over a map.
pub(crate) struct Entries<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    position: Position,
}

impl<K: aya::Pod, V: aya::Pod> Entries<K, V> {
    pub(crate) fn new() -> Self {
        Self { keys: Vec::with_capacity(ROOM), values: Vec::with_capacity(ROOM), position: Position::Start }
    }

    /// The next entries, in no order; None after the last.
    pub(crate) fn next<'a>(
        &'a mut self,
        map: &HashMap<MapData, K, V>,
        name: &'static str,
    ) -> Result<Option<impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V>>> {
        self.keys.clear();
        self.values.clear();
        while self.keys.is_empty() && self.position != Position::End {
            let fd = map.map().fd().as_fd();
            match sys::lookup_batch(fd, self.position, &mut self.keys, &mut self.values) {
                Ok(position) => self.position = position,
                // A bucket that is longer than all others were.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => {
                    self.keys.reserve(2 * self.keys.capacity());
                    self.values.reserve(2 * self.values.capacity());
                }
                Err(error) => {
                    return Err(Error::Map { action: "read", map: name, source: MapError::from(error) });
                }
            }
        }
        Ok((!self.keys.is_empty()).then(|| self.keys.iter().zip(&self.values)))
    }
}

/// How many there are.
pub(crate) fn count<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<usize> {
    let (mut entries, mut count) = (Entries::new(), 0);
    while let Some(some) = entries.next(map, name)? {
        count += some.count();
    }
    Ok(count)
}
