//! Waiting for a condition, with a deadline and the last reason why it did not hold.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// The first and the longest pause between two looks: what is quick is seen at once, what is slow is not disturbed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Asks again and again until `ask` succeeds. Its last error is the error after `patience`.
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSES.0;
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => bail!("{what}: not within {patience:?}: {error:#}"),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Looks again and again until `condition` holds.
///
/// # Panics
/// Where it does not hold within `patience`.
pub fn until_true(what: &str, patience: Duration, condition: impl Fn() -> bool) {
    let look = || {
        ensure!(condition(), "still not so");
        Ok(())
    };
    if let Err(error) = until(what, patience, look) {
        panic!("{error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_succeeds_at_last_is_returned() {
        let mut asked = 0;
        let answer = until("the third", Duration::from_secs(5), || {
            asked += 1;
            ensure!(asked == 3, "only {asked}");
            Ok(asked)
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn the_last_reason_is_told_when_time_is_up() {
        let error = until("a miracle", Duration::ZERO, || -> Result<()> { bail!("none yet") }).unwrap_err();
        assert_eq!(error.to_string(), "a miracle: not within 0ns: none yet");
    }
}
