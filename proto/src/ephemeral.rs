//! Ephemeral containers as the containers that they are: whoever checks, runs or shows one treats it as any other.

use crate::core::v1::{Container, EphemeralContainer};

impl From<&EphemeralContainer> for Container {
    /// All but the target, which containers do not have.
    fn from(ephemeral: &EphemeralContainer) -> Self {
        let EphemeralContainer {
            name,
            target_container_name: _,
            image,
            command,
            args,
            working_dir,
            ports,
            env_from,
            env,
            resources,
            resize_policy,
            restart_policy,
            restart_policy_rules,
            volume_mounts,
            volume_devices,
            liveness_probe,
            readiness_probe,
            startup_probe,
            lifecycle,
            termination_message_path,
            termination_message_policy,
            image_pull_policy,
            security_context,
            stdin,
            stdin_once,
            tty,
        } = ephemeral.clone();
        Self {
            name,
            image,
            command,
            args,
            working_dir,
            ports,
            env_from,
            env,
            resources,
            resize_policy,
            restart_policy,
            restart_policy_rules,
            volume_mounts,
            volume_devices,
            liveness_probe,
            readiness_probe,
            startup_probe,
            lifecycle,
            termination_message_path,
            termination_message_policy,
            image_pull_policy,
            security_context,
            stdin,
            stdin_once,
            tty,
        }
    }
}
