//! Pod addresses: which pod holds which, kept in one small file.
//!
//! Addresses are handed out in turn: one that was given back is used again only after all others had theirs, so
//! that a late packet to a dead pod does not meet a new one. The file is replaced whole by rename after it has
//! reached the disk; whoever reads it sees the state before or after an operation.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::Cidr;

/// Why an address could not be given or taken back.
#[derive(Debug, Error)]
pub enum PoolError {
    #[error("no address left in pod range {0}")]
    Exhausted(Cidr),
    #[error("pod range {0} is too small to hold pods")]
    TooSmall(Cidr),
    #[error("cannot {operation} address file {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
}

/// Who holds what. Pure.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    cidr: Cidr,
    first: u32,
    last: u32,
    /// Where the search for the next free address starts.
    next: u32,
    leases: BTreeMap<String, Ipv4Addr>,
}

impl Pool {
    fn new(cidr: Cidr) -> Result<Self, PoolError> {
        let (first, last) = cidr.host_range().ok_or(PoolError::TooSmall(cidr))?;
        Ok(Self { cidr, first, last, next: first, leases: BTreeMap::new() })
    }

    fn lease(&mut self, uid: &str) -> Result<Ipv4Addr, PoolError> {
        if let Some(address) = self.leases.get(uid) {
            return Ok(*address);
        }
        let start = if (self.first..=self.last).contains(&self.next) { self.next } else { self.first };
        let taken: std::collections::BTreeSet<u32> =
            self.leases.values().map(|address| u32::from(*address)).collect();
        let free = (start..=self.last).chain(self.first..start).find(|candidate| !taken.contains(candidate));
        let address = free.ok_or(PoolError::Exhausted(self.cidr))?;
        self.next = if address == self.last { self.first } else { address + 1 };
        self.leases.insert(uid.to_owned(), address.into());
        Ok(address.into())
    }

    fn release(&mut self, uid: &str) -> Option<Ipv4Addr> {
        self.leases.remove(uid)
    }

    /// For a pod that is known to have the address already.
    fn adopt(&mut self, uid: &str, address: Ipv4Addr) {
        if !self.leases.contains_key(uid) && !self.leases.values().any(|held| *held == address) {
            self.leases.insert(uid.to_owned(), address);
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!("next {}\n", Ipv4Addr::from(self.next));
        for (uid, address) in &self.leases {
            text.push_str(&format!("{address} {uid}\n"));
        }
        text
    }

    /// The number of lines that cannot be read; the others count.
    fn read(&mut self, text: &str) -> usize {
        text.lines().filter(|line| self.read_line(line).is_none()).count()
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let (head, tail) = line.split_once(' ')?;
        if head == "next" {
            self.next = tail.parse::<Ipv4Addr>().ok()?.into();
        } else {
            self.adopt(tail, head.parse().ok()?);
        }
        Some(())
    }
}

/// The pool and its file.
#[derive(Debug)]
pub(crate) struct PoolFile {
    path: PathBuf,
    pool: Pool,
}

impl PoolFile {
    /// Pods keep the addresses the file gives them, even where these are of another range than `cidr`. A damaged file is
    /// put aside, and what can be read of it counts; the kernel knows the rest ([`PoolFile::adopt`]).
    pub(crate) fn open(dir: &Path, cidr: Cidr) -> Result<Self, PoolError> {
        let path = dir.join("addresses");
        let failed = |operation| {
            let path = path.clone();
            move |source| PoolError::File { operation, path, source }
        };
        fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
        let mut pool = Pool::new(cidr)?;
        match fs::read(&path) {
            Ok(bytes) => {
                let damaged = pool.read(&String::from_utf8_lossy(&bytes));
                if damaged > 0 {
                    let aside = path.with_extension("damaged");
                    let kept = fs::copy(&path, &aside).map(drop).err();
                    tracing::error!(damaged, file = %path.display(), aside = %aside.display(), ?kept, "lines of the address file cannot be read");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read")(error)),
        }
        Ok(Self { path, pool })
    }

    pub(crate) fn leases(&self) -> &BTreeMap<String, Ipv4Addr> {
        &self.pool.leases
    }

    /// The pod's address: the one it holds, or the next free one.
    pub(crate) fn lease(&mut self, uid: &str) -> Result<Ipv4Addr, PoolError> {
        let mut pool = self.pool.clone();
        let address = pool.lease(uid)?;
        self.replace(pool)?;
        Ok(address)
    }

    /// Gives the pod's address back. A pod that holds none is fine.
    pub(crate) fn release(&mut self, uid: &str) -> Result<Option<Ipv4Addr>, PoolError> {
        let mut pool = self.pool.clone();
        let address = pool.release(uid);
        self.replace(pool)?;
        Ok(address)
    }

    /// For pods that have an address according to the kernel and none according to the file.
    pub(crate) fn adopt(&mut self, held: &BTreeMap<String, Ipv4Addr>) -> Result<(), PoolError> {
        let mut pool = self.pool.clone();
        for (uid, address) in held {
            pool.adopt(uid, *address);
        }
        self.replace(pool)
    }

    fn replace(&mut self, pool: Pool) -> Result<(), PoolError> {
        if pool != self.pool {
            write_whole(&self.path, &pool.to_text()).map_err(|source| PoolError::File {
                operation: "write",
                path: self.path.clone(),
                source,
            })?;
            self.pool = pool;
        }
        Ok(())
    }
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr.parse().expect("a range")).expect("a pool")
    }

    #[test]
    fn an_address_given_back_is_used_again_only_after_all_others() {
        let mut pool = pool("10.0.0.0/29");
        let first = pool.lease("a").expect("room");
        pool.release("a");
        let later: Vec<Ipv4Addr> = (0..5).map(|pod| pool.lease(&format!("b{pod}")).expect("room")).collect();
        assert!(!later.contains(&first), "{first} came back among {later:?}");
        assert_eq!(pool.lease("c").expect("the last one"), first);
        assert!(matches!(pool.lease("d"), Err(PoolError::Exhausted(_))));
    }

    #[test]
    fn the_file_gives_a_pod_its_address_back_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let cidr = "10.32.1.0/24".parse().expect("a range");
        let mut pool = PoolFile::open(dir.path(), cidr).expect("new pool");
        let (a, b) = (pool.lease("a").expect("room"), pool.lease("b").expect("room"));
        pool.release("b").expect("released");
        let mut pool = PoolFile::open(dir.path(), cidr).expect("old pool");
        assert_eq!(pool.lease("a").expect("held"), a);
        assert_ne!(pool.lease("c").expect("room"), b, "the turn is remembered too");
    }

    #[test]
    fn a_file_cut_off_while_being_written_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let cidr = "10.32.1.0/24".parse().expect("a range");
        let a = PoolFile::open(dir.path(), cidr).expect("new pool").lease("a").expect("room");
        fs::write(dir.path().join("addresses.new"), "next 10.3").expect("half a file");
        let mut pool = PoolFile::open(dir.path(), cidr).expect("old pool");
        assert_eq!(pool.lease("a").expect("held"), a);
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_the_kernel_asked_for_the_rest() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = b"next 10.32.1.9\n10.32.1.5 a\n10.32.1.6\n\xff\xfe\n10.32.1.5 twice\n";
        fs::write(dir.path().join("addresses"), text).expect("written");
        let cidr = "10.32.1.0/24".parse().expect("a range");
        let mut pool = PoolFile::open(dir.path(), cidr).expect("opened all the same");
        assert_eq!(fs::read(dir.path().join("addresses.damaged")).expect("put aside"), text);
        let address = |last| Ipv4Addr::new(10, 32, 1, last);
        assert_eq!(*pool.leases(), BTreeMap::from([("a".to_owned(), address(5))]));
        let held = [("b", 9), ("a", 7), ("c", 5)].map(|(uid, last)| (uid.to_owned(), address(last)));
        pool.adopt(&BTreeMap::from(held)).expect("written");
        assert_eq!(
            *pool.leases(),
            BTreeMap::from([("a".to_owned(), address(5)), ("b".to_owned(), address(9))])
        );
        assert_eq!(pool.lease("d").expect("room"), address(10), "what is held is not given away");
    }

    proptest! {
        #[test]
        fn no_two_pods_ever_hold_one_address(steps in prop::collection::vec((any::<bool>(), 0u8..12), 0..60)) {
            let mut pool = pool("10.0.0.0/28");
            for (lease, uid) in steps {
                let uid = uid.to_string();
                if lease { pool.lease(&uid).expect("12 pods fit 14 addresses"); } else { pool.release(&uid); }
                let held: std::collections::BTreeSet<_> = pool.leases.values().collect();
                prop_assert_eq!(held.len(), pool.leases.len());
                prop_assert!(held.iter().all(|address| pool.cidr.contains(**address)));
                let mut read = Pool::new(pool.cidr).expect("a pool");
                prop_assert_eq!(read.read(&pool.to_text()), 0);
                prop_assert_eq!(&read, &pool);
            }
        }
    }
}
