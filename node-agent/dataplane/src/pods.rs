//! Putting pods on the network and taking them off.

use std::net::IpAddr;

use weir_ebpf_common::{Address, Endpoint, IfIndex, Link};

use crate::maps::{self, Maps};
use crate::{Dataplane, Error, Result, programs};

/// A pod's way into the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The veth's end on the node.
    pub ifindex: u32,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    pub pod_mac: [u8; 6],
    pub host_mac: [u8; 6],
}

impl Dataplane {
    /// Puts a pod on the network; again with the same link is no change. What `from_pod` checks by is there before the
    /// program is.
    pub fn attach_pod(&mut self, link: &PodLink) -> Result<()> {
        let addresses = by_family(&link.addresses)?;
        let ifindex = IfIndex::new(link.ifindex);
        remove_addresses(&mut self.maps, ifindex, |address| addresses.contains(address))?;
        self.maps
            .links
            .insert(ifindex, Link::new(addresses, link.pod_mac, link.host_mac), 0)
            .map_err(|source| Error::Map { action: "write to", map: "LINKS", source })?;
        let endpoint = Endpoint::new(ifindex, link.pod_mac, link.host_mac);
        for address in addresses.into_iter().filter(|address| *address != Address::UNSPECIFIED) {
            self.maps.endpoints.insert(address, endpoint, 0).map_err(|source| Error::Map {
                action: "write to",
                map: "ENDPOINTS",
                source,
            })?;
        }
        self.programs.attach_pod(&self.bpffs, link.ifindex)
    }

    /// Takes a pod out of the maps: nothing comes from it or reaches it any more. Its programs are left, for
    /// [`Dataplane::detach_pod`] when the link is gone: from a link that is there the kernel detaches them in tens of
    /// milliseconds, and nobody can change any link meanwhile.
    pub fn forget_pod(&mut self, ifindex: u32) -> Result<()> {
        forget(&mut self.maps, ifindex)
    }

    /// Takes a pod off; one that is not there is no error.
    pub fn detach_pod(&mut self, ifindex: u32) -> Result<()> {
        programs::detach_pod(&self.bpffs, ifindex)?;
        forget(&mut self.maps, ifindex)
    }

    /// The pods that are on the network.
    pub fn pod_links(&self) -> Result<Vec<PodLink>> {
        let mut links = all(&self.maps)?;
        links.sort_by_key(|link| link.ifindex);
        Ok(links)
    }
}

pub(crate) fn all(maps: &Maps) -> Result<Vec<PodLink>> {
    maps.links
        .iter()
        .map(|entry| {
            let (ifindex, link) =
                entry.map_err(|source| Error::Map { action: "read", map: "LINKS", source })?;
            let known = link.addresses().into_iter().filter(|address| *address != Address::UNSPECIFIED);
            Ok(PodLink {
                ifindex: ifindex.get(),
                addresses: known.map(|address| address.ip()).collect(),
                pod_mac: link.pod_mac(),
                host_mac: link.host_mac(),
            })
        })
        .collect()
}

/// Removes what the maps hold about an interface.
pub(crate) fn forget(maps: &mut Maps, ifindex: u32) -> Result<()> {
    let ifindex = IfIndex::new(ifindex);
    remove_addresses(maps, ifindex, |_| false)?;
    maps::remove(&mut maps.links, "LINKS", &ifindex)
}

/// Removes the addresses that lead to an interface, bar those to keep.
fn remove_addresses(maps: &mut Maps, ifindex: IfIndex, keep: impl Fn(&Address) -> bool) -> Result<()> {
    let led_here: Vec<Address> = maps
        .endpoints
        .iter()
        .filter(|entry| entry.as_ref().map_or(true, |(_, endpoint)| endpoint.link() == ifindex))
        .map(|entry| entry.map(|(address, _)| address))
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Map { action: "read", map: "ENDPOINTS", source })?;
    led_here
        .iter()
        .filter(|address| !keep(address))
        .try_for_each(|address| maps::remove(&mut maps.endpoints, "ENDPOINTS", address))
}

/// IPv4 first, then IPv6; the unspecified address where there is none.
pub(crate) fn by_family(addresses: &[IpAddr]) -> Result<[Address; 2]> {
    let mut found = [Address::UNSPECIFIED; 2];
    for address in addresses {
        let place = &mut found[usize::from(address.is_ipv6())];
        if *place != Address::UNSPECIFIED {
            return Err(Error::Addresses { second: *address });
        }
        *place = Address::from(*address);
    }
    Ok(found)
}
