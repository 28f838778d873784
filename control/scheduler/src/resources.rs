//! Amounts of what nodes offer and pods ask for, as plain integers.
//!
//! Quantities are converted once, when an object arrives; placing a pod adds and compares integers. CPU is in
//! thousandths, memory and ephemeral storage in bytes, everything else in units of its own.
//!
//! Invariant: `extended` is sorted by name and holds no zero amounts, so that equal amounts compare equal.

use std::sync::Arc;

/// A vector of resource amounts. Arithmetic saturates: an absurd request can never wrap around and fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    extended: Vec<(Arc<str>, i64)>,
}

impl Resources {
    pub fn new(milli_cpu: i64, memory: i64) -> Self {
        Self { milli_cpu, memory, ..Self::default() }
    }

    /// The amount of a resource by Kubernetes' name for it.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            other => self.find(other).map_or(0, |index| self.extended[index].1),
        }
    }

    pub fn set(&mut self, name: &str, amount: i64) {
        match name {
            "cpu" => self.milli_cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.ephemeral_storage = amount,
            other => match (self.find(other), amount) {
                (Ok(index), 0) => drop(self.extended.remove(index)),
                (Ok(index), _) => self.extended[index].1 = amount,
                (Err(_), 0) => {}
                (Err(index), _) => self.extended.insert(index, (other.into(), amount)),
            },
        }
    }

    /// Resources beyond cpu, memory and ephemeral storage: devices, huge pages.
    pub fn extended(&self) -> impl Iterator<Item = (&str, i64)> {
        self.extended.iter().map(|(name, amount)| (&**name, *amount))
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each amount to that of `other` where that is more.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// Whether there is more of anything than in `other`.
    pub fn exceeds(&self, other: &Self) -> bool {
        let mut highest = self.clone();
        highest.raise_to(other);
        highest != *other
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn combine(&mut self, other: &Self, operation: fn(i64, i64) -> i64) {
        self.milli_cpu = operation(self.milli_cpu, other.milli_cpu);
        self.memory = operation(self.memory, other.memory);
        self.ephemeral_storage = operation(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let combined = operation(self.get(name), *amount);
            self.set(name, combined);
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.extended.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_and_subtracting_leaves_what_was_there() {
        let mut have = Resources::new(500, 1 << 30);
        have.set("example.com/gpu", 1);
        let mut more = Resources::new(250, 1 << 20);
        more.set("example.com/gpu", 2);
        more.set("hugepages-2Mi", 4 << 20);
        let before = have.clone();
        have.add(&more);
        assert_eq!(
            (have.milli_cpu, have.get("example.com/gpu"), have.get("hugepages-2Mi")),
            (750, 3, 4 << 20)
        );
        have.subtract(&more);
        assert_eq!(have, before);
    }

    #[test]
    fn absurd_amounts_saturate() {
        let mut have = Resources::new(i64::MAX, 0);
        have.add(&Resources::new(1, 0));
        assert_eq!(have.milli_cpu, i64::MAX);
    }
}
