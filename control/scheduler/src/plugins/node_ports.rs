//! Ports of the host that pods ask for must be free.

use crate::framework::{Events, Filter, Reads, Reason, Refusal};
use crate::node::Candidate;
use crate::pod::Shape;

#[derive(Clone, Copy, Debug)]
pub struct NodePorts;

const TAKEN: Reason = Reason::fixed("node(s) didn't have free ports for the requested pod ports");

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED | Events::POD_GONE
    }

    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Refusal> {
        let taken = &node.load.host_ports;
        let conflict = pod.host_ports.iter().any(|port| taken.iter().any(|other| port.conflicts(other)));
        if conflict { Err(Refusal::crowded(TAKEN)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{HostPort, Protocol};
    use crate::testing::{NodeBuilder, shape};

    fn port(address: Option<&str>, protocol: Protocol, port: u16) -> HostPort {
        HostPort { address: address.map(str::to_owned), protocol, port }
    }

    #[test]
    fn ports_conflict_by_address_protocol_and_number() {
        let any = port(None, Protocol::Tcp, 80);
        let one = port(Some("10.0.0.1"), Protocol::Tcp, 80);
        let cases = [
            (&any, &any, false),
            (&any, &one, false),
            (&one, &any, false),
            (&one, &port(Some("10.0.0.2"), Protocol::Tcp, 80), true),
            (&any, &port(None, Protocol::Udp, 80), true),
            (&any, &port(None, Protocol::Tcp, 81), true),
        ];
        for (taken, wanted, fits) in cases {
            let holder = Shape { host_ports: vec![taken.clone()], ..shape() };
            let node = NodeBuilder::new("one").pod("holder", holder).build();
            let pod = Shape { host_ports: vec![wanted.clone()], ..shape() };
            let verdict = NodePorts.filter(&pod, node.candidate().unwrap());
            assert_eq!(verdict.is_ok(), fits, "{taken:?} {wanted:?}");
        }
    }
}
