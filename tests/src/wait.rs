//! Waiting for a condition, with a deadline and the last reason why it did not hold.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks every 50 ms until `ask` succeeds. Its last error is the error after `patience`.
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => bail!("{what}: not within {patience:?}: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
