//! Kernel settings of the node's network namespace.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// Below the ports that the dataplane translates to when it stands in for a client (49152–65535), so that a
/// connection of the node itself never collides with a translated one.
const LOCAL_PORTS: &str = "32768 49151";

/// Prepares the calling thread's network namespace to route for pods. Repeating it changes nothing.
pub fn prepare_node() -> Result<(), Error> {
    let ipv4 = Path::new("/proc/sys/net/ipv4");
    write(&ipv4.join("ip_forward"), "1")?;
    write(&ipv4.join("ip_local_port_range"), LOCAL_PORTS)?;
    // An answer may come back by another way than its question went: through a pod's veth, or the uplink.
    // The kernel takes the stricter of `all` and the interface's own, so each one counts.
    for interface in interfaces(&ipv4.join("conf"))? {
        match write(&interface.join("rp_filter"), "0") {
            // An interface may go while we walk the list.
            Err(_) if !interface.exists() => {}
            outcome => outcome?,
        }
    }
    // Translated packets of this node may arrive from outside with the node's own source address.
    write(&ipv4.join("conf/all/accept_local"), "1")
}

/// Quiets IPv6 autoconfiguration on `link` before it goes up: no link-local address, no router solicitations.
pub(crate) fn quiet_ipv6(link: &str) -> Result<(), Error> {
    let conf = Path::new("/proc/sys/net/ipv6/conf").join(link);
    if !conf.exists() {
        return Ok(()); // A kernel without IPv6.
    }
    write(&conf.join("addr_gen_mode"), "1")?;
    write(&conf.join("accept_ra"), "0")
}

fn interfaces(conf: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(conf).map_err(Error::sysctl(conf))?;
    entries.map(|entry| Ok(entry.map_err(Error::sysctl(conf))?.path())).collect()
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    fs::write(path, value).map_err(Error::sysctl(path))
}
