//! Addresses that no backend may have: they mean something else on every machine.

use std::net::IpAddr;

use super::{Errors, Path};

/// Refuses addresses by which a Service could reach into the nodes themselves. What is no address is for others to refuse.
pub(crate) fn not_special(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let Ok(address) = value.parse::<IpAddr>() else { return };
    // An IPv4 address in IPv6's clothes is that address.
    let address = address.to_canonical();
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let refusals = [
        (address.is_unspecified(), format!("may not be unspecified ({address})")),
        (address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    for (_, detail) in refusals.into_iter().filter(|(is, _)| *is) {
        errors.invalid(path, value, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_machine_has_is_nobodys_backend() {
        let refused = |value: &str| {
            let mut errors = Errors::default();
            not_special(value, &Path::root("address"), &mut errors);
            !errors.is_empty()
        };
        for special in [
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "127.8.9.1",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.5",
            "ff02::1",
        ] {
            assert!(refused(special), "{special}");
        }
        for usual in ["10.0.0.1", "192.168.1.1", "2001:db8::1", "fd00::1", "224.1.2.3"] {
            assert!(!refused(usual), "{usual}");
        }
    }
}
