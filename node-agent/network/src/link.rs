//! Veth pairs: stable names, one end made directly in the pod's namespace.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::Error;
use crate::error::is_absent;

/// The pod's end.
pub(crate) const POD_LINK: &str = "eth0";

/// All host-side ends share one address: each is alone on its link with its pod.
pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0x77, 0x65, 0x69, 0x72, 0x00];

const PREFIX: &str = "weir";
const HASH_DIGITS: usize = 11;

/// Name of the host-side end of the pod with this uid: always the same, and fifteen characters, as many as an
/// interface's name may have.
pub fn host_name(uid: &str) -> String {
    // FNV-1a (Fowler, Noll, Vo), of which 44 bits are kept.
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hex = format!("{hash:016x}");
    format!("{PREFIX}{}", &hex[hex.len() - HASH_DIGITS..])
}

/// Address of the pod's end, locally administered, made from its IPv4 address.
pub(crate) fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x77, a, b, c, d]
}

fn is_host_name(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|hash| hash.len() == HASH_DIGITS && hash.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// An interface of the node, such as its uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub mtu: u32,
}

/// Looks an interface of this namespace up by name. Must be called within a tokio runtime.
pub async fn interface(name: &str) -> Result<Interface, Error> {
    let netlink = crate::netns::connect_here()?;
    let link = find(&netlink, name).await?.ok_or_else(|| Error::NoInterface { name: name.to_owned() })?;
    Ok(Interface { index: link.index, mtu: link.mtu })
}

/// A link as far as this crate cares.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Index of the other end, in its own namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
}

pub(crate) async fn find(netlink: &Handle, name: &str) -> Result<Option<Link>, Error> {
    match netlink.link().get().match_name(name).execute().try_next().await {
        Ok(message) => Ok(message.map(read)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::netlink("look up link", name)(error)),
    }
}

/// Host-side ends in this namespace, whichever pod they belong to.
pub(crate) async fn host_ends(netlink: &Handle) -> Result<Vec<Link>, Error> {
    let links: Vec<LinkMessage> =
        netlink.link().get().execute().try_collect().await.map_err(Error::netlink("list", "links"))?;
    Ok(links.into_iter().filter(is_veth).map(read).filter(|link| is_host_name(&link.name)).collect())
}

/// Makes the pair at one stroke, the pod's end in `pod_netns`: there is no moment at which a half-made or
/// half-moved pair could be left behind.
pub(crate) async fn create_pair(
    netlink: &Handle,
    host: &str,
    pod_netns: &File,
    address: Ipv4Addr,
    mtu: u32,
) -> Result<(), Error> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_LINK)
        .address(pod_mac(address).to_vec())
        .mtu(mtu)
        .setns_by_fd(pod_netns.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(host)
        .address(HOST_MAC.to_vec())
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink.link().add(pair).execute().await.map_err(Error::netlink("make veth pair", host))
}

pub(crate) async fn set_up(netlink: &Handle, link: &str, index: u32) -> Result<(), Error> {
    let up = LinkUnspec::new_with_index(index).up().build();
    netlink.link().set(up).execute().await.map_err(Error::netlink("set up link", link))
}

fn is_veth(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Veth)))
    })
}

fn read(message: LinkMessage) -> Link {
    let mut link =
        Link { name: String::new(), index: message.header.index, peer: None, mac: Vec::new(), mtu: 0 };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            _ => {}
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_distinct_and_fit_the_kernel() {
        let a = host_name("0b6a6f0e-5f4e-4f3b-9d56-3f5d0e2f7c11");
        assert_eq!(a, host_name("0b6a6f0e-5f4e-4f3b-9d56-3f5d0e2f7c11"));
        assert_ne!(a, host_name("0b6a6f0e-5f4e-4f3b-9d56-3f5d0e2f7c12"));
        assert_eq!(a.len(), nix::libc::IFNAMSIZ - 1);
        assert!(is_host_name(&a));
    }

    #[test]
    fn links_of_others_are_not_taken_for_ours() {
        for name in ["weir0", "eth0", "weir-hub", "veth0123456789a", "weirxyzxyzxyzxy"] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
