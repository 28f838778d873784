//! What a node may run out of, and from where on it does: signals, thresholds and their notation (the kubelet's). Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use weir_proto::Quantity;

/// Something of which a part must stay available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Memory,
    NodeDisk,
    NodeInodes,
    ImageDisk,
    ImageInodes,
    Pids,
}

/// What a node under pressure says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Memory,
    Disk,
    Pids,
}

const SIGNALS: [(Signal, &str); 6] = [
    (Signal::Memory, "memory.available"),
    (Signal::NodeDisk, "nodefs.available"),
    (Signal::NodeInodes, "nodefs.inodesFree"),
    (Signal::ImageDisk, "imagefs.available"),
    (Signal::ImageInodes, "imagefs.inodesFree"),
    (Signal::Pids, "pid.available"),
];

impl Signal {
    pub fn as_str(self) -> &'static str {
        SIGNALS.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }

    pub fn pressure(self) -> Pressure {
        match self {
            Self::Memory => Pressure::Memory,
            Self::Pids => Pressure::Pids,
            _ => Pressure::Disk,
        }
    }

    /// The resource that is to be reclaimed, as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeDisk | Self::ImageDisk => "ephemeral-storage",
            Self::NodeInodes | Self::ImageInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// A number of it, as messages show it.
    pub fn quantity(self, amount: u64) -> Quantity {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        match self {
            Self::Memory | Self::NodeDisk | Self::ImageDisk => Quantity::from_bytes(amount),
            Self::NodeInodes | Self::ImageInodes | Self::Pids => Quantity::from_value(amount),
        }
    }
}

impl Pressure {
    /// The condition's type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pids => "PIDPressure",
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = SIGNALS.iter().find(|(_, name)| *name == text).map(|(signal, _)| *signal);
        found.ok_or_else(|| {
            let known: Vec<&str> = SIGNALS.iter().map(|(_, name)| *name).collect();
            format!("{text:?} is no eviction signal; there are {}", known.join(", "))
        })
    }
}

/// An amount, or a share of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Absolute(Quantity),
    /// 0 to 1.
    Share(f64),
}

impl Amount {
    pub fn of(&self, capacity: u64) -> u64 {
        match self {
            Self::Absolute(quantity) => u64::try_from(quantity.value()).unwrap_or(0),
            // Far below the precision of a float for any machine.
            Self::Share(share) => (capacity as f64 * share) as u64,
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| format!("{text:?} is no percentage"))?;
            return match percent {
                _ if percent > 0.0 && percent < 100.0 => Ok(Self::Share(percent / 100.0)),
                0.0 => Ok(Self::Share(0.0)),
                _ => Err(format!("{text:?}: a percentage is from 0 to below 100")),
            };
        }
        let quantity: Quantity = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
        if quantity.is_negative() {
            return Err(format!("{text:?} is negative"));
        }
        Ok(Self::Absolute(quantity))
    }
}

/// `memory.available<100Mi`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub signal: Signal,
    pub below: Amount,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (signal, below) =
            text.split_once('<').ok_or_else(|| format!("{text:?} is not of the form SIGNAL<AMOUNT"))?;
        Ok(Self { signal: signal.parse()?, below: below.parse()? })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.below {
            Amount::Absolute(quantity) => write!(f, "{}<{quantity}", self.signal.as_str()),
            Amount::Share(share) => write!(f, "{}<{}%", self.signal.as_str(), share * 100.0),
        }
    }
}

/// A limit, how long it may be crossed, and how much more than it must be there before it counts as kept again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub limit: Limit,
    /// Zero for a hard one.
    pub grace: Duration,
    pub min_reclaim: Option<Amount>,
}

impl Threshold {
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// Thresholds from flags; `Err` names a soft one without a grace period.
pub fn thresholds(
    hard: &[Limit],
    soft: &[Limit],
    grace: &[(Signal, Duration)],
    min_reclaim: &[(Signal, Amount)],
) -> Result<Vec<Threshold>, String> {
    let reclaim = |limit: &Limit| {
        min_reclaim.iter().find(|(signal, _)| *signal == limit.signal).map(|(_, amount)| *amount)
    };
    let threshold = |limit: &Limit, grace| Threshold { limit: *limit, grace, min_reclaim: reclaim(limit) };
    let mut all: Vec<Threshold> = hard.iter().map(|limit| threshold(limit, Duration::ZERO)).collect();
    for limit in soft {
        let found = grace.iter().find(|(signal, _)| *signal == limit.signal).map(|(_, grace)| *grace);
        let grace = found
            .filter(|grace| !grace.is_zero())
            .ok_or_else(|| format!("--eviction-soft {limit} needs a time in --eviction-soft-grace-period"))?;
        all.push(threshold(limit, grace));
    }
    // A limit of zero is one that was switched off.
    all.retain(|threshold| threshold.limit.below.of(u64::MAX) > 0);
    Ok(all)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    pub available: u64,
    pub capacity: u64,
}

/// What is there now; a signal that cannot be read is absent, and never leads to an eviction.
pub type Observations = BTreeMap<Signal, Observation>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kubelet_writes_them() {
        let limit: Limit = "memory.available<100Mi".parse().expect("a limit");
        assert_eq!((limit.signal, limit.below.of(0)), (Signal::Memory, 100 << 20));
        let limit: Limit = "nodefs.inodesFree<5%".parse().expect("a limit");
        assert_eq!((limit.signal, limit.below.of(1000)), (Signal::NodeInodes, 50));
        assert_eq!(limit.to_string(), "nodefs.inodesFree<5%");
        for bad in [
            "memory.available",
            "memory<1Gi",
            "memory.available<x",
            "memory.available<-1",
            "pid.available<100%",
        ] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_soft_limit_needs_its_time_and_zero_is_off() {
        let soft: Limit = "memory.available<1Gi".parse().expect("a limit");
        let off: Limit = "nodefs.available<0%".parse().expect("a limit");
        assert!(thresholds(&[], &[soft], &[], &[]).is_err_and(|why| why.contains("memory.available<1Gi")));
        let minute = Duration::from_secs(60);
        let all = thresholds(&[off], &[soft], &[(Signal::Memory, minute)], &[]).expect("thresholds");
        assert_eq!(all.iter().map(|one| one.grace).collect::<Vec<_>>(), [minute]);
    }
}
