//! Bytes in and out of an interface, as a process in its namespace sees them: no thread has to go there.

use std::fs;

use weir_proto::weir::v1::NetworkStats;

pub(super) fn of_process(pid: i32, interface: &str) -> Option<NetworkStats> {
    parse(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?, interface)
}

/// `eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs …`
fn parse(text: &str, interface: &str) -> Option<NetworkStats> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Some(NetworkStats {
        interface: interface.to_owned(),
        rx_bytes: *fields.first()?,
        rx_errors: *fields.get(2)?,
        tx_bytes: *fields.get(8)?,
        tx_errors: *fields.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_whole_name() {
        let text = "Inter-| Receive\n face |bytes\n  eth01: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  \
                    eth0:  10 1 2 0 0 0 0 0 20 1 3 0 0 0 0 0\n";
        let found = parse(text, "eth0").expect("it");
        assert_eq!((found.rx_bytes, found.rx_errors, found.tx_bytes, found.tx_errors), (10, 2, 20, 3));
        assert_eq!(parse(text, "lo"), None);
    }
}
