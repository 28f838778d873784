//! How many connections each address has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Holds an entry only for addresses that are connected: its size is bounded by the number of connections.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    most: usize,
    connected: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct PeerPermit {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    pub(super) fn new(most: usize) -> Self {
        Peers { most, connected: Arc::default() }
    }

    /// `None`: the address has as many as it may.
    pub(super) fn enter(&self, address: IpAddr) -> Option<PeerPermit> {
        // One address written in two ways is one address.
        let address = address.to_canonical();
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let count = connected.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(PeerPermit { peers: self.clone(), address })
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        let mut connected = self.peers.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connected.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_places_back_and_others_have_their_own() {
        let peers = Peers::new(2);
        let (one, mapped): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "::ffff:10.0.0.1".parse().unwrap());
        let held = (peers.enter(one).unwrap(), peers.enter(mapped).unwrap());
        assert!(peers.enter(one).is_none());
        assert!(peers.enter("10.0.0.2".parse().unwrap()).is_some());
        drop(held);
        assert!(peers.enter(one).is_some());
        assert!(peers.connected.lock().unwrap().is_empty(), "an address without connections is forgotten");
    }
}
