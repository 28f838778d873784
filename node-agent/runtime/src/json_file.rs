//! JSON files that are whole or absent, whenever the machine stops.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, String> {
    let text = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{} is malformed: {error}", path.display()))
}

pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let part = path.with_extension("part");
    let write = || -> io::Result<()> {
        fs::write(&part, serde_json::to_vec_pretty(value)?)?;
        fs::rename(&part, path)
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}
