//! Addresses that every node has for itself, such as that of cluster DNS: on the loopback interface.

use std::net::IpAddr;

use crate::{Error, link, netns};

/// Makes `address` one of this node's own. It stays when the agent goes; repeating it changes nothing.
///
/// Must be called within a tokio runtime, in the node's network namespace.
pub async fn hold_address(address: IpAddr) -> Result<(), Error> {
    const LOOPBACK: &str = "lo";
    let netlink = netns::connect_here()?;
    let loopback = link::find(&netlink, LOOPBACK).await?;
    let loopback = loopback.ok_or_else(|| Error::NoInterface { name: LOOPBACK.to_owned() })?;
    link::set_up(&netlink, LOOPBACK, loopback.index).await?;
    let length = if address.is_ipv4() { 32 } else { 128 };
    netlink
        .address()
        .add(loopback.index, address, length)
        .replace()
        .execute()
        .await
        .map_err(Error::netlink("add address", format!("{address} to {LOOPBACK}")))
}
