//! Who is busy with what: turns by name, places for a few at a time, and pins of what must not be collected.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::progress::Progress;
use super::registry::RegistryError;

/// How soon somebody who waits notices that he need not.
const LOOK: Duration = Duration::from_millis(100);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `take` gives something, or the pull is cancelled.
fn wait<T, R>(
    mutex: &Mutex<T>,
    changed: &Condvar,
    progress: &Progress,
    mut take: impl FnMut(&mut T) -> Option<R>,
) -> Result<R, RegistryError> {
    let mut guard = lock(mutex);
    loop {
        if progress.is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        if let Some(taken) = take(&mut guard) {
            return Ok(taken);
        }
        guard = changed.wait_timeout(guard, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// One at a time for each name: two pods of one image must not fetch or unpack it twice.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<String>>,
    freed: Condvar,
}

pub(super) struct Turn<'a> {
    turns: &'a Turns,
    name: String,
}

impl Turns {
    pub(super) fn take(&self, name: String, progress: &Progress) -> Result<Turn<'_>, RegistryError> {
        wait(&self.taken, &self.freed, progress, |taken| taken.insert(name.clone()).then_some(()))?;
        Ok(Turn { turns: self, name })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.turns.taken).remove(&self.name);
        self.turns.freed.notify_all();
    }
}

/// Places for a few at a time.
#[derive(Debug)]
pub(super) struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

pub(super) struct Place<'a>(&'a Places);

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Mutex::new(count.max(1)), freed: Condvar::new() }
    }

    pub(super) fn take(&self, progress: &Progress) -> Result<Place<'_>, RegistryError> {
        wait(&self.free, &self.freed, progress, |free| {
            *free = free.checked_sub(1)?;
            Some(())
        })?;
        Ok(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

/// Layers and blobs that somebody is working with, by hexadecimal digest.
#[derive(Debug, Default)]
pub(super) struct Pins {
    counts: Mutex<HashMap<String, usize>>,
}

/// Keeps what it names from being collected.
#[derive(Debug)]
pub(crate) struct Pin<'a> {
    pins: &'a Pins,
    names: Vec<String>,
}

impl Pins {
    pub(super) fn pin(&self, names: Vec<String>) -> Pin<'_> {
        let mut counts = lock(&self.counts);
        for name in &names {
            *counts.entry(name.clone()).or_default() += 1;
        }
        drop(counts);
        Pin { pins: self, names }
    }

    /// Nobody can pin anything while `look` runs.
    pub(super) fn frozen<R>(&self, look: impl FnOnce(&dyn Fn(&str) -> bool) -> R) -> R {
        let counts = lock(&self.counts);
        look(&|name| counts.contains_key(name))
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut counts = lock(&self.pins.counts);
        for name in &self.names {
            if let Some(count) = counts.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_turn_is_one_at_a_time_and_a_cancelled_wait_ends() {
        let (turns, progress) = (Turns::default(), Progress::default());
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _turn = turns.take("x".to_owned(), &progress).expect("a turn");
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
        let held = turns.take("x".to_owned(), &progress).expect("a turn");
        turns.take("y".to_owned(), &progress).expect("another name is free");
        let impatient = Progress::default();
        impatient.cancel();
        assert!(turns.take("x".to_owned(), &impatient).is_err());
        drop(held);
    }

    #[test]
    fn places_and_pins_are_given_back() {
        let (places, pins) = (Places::new(1), Pins::default());
        drop(places.take(&Progress::default()).expect("a place"));
        drop(places.take(&Progress::default()).expect("the place again"));
        let pinned = |name: &str| pins.frozen(|pinned| pinned(name));
        let (one, two) = (pins.pin(vec!["a".to_owned()]), pins.pin(vec!["a".to_owned(), "b".to_owned()]));
        drop(one);
        assert!(pinned("a") && pinned("b"));
        drop(two);
        assert!(!pinned("a") && !pinned("b"));
    }
}
