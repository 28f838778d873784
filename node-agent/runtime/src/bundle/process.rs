//! The `process` of `config.json`: command, environment, user, working directory, limits.

use std::path::Path;

use serde_json::{Value, json};

use super::rootfs::Root;
use super::user::User;
use super::{BundleError, capabilities, node};
use crate::cgroup::oom_score_adj;
use crate::container::ContainerSpec;
use crate::sandbox::Sandbox;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn process(
    spec: &ContainerSpec,
    sandbox: &Sandbox,
    root: &Root,
    user: &User,
) -> Result<Value, BundleError> {
    let capabilities = capabilities::of(&spec.security)?;
    let open_files = node::open_files();
    let score = oom_score_adj(sandbox.spec.qos, spec.resources.memory_request, node::memory());
    let mut process = json!({
        "terminal": false,
        "user": {
            "uid": user.uid,
            "gid": user.gid,
            "umask": 0o022,
            "additionalGids": user.additional_gids,
        },
        "args": arguments(spec)?,
        "env": environment(spec, sandbox)?,
        "cwd": working_dir(spec, root)?,
        // Nothing is inheritable or ambient: capabilities come from being root, or from the file executed.
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            "inheritable": [], "ambient": [] },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": open_files, "soft": open_files }],
        "oomScoreAdj": node::clamp_oom_score(score),
    });
    // libcontainer takes `false` for wanting seccomp installed late; absence is what means no.
    if spec.security.allow_privilege_escalation == Some(false) && !spec.security.privileged {
        process["noNewPrivileges"] = true.into();
    }
    Ok(process)
}

/// `command` replaces the entrypoint and with it the cmd; `args` alone replaces the cmd.
fn arguments(spec: &ContainerSpec) -> Result<Vec<String>, BundleError> {
    let image = &spec.image.config;
    let head = if spec.command.is_empty() { &image.entrypoint } else { &spec.command };
    let tail = match (spec.command.is_empty(), spec.args.is_empty()) {
        (true, true) => &image.cmd,
        _ => &spec.args,
    };
    let arguments: Vec<String> = head.iter().chain(tail).cloned().collect();
    if arguments.is_empty() {
        return Err(BundleError::NoCommand { image: spec.image.reference.clone() });
    }
    Ok(arguments)
}

fn environment(spec: &ContainerSpec, sandbox: &Sandbox) -> Result<Vec<String>, BundleError> {
    let mut variables: Vec<(String, String)> =
        vec![("PATH".into(), DEFAULT_PATH.into()), ("HOSTNAME".into(), sandbox.spec.hostname.clone())];
    if spec.tty {
        variables.push(("TERM".into(), "xterm".into()));
    }
    let of_image = spec.image.config.env.iter().filter_map(|variable| variable.split_once('='));
    let of_image = of_image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in of_image.chain(spec.env.iter().cloned()) {
        let bad = |problem| BundleError::BadEnvironment { name: name.clone(), problem };
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(bad("the name is empty or holds '=' or a zero byte"));
        }
        if value.contains('\0') {
            return Err(bad("the value holds a zero byte"));
        }
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => variables.push((name, value)),
        }
    }
    Ok(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn working_dir(spec: &ContainerSpec, root: &Root) -> Result<String, BundleError> {
    let path = spec.working_dir.as_ref().or(spec.image.config.working_dir.as_ref());
    let path = path.map_or("/", String::as_str);
    if !path.starts_with('/') {
        return Err(BundleError::RelativeWorkingDir { path: path.to_owned() });
    }
    let volumes = spec.image.config.volumes.iter().filter(|volume| volume.starts_with('/'));
    for directory in volumes.map(String::as_str).chain([path]) {
        // Below a volume of the pod it would be made in the image and then hidden.
        if !spec.mounts.iter().any(|mount| Path::new(directory).starts_with(&mount.destination)) {
            root.make_directory(Path::new(directory))?;
        }
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::ContainerKey;
    use crate::images::{Image, ImageConfig};

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_as_in_kubernetes() {
        let list = |words: &str| -> Vec<String> { words.split_whitespace().map(str::to_owned).collect() };
        for (entrypoint, cmd, command, args, expected) in [
            ("e", "c", "", "", "e c"),
            ("e", "c", "k", "", "k"),
            ("e", "c", "", "a", "e a"),
            ("e", "c", "k", "a", "k a"),
            ("", "c d", "", "", "c d"),
        ] {
            let config =
                ImageConfig { entrypoint: list(entrypoint), cmd: list(cmd), ..ImageConfig::default() };
            let image =
                Image { reference: "i".into(), digest: "d".into(), config, layers: Vec::new(), size: 0 };
            let mut spec = ContainerSpec::new(ContainerKey::new("u", "c", 0), image);
            spec.command = list(command);
            spec.args = list(args);
            assert_eq!(arguments(&spec).expect("a command"), list(expected));
        }
    }
}
