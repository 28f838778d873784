//! As whom containers' first processes run: ids that the image or the security context led to, read from the kernel.

use std::fs;

use weir_proto::core::v1::{ContainerUser, LinuxContainerUser};
use weir_runtime::ContainerState;

use super::worker::Worker;

impl Worker {
    /// Looks once at each run.
    pub(super) fn look_at_users(&mut self) {
        let runs = self.context.runtime.list_pod(&self.uid);
        self.memory.users.retain(|key, _| runs.iter().any(|run| run.key == *key));
        for run in runs {
            let ContainerState::Running { pid, .. } = run.state else { continue };
            if !self.memory.users.contains_key(&run.key) {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                // One that is gone already may have left its number to another process: better to say nothing.
                let still = self.context.runtime.status(&run.key).is_ok_and(|now| now.state == run.state);
                if let Some(user) = parse(&status).filter(|_| still) {
                    self.memory.users.insert(run.key, user);
                }
            }
        }
    }
}

fn parse(status: &str) -> Option<ContainerUser> {
    let numbers = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().map(|number| number.parse::<i64>().ok()).collect::<Option<Vec<_>>>()
    };
    let (uid, gid) = (*numbers("Uid")?.first()?, *numbers("Gid")?.first()?);
    let mut groups = numbers("Groups")?;
    // As the CRI has it: the primary group is one of them.
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    Some(ContainerUser { linux: Some(LinuxContainerUser { uid, gid, supplemental_groups: groups }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_the_kernels_file() {
        let user =
            parse("Name:\tsh\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t0\t0\t0\nGroups:\t2000 3000 \n");
        let linux = user.and_then(|user| user.linux).expect("a user");
        assert_eq!((linux.uid, linux.gid), (1000, 100));
        assert_eq!(linux.supplemental_groups, [100, 2000, 3000]);
        assert_eq!(parse(""), None);
    }
}
