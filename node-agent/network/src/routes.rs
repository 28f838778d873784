//! Routes to the pod ranges of the other nodes, and the hold on the node's own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::error::is_absent;
use crate::{Cidr, Error, Network};

/// Marks this crate's routes (`ip route show proto 119`). Not one that iproute2's rt_protos names.
pub const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(119);

/// Pods of `cidr` live behind the node with address `via`, on a link this node shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub cidr: Cidr,
    pub via: IpAddr,
}

impl Network {
    /// Makes `routes` all there are to other nodes: adds, changes and removes what differs. A route that cannot
    /// be set does not keep the others from being set; the first error is returned at the end.
    pub async fn set_routes(&self, routes: &[Route]) -> Result<(), Error> {
        let mut wanted = BTreeMap::new();
        for route in routes {
            let IpAddr::V4(via) = route.via else {
                return Err(Error::RouteFamily { cidr: route.cidr.to_string(), via: route.via });
            };
            wanted.insert((route.cidr.network(), route.cidr.prefix_length()), via);
        }
        let present = {
            let _alone = self.listing.lock().await;
            node_routes(&self.netlink).await?
        };
        let mut first_error = None;
        for (range, via) in present.iter().filter(|(range, _)| !wanted.contains_key(range)) {
            first_error = first_error.or(remove(&self.netlink, *range, *via).await.err());
        }
        for (range, via) in wanted.iter().filter(|(range, via)| present.get(range) != Some(via)) {
            first_error = first_error.or(set(&self.netlink, *range, *via).await.err());
        }
        first_error.map_or(Ok(()), Err)
    }
}

type Range = (Ipv4Addr, u8);

/// Our routes that lead to another node: those with a gateway.
async fn node_routes(netlink: &Handle) -> Result<BTreeMap<Range, Ipv4Addr>, Error> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> =
        netlink.route().get(all).execute().try_collect().await.map_err(Error::netlink("list", "routes"))?;
    let ours = routes.into_iter().filter(|route| {
        route.header.protocol == ROUTE_PROTOCOL && route.header.table == RouteHeader::RT_TABLE_MAIN
    });
    Ok(ours.filter_map(read).collect())
}

/// Our routes to single pods of this node, by the index of the link.
pub(crate) async fn pod_routes(netlink: &Handle) -> Result<BTreeMap<u32, Ipv4Addr>, Error> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> =
        netlink.route().get(all).execute().try_collect().await.map_err(Error::netlink("list", "routes"))?;
    let ours = routes.into_iter().filter(|route| {
        route.header.protocol == ROUTE_PROTOCOL && route.header.destination_prefix_length == 32
    });
    Ok(ours.filter_map(read_link).collect())
}

fn read_link(route: RouteMessage) -> Option<(u32, Ipv4Addr)> {
    let (mut address, mut link) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => address = Some(*destination),
            RouteAttribute::Oif(index) => link = Some(*index),
            // By way of another node.
            RouteAttribute::Gateway(_) => return None,
            _ => {}
        }
    }
    Some((link?, address?))
}

fn read(route: RouteMessage) -> Option<(Range, Ipv4Addr)> {
    let (mut network, mut gateway) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => network = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            _ => {}
        }
    }
    Some(((network?, route.header.destination_prefix_length), gateway?))
}

fn message((network, length): Range, via: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network, length)
        .gateway(via)
        .protocol(ROUTE_PROTOCOL)
        .build()
}

async fn set(netlink: &Handle, range: Range, via: Ipv4Addr) -> Result<(), Error> {
    let failed = Error::netlink("set route", format!("{}/{} via {via}", range.0, range.1));
    netlink.route().add(message(range, via)).replace().execute().await.map_err(failed)
}

async fn remove(netlink: &Handle, range: Range, via: Ipv4Addr) -> Result<(), Error> {
    match netlink.route().del(message(range, via)).execute().await {
        Err(error) if !is_absent(&error) => {
            Err(Error::netlink("remove route", format!("{}/{} via {via}", range.0, range.1))(error))
        }
        _ => Ok(()),
    }
}

/// Addresses of the node's range that no pod holds are unreachable at once, rather than sent to the node's
/// default gateway, which would send them back.
pub(crate) async fn claim_range(netlink: &Handle, cidr: Cidr) -> Result<(), Error> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(cidr.network(), cidr.prefix_length())
        .kind(RouteType::Unreachable)
        .protocol(ROUTE_PROTOCOL)
        .build();
    let failed = Error::netlink("set unreachable route", cidr.to_string());
    netlink.route().add(route).replace().execute().await.map_err(failed)
}
