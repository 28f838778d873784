//! What a container must not be able to do, and whom it runs as. Each test closes a gap that libcontainer leaves open.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use weir_runtime::{ContainerSpec, Error, ExecSpec, ExecStdio, Seccomp};
use weir_tests::require;

use crate::fixture::{Node, shim_program};

fn exec(node: &Node, spec: &ContainerSpec, script: &str) -> Result<(i32, String), Error> {
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    let stdio =
        ExecStdio { stdout: Some(write.try_clone().expect("a copy")), stderr: Some(write), stdin: None };
    let argv = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let timeout = Some(Duration::from_secs(20));
    let code = node.runtime().exec(&spec.key, ExecSpec { argv, stdio, terminal: None, timeout })?;
    Ok((code, read_all(read)))
}

fn read_all(pipe: OwnedFd) -> String {
    let mut text = String::new();
    File::from(pipe).read_to_string(&mut text).expect("output");
    text
}

#[test]
fn the_user_comes_from_the_image_or_the_security_context() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let script = "id -u; id -g; id -G; echo out > /dev/stdout";
    let mut spec = node.container("pod-a", "image", script);
    spec.image.config.user = Some("web".into());
    spec.security.supplemental_groups = vec![2000];
    assert_eq!(node.finish(&spec).1, "101\n102\n102 4 2000\nout\n");

    let mut spec = node.container("pod-a", "context", script);
    (spec.security.run_as_user, spec.security.run_as_group) = (Some(1234), Some(99));
    assert_eq!(node.finish(&spec).1, "1234\n99\n99\nout\n");

    let mut spec = node.container("pod-a", "root", script);
    spec.security.run_as_non_root = true;
    let error = node.runtime().create_container(&spec).expect_err("root is refused");
    assert_eq!(error.reason(), "CreateContainerConfigError");
    assert_eq!(
        error.to_string(),
        "container has runAsNonRoot and image will run as root (pod: \"pod_default(pod-a)\", container: root)"
    );

    let mut spec = node.container("pod-a", "strict", script);
    spec.image.config.user = Some("web".into());
    (spec.security.supplemental_groups, spec.security.strict_groups) = (vec![2000], true);
    assert_eq!(node.finish(&spec).1, "101\n102\n102 2000\nout\n");
}

#[test]
fn root_in_a_container_cannot_raise_its_limits_or_reach_devices() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let mut spec = node.container(
        "pod-a",
        "main",
        "for file in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do \
           test -e $file && { echo 999999999 > $file && echo raised; }; done; \
         mkdir /sys/fs/cgroup/memory/x && echo made; \
         mknod /tmp/disk b 254 0; head -c 1 /tmp/disk && echo read; \
         mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg && echo read; \
         echo 1 > /proc/sys/kernel/printk && echo wrote; \
         mount -t tmpfs none /tmp && echo mounted; \
         head -c 1 /dev/zero | wc -c; echo x > /dev/null && echo null",
    );
    spec.resources.memory_limit = Some(64 << 20);
    let (_, log) = node.finish(&spec);
    let words: Vec<_> = log.lines().filter(|line| !line.contains(':')).collect();
    assert_eq!(words, ["1", "null"], "{log}");
}

#[test]
fn each_guard_of_devices_holds_without_the_other() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let sandbox = node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "sleep 1000");
    node.run(&spec);
    let null = node.directory.path().join("null");
    let kernel_log = node.directory.path().join("kernel-log");
    for (path, minor) in [(&null, 3), (&kernel_log, 11)] {
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::sys::stat::mknod(path, kind, mode, nix::sys::stat::makedev(1, minor)).expect("a device");
    }
    // A process of the node's joins one of the container's groups alone.
    let opened = |group: Option<&Path>| {
        let join =
            group.map_or_else(String::new, |group| format!("echo $$ > {}/cgroup.procs &&", group.display()));
        let open = |path: &Path| format!("(exec 3< {0}) 2> /dev/null && echo {0};", path.display());
        let script = format!("{join} {{ {} {} true; }}", open(&null), open(&kernel_log));
        let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect::<Vec<_>>()
    };
    assert_eq!(opened(None), [null.clone(), kernel_log.clone()], "the node's own processes may");
    let unified = sandbox.cgroup2.expect("a cgroup2 hierarchy").join(spec.key.id());
    assert_eq!(opened(Some(&unified)), std::slice::from_ref(&null), "the eBPF program");
    let rules = Path::new("/sys/fs/cgroup/devices").join(&sandbox.cgroup).join(spec.key.id());
    if rules.exists() {
        assert_eq!(opened(Some(&rules)), [null], "the devices controller");
    }
}

#[test]
fn capabilities_are_the_usual_ones_and_no_new_privs_is_set_when_asked() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let script = "grep -E 'CapBnd|CapEff|CapInh|CapAmb|NoNewPrivs' /proc/self/status";
    let field = |log: &str, name: &str| {
        let line = log.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim_start_matches(':').trim().to_owned()
    };
    let (_, log) = node.finish(&node.container("pod-a", "usual", script));
    for name in ["CapBnd", "CapEff"] {
        assert_eq!(field(&log, name), "00000000a80425fb");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(field(&log, name), "0000000000000000");
    }
    assert_eq!(field(&log, "NoNewPrivs"), "0");

    let mut spec = node.container("pod-a", "least", script);
    spec.security.capabilities_drop = vec!["ALL".into()];
    spec.security.capabilities_add = vec!["NET_BIND_SERVICE".into()];
    spec.security.allow_privilege_escalation = Some(false);
    let (_, log) = node.finish(&spec);
    assert_eq!((field(&log, "CapEff"), field(&log, "NoNewPrivs")), ("0000000000000400".into(), "1".into()));
}

#[test]
fn the_default_seccomp_profile_lets_programs_work_and_stops_what_it_should() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    // With the capability, only seccomp can refuse.
    let script = "grep Seccomp: /proc/self/status; (echo child) | cat; swapoff -a; echo done";
    for (name, no_new_privs) in [("plain", None), ("nnp", Some(false))] {
        let mut spec = node.container("pod-a", name, script);
        spec.security.seccomp = Seccomp::RuntimeDefault;
        spec.security.allow_privilege_escalation = no_new_privs;
        let (exit, log) = node.finish(&spec);
        assert!(log.contains("Seccomp:\t2") && log.contains("child") && log.contains("done"), "{log}");
        assert_eq!(exit.code, 0);
    }
    let profile = node.directory.path().join("profile.json");
    let rules = serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }] });
    fs::write(&profile, rules.to_string()).expect("a profile");
    let mut spec = node.container("pod-a", "local", "mkdir /tmp/x || echo refused");
    spec.security.seccomp = Seccomp::Localhost(profile.clone());
    assert!(node.finish(&spec).1.contains("refused"));
    fs::write(&profile, "{").expect("a profile");
    let mut spec = node.container("pod-a", "broken", "true");
    spec.security.seccomp = Seccomp::Localhost(profile);
    let error = node.runtime().create_container(&spec).expect_err("a broken profile");
    assert_eq!(error.reason(), "CreateContainerConfigError");
}

#[test]
fn the_default_seccomp_profile_lets_nobody_clone_into_new_namespaces() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let mut spec = node.container("pod-a", "main", "true");
    spec.security.seccomp = Seccomp::RuntimeDefault;
    node.runtime().create_container(&spec).expect("creating");
    let bundle = node.directory.path().join("state/pods/pod-a/main/0/config.json");
    let flags = [0, nix::libc::CLONE_NEWUSER, nix::libc::CLONE_NEWNS, nix::libc::CLONE_NEWNET];
    let output = Command::new(shim_program())
        .arg("clone")
        .arg(bundle)
        .args(flags.map(|flag| flag.to_string()))
        .output()
        .expect("the program runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n1\n1\n", "{output:?}");
}

#[test]
fn a_read_only_root_stays_as_it_is() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let mut spec =
        node.container("pod-a", "main", "touch /file && echo made; touch /dev/shm/file && echo shm");
    spec.security.read_only_root = true;
    let (_, log) = node.finish(&spec);
    assert!(!log.contains("made") && log.contains("shm"), "{log}");
}

#[test]
fn the_agents_program_is_out_of_a_containers_reach() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "sleep 1000");
    node.run(&spec);
    let directory = node.directory.path().join("state/pods/pod-a/main/0").display().to_string();
    let shims = fs::read_dir("/proc").expect("processes").flatten().filter(|process| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).replace('\0', " ").contains(&format!("shim {directory}"))
    });
    let program = shims.map(|process| process.path().join("exe")).next().expect("a shim");
    assert_eq!(fs::read_link(&program).expect("a link").to_string_lossy(), "/memfd:weir-agent (deleted)");
    let program = File::open(&program).expect("the program");
    let seals = nix::fcntl::fcntl(&program, nix::fcntl::FcntlArg::F_GET_SEALS).expect("its seals");
    assert!(nix::fcntl::SealFlag::from_bits_truncate(seals).contains(nix::fcntl::SealFlag::F_SEAL_WRITE));
    // Who held it open until nobody executes it any more may open it to write: now only the seal says no.
    node.runtime().remove_container(&spec.key).expect("removing");
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let mut writable = File::options().write(true).open(path).expect("a program that is not executed");
    let error = writable.write(b"#!/bin/evil").expect_err("a sealed program");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    drop(writable);
    let spec = node.container("pod-a", "after", "echo unharmed");
    assert_eq!(node.finish(&spec).1, "unharmed\n");
}

/// What a process is bound by, in lines that are the same for every process of a container.
const BOUNDS: &str = "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj /proc/self/cgroup; pwd; hostname; umask; \
                      grep -E 'Uid|Gid|Groups|Sig(Ign|Blk)|Cap|NoNewPrivs|Seccomp:' /proc/self/status; echo all";

#[test]
fn an_exec_session_is_bound_by_all_that_binds_the_container() {
    if !require::root() {
        return;
    }
    // As an agent's that was started by nohup.
    // SAFETY: ignoring is no handler of ours.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }.expect("ignored");
    let node = Node::new();
    node.sandbox("pod-a");
    let mut cases = Vec::new();
    for (name, seccomp) in [("open", Seccomp::Unconfined), ("filtered", Seccomp::RuntimeDefault)] {
        let mut spec = node.container("pod-a", name, &format!("{BOUNDS}; exec sleep 1000"));
        spec.security.capabilities_drop = vec!["ALL".into()];
        spec.security.capabilities_add = vec!["KILL".into()];
        spec.security.allow_privilege_escalation = Some(false);
        spec.security.supplemental_groups = vec![2000, 3000];
        spec.security.seccomp = seccomp;
        spec.working_dir = Some("/tmp".into());
        cases.push(spec.clone());
        spec.key.name = format!("{name}-user");
        spec.security.run_as_user = Some(101);
        cases.push(spec);
    }
    for spec in cases {
        node.run(&spec);
        node.wait_for_log(&spec.key, "all");
        let (code, output) = exec(&node, &spec, BOUNDS).expect("a session");
        assert_eq!((code, output), (0, node.log(&spec.key)), "{}", spec.key.name);
        let power = if spec.security.run_as_user.is_some() { "0" } else { "2" };
        let log = node.log(&spec.key);
        for line in [
            "CapBnd:\t0000000000000020".to_owned(),
            format!("CapEff:\t00000000000000{power}0"),
            "NoNewPrivs:\t1".to_owned(),
            // Rust's own programs ignore SIGPIPE, and this one more; others do not expect that.
            "SigIgn:\t0000000000000000".to_owned(),
            "SigBlk:\t0000000000000000".to_owned(),
        ] {
            assert!(log.lines().any(|found| found == line), "{line} in {log}");
        }
    }
}

#[test]
fn an_exec_session_runs_as_the_container_does() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let sandbox = node.sandbox("pod-a");
    let mut spec = node.container("pod-a", "main", "sleep 1000");
    spec.security.run_as_user = Some(101);
    spec.security.seccomp = Seccomp::RuntimeDefault;
    spec.working_dir = Some("/tmp".into());
    spec.env = vec![("COLOUR".into(), "green".into())];
    node.run(&spec);
    let script = "id -u; id -g; pwd; echo $COLOUR; hostname; grep Seccomp: /proc/self/status; \
                  grep -h CapEff /proc/self/status; cat /proc/self/cgroup; exit 4";
    let (code, output) = exec(&node, &spec, script).expect("a session");
    let lines: Vec<_> = output.lines().take(7).collect();
    assert_eq!(code, 4, "{output}");
    let expected = ["101", "102", "/tmp", "green", "web-1", "Seccomp:\t2", "CapEff:\t0000000000000000"];
    assert_eq!(lines, expected);
    // Inside its cgroup namespace the container's own groups are the roots, in every hierarchy.
    let groups: Vec<_> = output.lines().skip(7).collect();
    assert!(groups.len() > 1 || !sandbox.cgroup.is_empty());
    for hierarchy in groups.iter().filter(|line| !line.contains("systemd")) {
        assert!(hierarchy.ends_with(":/"), "{hierarchy}");
    }
}

#[test]
fn an_exec_session_that_fails_or_takes_too_long_says_so() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "sleep 1000");
    node.run(&spec);
    let run = |argv: &[&str], timeout: u64| {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let timeout = Some(Duration::from_millis(timeout));
        node.runtime()
            .exec(&spec.key, ExecSpec { argv, stdio: ExecStdio::default(), terminal: None, timeout })
    };
    let error = run(&["no-such-program"], 20_000).expect_err("no program");
    assert!(error.to_string().contains("\"no-such-program\": executable file not found in $PATH"), "{error}");
    let error = run(&["sleep", "1000"], 100).expect_err("too long");
    assert!(error.to_string().contains("did not end"), "{error}");
    assert_eq!(run(&["false"], 20_000).expect("a session"), 1);
    assert_eq!(run(&["sh", "-c", "kill -9 $$"], 20_000).expect("a session"), 137);
    let left: Vec<_> = fs::read_dir(node.directory.path().join("state/pods/pod-a/main/0"))
        .expect("the container's directory")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("exec-"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    node.runtime().stop_container(&spec.key, Duration::ZERO).expect("stopping");
    assert!(run(&["true"], 20_000).is_err());
}

#[test]
fn a_privileged_container_has_the_nodes_devices_and_may_mount() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let script = "mount -t tmpfs none /tmp && echo mounted; test -c /dev/kmsg && echo device; \
                  echo 1 > /proc/sys/net/ipv4/ip_forward && echo wrote";
    let mut spec = node.container("pod-a", "main", script);
    spec.security.privileged = true;
    assert_eq!(node.finish(&spec).1, "mounted\ndevice\nwrote\n");
}

#[test]
fn sysctls_of_the_pod_are_set_and_those_of_the_node_refused() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let mut sandbox = node.sandbox_spec("pod-a");
    sandbox.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    sandbox.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    node.runtime().create_sandbox(&sandbox).expect("a sandbox");
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(node.finish(&node.container("pod-a", "main", script)).1, "0\n1\n");
    for name in ["kernel.panic", "vm.swappiness", "net../../kernel/panic", "kernel.shm/../panic"] {
        let mut sandbox = node.sandbox_spec("pod-b");
        sandbox.sysctls.insert(name.into(), "1".into());
        let error = node.runtime().create_sandbox(&sandbox).expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
}
