//! A container's capabilities: containerd's default set, changed by `add` and `drop`.

use super::{BundleError, node};
use crate::container::Security;

/// By number, as in linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Full names (`CAP_…`), by number.
pub(super) fn of(security: &Security) -> Result<Vec<String>, BundleError> {
    compose(security, node::capabilities())
}

fn compose(security: &Security, available: u64) -> Result<Vec<String>, BundleError> {
    let all: u64 = (1 << NAMES.len()) - 1;
    let mut set = if security.privileged { all } else { mask(&DEFAULT)? };
    // `drop: [ALL]` with `add: [X]` means X alone, whatever the order in the manifest.
    if mask_all(&security.capabilities_drop) {
        set = 0;
    }
    if mask_all(&security.capabilities_add) {
        set = all;
    }
    let named =
        |names: &[String]| -> Vec<String> { names.iter().filter(|name| !is_all(name)).cloned().collect() };
    let added = mask(&named(&security.capabilities_add))?;
    if let Some(number) = numbers(added & !available).next() {
        return Err(BundleError::CapabilityNotAvailable { name: format!("CAP_{}", NAMES[number]) });
    }
    set |= added;
    set &= !mask(&named(&security.capabilities_drop))?;
    Ok(numbers(set & available).map(|number| format!("CAP_{}", NAMES[number])).collect())
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn mask_all(names: &[String]) -> bool {
    names.iter().any(|name| is_all(name))
}

fn mask(names: &[impl AsRef<str>]) -> Result<u64, BundleError> {
    names.iter().try_fold(0, |mask, name| {
        let upper = name.as_ref().to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| *known == short);
        let number =
            number.ok_or_else(|| BundleError::UnknownCapability { name: name.as_ref().to_owned() })?;
        Ok(mask | 1 << number)
    })
}

fn numbers(mask: u64) -> impl Iterator<Item = usize> {
    (0..NAMES.len()).filter(move |number| mask & (1 << number) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(add: &[&str], drop: &[&str]) -> Security {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Security { capabilities_add: owned(add), capabilities_drop: owned(drop), ..Security::default() }
    }

    #[test]
    fn add_and_drop_change_the_default_set() {
        let set = |add: &[&str], drop: &[&str]| compose(&security(add, drop), u64::MAX).expect("known names");
        assert_eq!(set(&[], &[]).len(), DEFAULT.len());
        assert_eq!(set(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert!(set(&["cap_sys_time"], &[]).contains(&"CAP_SYS_TIME".to_owned()));
        assert!(!set(&["ALL"], &["NET_RAW"]).contains(&"CAP_NET_RAW".to_owned()));
    }

    #[test]
    fn what_the_node_lacks_is_left_out_of_defaults_and_refused_when_asked_for() {
        let without_mknod = !(1 << 27);
        let set = compose(&security(&[], &[]), without_mknod).expect("known names");
        assert!(!set.contains(&"CAP_MKNOD".to_owned()));
        let asked = compose(&security(&["MKNOD"], &[]), without_mknod);
        assert!(matches!(asked, Err(BundleError::CapabilityNotAvailable { name }) if name == "CAP_MKNOD"));
        let unknown = compose(&security(&["MAGIC"], &[]), u64::MAX);
        assert!(matches!(unknown, Err(BundleError::UnknownCapability { .. })));
    }
}
