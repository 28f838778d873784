//! Reads one container's log.

use std::path::Path;

use super::{Cancel, LogError, LogOptions};

/// Blocks while it waits for more (see [`LogOptions::follow`]); yields output bytes in chunks of whole lines.
#[derive(Debug)]
pub struct LogReader {}

impl LogReader {
    /// `ended` tells a following reader that no more will be written.
    pub fn open(
        _path: &Path,
        _options: LogOptions,
        _cancel: Cancel,
        _ended: Box<dyn Fn() -> bool + Send>,
    ) -> Result<Self, LogError> {
        Ok(Self {})
    }
}

impl Iterator for LogReader {
    type Item = Result<Vec<u8>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}
