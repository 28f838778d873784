//! A pod joins the network and leaves it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::link::{self, HOST_MAC, Link, POD_LINK};
use crate::routes::{ROUTE_PROTOCOL, pod_routes};
use crate::{Error, Network, netns, node, offload};

/// Where a pod sends everything. No interface has this address; the pod's neighbour entry for it is permanent.
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAttachment {
    pub addresses: Vec<IpAddr>,
    pub host_ifindex: u32,
    pub host_name: String,
    pub pod_mac: [u8; 6],
    pub host_mac: [u8; 6],
}

impl Network {
    /// Gives the pod `uid`, whose network namespace is at `netns`, an address, a link and routes. What is in
    /// place already is kept: calling it again returns the same attachment.
    pub async fn add_pod(&self, uid: &str, netns: &Path) -> Result<PodAttachment, Error> {
        let owner = uid.to_owned();
        let address = self.with_pool(move |pool| pool.lease(&owner)).await?;
        let pod = netns::connect(netns).await?;
        let host_name = link::host_name(uid);
        let pair = match self.existing_pair(&pod, &host_name, address).await? {
            Some(pair) => pair,
            None => self.make_pair(&pod, netns, &host_name, address).await?,
        };
        configure_pod(&pod, pair.pod, address).await?;
        self.configure_host(&host_name, pair.host, address).await?;
        Ok(PodAttachment {
            addresses: vec![IpAddr::V4(address)],
            host_ifindex: pair.host,
            host_name,
            pod_mac: link::pod_mac(address),
            host_mac: HOST_MAC,
        })
    }

    /// The address that [`Network::add_pod`] will give the pod, taken before its namespace exists.
    pub async fn reserve(&self, uid: &str) -> Result<IpAddr, Error> {
        let owner = uid.to_owned();
        Ok(self.with_pool(move |pool| pool.lease(&owner)).await?.into())
    }

    /// Index of the pod's host-side end, if it has one.
    pub async fn host_ifindex(&self, uid: &str) -> Result<Option<u32>, Error> {
        Ok(link::find(&self.netlink, &link::host_name(uid)).await?.map(|host| host.index))
    }

    /// Takes the pod's link, routes and address away. A pod that has none of them is fine.
    pub async fn remove_pod(&self, uid: &str) -> Result<(), Error> {
        // The link goes first: an address is free only when nothing answers to it any more.
        if let Some(host) = link::find(&self.netlink, &link::host_name(uid)).await? {
            self.removals.remove(&self.netlink, &host).await?;
        }
        let owner = uid.to_owned();
        self.with_pool(move |pool| pool.release(&owner)).await?;
        Ok(())
    }

    /// Gives those of these pods that are on the network the addresses that they have there, should the address file not
    /// know them. To be called before any address is given away.
    pub async fn adopt(&self, uids: &BTreeSet<String>) -> Result<(), Error> {
        let (links, routes) = {
            let _alone = self.listing.lock().await;
            (link::host_ends(&self.netlink).await?, pod_routes(&self.netlink).await?)
        };
        let by_name: BTreeMap<&str, Ipv4Addr> =
            links.iter().filter_map(|link| Some((link.name.as_str(), *routes.get(&link.index)?))).collect();
        let held =
            uids.iter().filter_map(|uid| Some((uid.clone(), *by_name.get(link::host_name(uid).as_str())?)));
        let held: BTreeMap<String, Ipv4Addr> = held.collect();
        self.with_pool(move |pool| pool.adopt(&held)).await
    }

    /// Removes links and addresses of pods that are not among `known`; returns the names of the links.
    pub async fn collect_leftovers(&self, known: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let keep: BTreeSet<String> = known.iter().map(|uid| link::host_name(uid)).collect();
        let links = {
            let _alone = self.listing.lock().await;
            link::host_ends(&self.netlink).await?
        };
        let mut removed = Vec::new();
        for link in links.into_iter().filter(|link| !keep.contains(&link.name)) {
            self.removals.remove(&self.netlink, &link).await?;
            removed.push(link.name);
        }
        for uid in self.leases().into_keys().filter(|uid| !known.contains(uid)) {
            self.with_pool(move |pool| pool.release(&uid)).await?;
        }
        Ok(removed)
    }

    /// The pair as an earlier call left it, if both ends are where they should be.
    async fn existing_pair(
        &self,
        pod: &Handle,
        host_name: &str,
        address: Ipv4Addr,
    ) -> Result<Option<Pair>, Error> {
        let host = link::find(&self.netlink, host_name).await?;
        let inner = link::find(pod, POD_LINK).await?;
        match (host, inner) {
            (Some(host), Some(inner)) if are_peers(&host, &inner) && inner.mac == link::pod_mac(address) => {
                Ok(Some(Pair { host: host.index, pod: inner.index }))
            }
            (Some(host), inner) => {
                // The other end is in a namespace that is no more this pod's, or the pod has a new address.
                self.removals.remove(&self.netlink, &host).await?;
                match inner {
                    Some(inner) if !are_peers(&host, &inner) => Err(foreign(host_name)),
                    _ => Ok(None),
                }
            }
            (None, Some(_)) => Err(foreign(host_name)),
            (None, None) => Ok(None),
        }
    }

    async fn make_pair(
        &self,
        pod: &Handle,
        netns: &Path,
        host_name: &str,
        address: Ipv4Addr,
    ) -> Result<Pair, Error> {
        let namespace =
            File::open(netns).map_err(|source| Error::Netns { path: netns.to_owned(), source })?;
        link::create_pair(&self.netlink, host_name, &namespace, address, self.mtu).await?;
        let vanished = || Error::Vanished { host: host_name.to_owned() };
        let host = link::find(&self.netlink, host_name).await?.ok_or_else(vanished)?;
        let inner = link::find(pod, POD_LINK).await?.ok_or_else(vanished)?;
        let prepare = || node::quiet_ipv6(POD_LINK).and_then(|()| offload::enable_gro(POD_LINK));
        netns::run_in(netns, prepare).await??;
        Ok(Pair { host: host.index, pod: inner.index })
    }

    async fn configure_host(&self, name: &str, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        node::quiet_ipv6(name)?;
        link::set_up(&self.netlink, name, index).await?;
        set_neighbour(&self.netlink, index, address, link::pod_mac(address)).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .protocol(ROUTE_PROTOCOL)
            .build();
        let object = format!("{address} dev {name}");
        self.netlink.route().add(route).replace().execute().await.map_err(Error::netlink("add route", object))
    }
}

/// Interface indexes of the two ends, each in its own namespace.
struct Pair {
    host: u32,
    pod: u32,
}

fn are_peers(host: &Link, pod: &Link) -> bool {
    host.peer == Some(pod.index) && pod.peer == Some(host.index)
}

fn foreign(host: &str) -> Error {
    Error::ForeignLink { link: POD_LINK, host: host.to_owned() }
}

async fn configure_pod(pod: &Handle, index: u32, address: Ipv4Addr) -> Result<(), Error> {
    if let Some(loopback) = link::find(pod, "lo").await? {
        link::set_up(pod, "lo", loopback.index).await?;
    }
    link::set_up(pod, POD_LINK, index).await?;
    pod.address()
        .add(index, address.into(), 32)
        .replace()
        .execute()
        .await
        .map_err(Error::netlink("add address", address.to_string()))?;
    set_neighbour(pod, index, NEXT_HOP, HOST_MAC).await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(NEXT_HOP)
        .output_interface(index)
        .onlink()
        .protocol(ROUTE_PROTOCOL)
        .build();
    pod.route().add(default).replace().execute().await.map_err(Error::netlink("add route", "default"))
}

/// Permanent, so that neither end ever asks by ARP.
async fn set_neighbour(netlink: &Handle, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Result<(), Error> {
    netlink
        .neighbours()
        .add(index, address.into())
        .link_layer_address(&mac)
        .replace()
        .execute()
        .await
        .map_err(Error::netlink("add neighbour", address.to_string()))
}
