//! Containers from creation to removal: command, output, exit, limits, and nothing left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use weir_runtime::cgroup::QosClass;
use weir_runtime::logs::{Cancel, LogOptions};
use weir_runtime::{Config, ContainerState, Error, ExitReason, HugePages, Mount, Runtime, SandboxSpec};
use weir_tests::require;

use crate::fixture::{Compression, IMAGE, Layer, Layout, Node, traces, wait_until};

#[test]
fn a_container_runs_logs_exits_and_is_removed() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let events = node.runtime().events();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "echo out; echo err >&2; exit 7");
    let (exit, log) = node.finish(&spec);
    assert_eq!((exit.code, exit.signal, exit.reason), (7, None, ExitReason::Error));
    let lines: BTreeSet<_> = log.lines().collect();
    assert_eq!(lines, ["err", "out"].into());
    assert_eq!(events.recv_timeout(Duration::from_secs(5)).expect("an event").exit, exit);

    let status = node.runtime().status(&spec.key).expect("the container");
    assert!(matches!(status.state, ContainerState::Exited(_)));
    node.runtime().remove_container(&spec.key).expect("removing the container");
    assert!(node.runtime().status(&spec.key).is_err());
    assert_eq!(node.log(&spec.key), log);
}

#[test]
fn nothing_is_left_of_a_pod_that_was_removed_while_it_ran() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let state = node.directory.path().join("state").display().to_string();
    let before = traces(&state);
    let sandbox = node.sandbox("pod-a");
    let namespaces: BTreeSet<u64> = ["net", "uts", "ipc"]
        .iter()
        .map(|kind| fs::metadata(sandbox.dir.join(".sandbox/ns").join(kind)).expect("a namespace").ino())
        .collect();
    for name in ["one", "two"] {
        let spec = node.container("pod-a", name, "sleep 1000 & sleep 1000");
        node.run(&spec);
    }
    assert!(!node.cgroups().is_empty());
    assert!(traces(&state).len() > before.len());

    node.runtime().remove_sandbox("pod-a").expect("removing the sandbox");
    assert_eq!(traces(&state), before);
    assert_eq!(node.cgroups(), Vec::<std::path::PathBuf>::new());
    assert!(!sandbox.dir.exists());
    let descriptors = fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let open = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    assert_eq!(open.filter(|path| path.starts_with(&sandbox.dir)).count(), 0);
    let mut living = BTreeSet::new();
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        for kind in ["net", "uts", "ipc"] {
            let namespace = fs::metadata(process.path().join("ns").join(kind));
            living.extend(namespace.ok().map(|namespace| namespace.ino()));
        }
    }
    assert!(living.is_disjoint(&namespaces), "a process still lives in the pod's namespaces");
    node.runtime().remove_sandbox("pod-a").expect("removing it again");
}

#[test]
fn the_process_gets_the_environment_directory_hostname_and_files_it_should() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let volume = node.directory.path().join("volume");
    fs::create_dir(&volume).expect("a directory");
    fs::write(volume.join("file"), "from the node\n").expect("a file");
    let mut spec = node.container(
        "pod-a",
        "main",
        "echo $FROM_IMAGE $FROM_POD $HOSTNAME; pwd; hostname; cat /etc/hosts /etc/resolv.conf /data/file; \
         echo written > /data/file; echo no > /fixed/file || echo refused; ls /proc/1/exe >/dev/null && echo $$",
    );
    spec.env = vec![("FROM_POD".into(), "set".into()), ("FROM_IMAGE".into(), "changed".into())];
    spec.working_dir = Some("/made/on/demand".into());
    let mount = |destination: &str, read_only| Mount {
        source: volume.clone(),
        destination: destination.into(),
        read_only,
        ..Mount::default()
    };
    spec.mounts = vec![mount("/data", false), mount("/fixed", true)];
    let (exit, log) = node.finish(&spec);
    let lines: Vec<_> = log.lines().filter(|line| !line.contains("can't create")).collect();
    assert_eq!(
        lines,
        [
            "changed set web-1",
            "/made/on/demand",
            "web-1",
            "127.0.0.1 localhost",
            "nameserver 10.96.0.10",
            "from the node",
            "refused",
            "1",
        ]
    );
    assert_eq!(exit.code, 0);
    assert_eq!(fs::read_to_string(volume.join("file")).expect("the file"), "written\n");
}

#[test]
fn hosts_and_resolver_can_be_changed_while_a_container_runs() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let script = "until grep -q web-1 /etc/hosts; do sleep 0.02; done; cat /etc/hosts /etc/resolv.conf";
    let spec = node.container("pod-a", "main", script);
    node.run(&spec);
    let sandbox =
        node.runtime().set_sandbox_files("pod-a", "10.32.0.5 web-1\n", "search svc\n").expect("new files");
    assert_eq!(sandbox.spec.hosts, "10.32.0.5 web-1\n");
    assert_eq!(node.wait(&spec.key).code, 0);
    assert_eq!(node.log(&spec.key), "10.32.0.5 web-1\nsearch svc\n");
    assert!(node.runtime().set_sandbox_files("pod-b", "", "").is_err());
}

#[test]
fn a_command_that_cannot_be_executed_is_named() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    node.sandbox("pod-a");
    for (name, command, message) in [
        ("missing", "no-such-program", "exec: \"no-such-program\": executable file not found in $PATH"),
        ("path", "/no/such/program", "exec: \"/no/such/program\": no such file or directory"),
        ("directory", "/etc", "exec: \"/etc\": is not a regular file"),
        ("denied", "/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let mut spec = node.container("pod-a", name, "");
        spec.command = vec![command.into()];
        let error = node.runtime().create_container(&spec).expect_err("creating must fail");
        assert_eq!(error.to_string(), message);
        assert_eq!(error.reason(), "RunContainerError");
        let exit = node.wait(&spec.key);
        assert_eq!((exit.code, exit.reason.as_str(), exit.started_at), (128, "StartError", None));
        assert_eq!(exit.message, message);
        node.open();
        assert_eq!(node.wait(&spec.key), exit, "what became of it is kept");
        node.runtime().remove_container(&spec.key).expect("removing");
    }
    // Only execve itself can tell this one.
    let mut spec = node.container("pod-a", "script", "");
    let script = node.directory.path().join("script");
    fs::write(&script, "#!/no/interpreter\n").expect("a file");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let destination = "/script".into();
    spec.mounts = vec![Mount { source: script, destination, read_only: true, ..Mount::default() }];
    spec.command = vec!["/script".into()];
    node.runtime().create_container(&spec).expect("creating the container");
    let error = node.runtime().start_container(&spec.key).expect_err("starting must fail");
    assert_eq!(error.reason(), "RunContainerError");
    assert!(error.to_string().contains("interpreter is missing"), "{error}");
    let exit = node.wait(&spec.key);
    assert_eq!((exit.code, exit.reason.as_str()), (128, "StartError"));
    assert!(exit.message.contains("interpreter is missing"), "{exit:?}");
}

#[test]
fn a_program_for_its_owner_alone_is_executed_for_its_owner() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let script = node.directory.path().join("script");
    fs::write(&script, "#!/bin/sh\necho ran\n").expect("a file");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("a mode");
    let mut spec = node.container("pod-a", "owner", "");
    let destination = "/script".into();
    spec.mounts = vec![Mount { source: script, destination, read_only: true, ..Mount::default() }];
    spec.command = vec!["/script".into()];
    assert_eq!(node.finish(&spec).1, "ran\n");
}

#[test]
fn containers_of_a_pod_share_its_loopback_interface_and_its_memory_and_no_other_pods() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    node.sandbox("pod-b");
    let script = "readlink /proc/self/ns/net; cat /sys/class/net/lo/flags; cat /dev/shm/word || echo none";
    let first = node.container("pod-a", "first", &format!("echo word > /dev/shm/word; {script}"));
    let (_, seen) = node.finish(&first);
    assert!(seen.ends_with("\n0x9\nword\n"), "the interface is up: {seen}");
    assert_eq!(node.finish(&node.container("pod-a", "second", script)).1, seen);
    let (_, other) = node.finish(&node.container("pod-b", "first", script));
    assert!(other.contains("\n0x9\n") && other.ends_with("none\n"), "{other}");
    assert_ne!(other.lines().next(), seen.lines().next());
}

#[test]
fn a_container_beyond_its_memory_limit_is_reported_as_killed_for_it() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    // tail keeps a line that never ends in memory.
    let mut spec = node.container("pod-a", "main", "tail -n 1 < /dev/zero");
    spec.resources.memory_limit = Some(16 << 20);
    let (exit, _) = node.finish(&spec);
    assert!(exit.oom_killed);
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));

    // A child that is killed, and a parent that ends for it.
    let mut spec = node.container("pod-a", "parent", "(tail -n 1 < /dev/zero); echo child $?; exit 9");
    spec.resources.memory_limit = Some(16 << 20);
    let (exit, log) = node.finish(&spec);
    assert_eq!(log.lines().last(), Some("child 137"), "{log}");
    assert_eq!((exit.code, exit.reason, exit.oom_killed), (9, ExitReason::OomKilled, true));

    // One without a limit, in a pod that has one: the kernel counts it where the process was, not where the limit is.
    let mut sandbox = node.sandbox_spec("pod-b");
    sandbox.resources.memory_limit = Some(16 << 20);
    node.runtime().create_sandbox(&sandbox).expect("a sandbox");
    let (exit, _) = node.finish(&node.container("pod-b", "main", "tail -n 1 < /dev/zero"));
    assert_eq!((exit.code, exit.reason, exit.oom_killed), (137, ExitReason::OomKilled, true));
}

#[test]
fn requests_and_limits_become_settings_of_the_pods_and_the_containers_cgroups() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let mut sandbox = node.sandbox_spec("pod-a");
    sandbox.resources.cpu_request = Some(500);
    sandbox.resources.memory_limit = Some(256 << 20);
    let sandbox = node.runtime().create_sandbox(&sandbox).expect("a sandbox");
    let mut spec = node.container("pod-a", "main", "sleep 1000");
    spec.resources.cpu_limit = Some(250);
    spec.resources.memory_limit = Some(64 << 20);
    spec.resources.pids_limit = Some(50);
    node.run(&spec);
    let container = format!("{}/{}", sandbox.cgroup, spec.key.id());
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").expect("cgroups") {
        let read = |cgroup: &str, file: &str| {
            let path = format!("/sys/fs/cgroup/{cgroup}/{file}");
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
        };
        assert_eq!(read(&sandbox.cgroup, "cpu.weight"), "20");
        assert_eq!(read(&sandbox.cgroup, "memory.max"), (256 << 20).to_string());
        assert_eq!(read(&container, "cpu.max"), "25000 100000");
        assert_eq!(read(&container, "memory.max"), (64 << 20).to_string());
        assert_eq!(read(&container, "pids.max"), "50");
        assert!(!read(&container, "cgroup.procs").is_empty());
        return;
    }
    let read = |controller: &str, cgroup: &str, file: &str| {
        let path = format!("/sys/fs/cgroup/{controller}/{cgroup}/{file}");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    };
    assert_eq!(read("cpu", &sandbox.cgroup, "cpu.shares"), "512");
    assert_eq!(read("memory", &sandbox.cgroup, "memory.limit_in_bytes"), (256 << 20).to_string());
    assert_eq!(read("cpu", &container, "cpu.cfs_quota_us"), "25000");
    assert_eq!(read("memory", &container, "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(read("pids", &container, "pids.max"), "50");
    // Where cgroup eBPF programs look for them.
    assert!(!read("unified", &container, "cgroup.procs").is_empty());
}

#[test]
fn huge_pages_are_limited_where_the_node_can_and_refused_where_it_cannot() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let pages = HugePages { page_size: 2 << 20, limit: 4 << 20 };
    let mut sandbox = node.sandbox_spec("pod-a");
    sandbox.resources.huge_pages = vec![pages.clone()];
    let hugetlb = |cgroup: &str, file: &str| {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/hugetlb"];
        roots.iter().find_map(|root| fs::read_to_string(format!("{root}/{cgroup}/{file}")).ok())
    };
    let limited = fs::exists("/sys/fs/cgroup/hugetlb").expect("cgroups")
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|all| all.contains("hugetlb"));
    let made = node.runtime().create_sandbox(&sandbox);
    if !limited {
        let error = made.expect_err("nothing would limit them").to_string();
        assert!(
            error.contains("huge page limit") && error.contains("the node has no such controller"),
            "{error}"
        );
        return;
    }
    let cgroup = made.expect("a sandbox").cgroup;
    let mut asks = node.container("pod-a", "asks", "sleep 1000");
    asks.resources.huge_pages = vec![pages];
    let plain = node.container("pod-a", "plain", "sleep 1000");
    for (spec, limit) in [(&asks, "4194304"), (&plain, "0")] {
        node.run(spec);
        let container = format!("{cgroup}/{}", spec.key.id());
        let found = hugetlb(&container, "hugetlb.2MB.max")
            .or_else(|| hugetlb(&container, "hugetlb.2MB.limit_in_bytes"));
        assert_eq!(found.as_deref().map(str::trim), Some(limit), "{}", spec.key.name);
    }
}

#[test]
fn each_class_of_pods_has_its_place_and_its_score() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let read = |path: &str| fs::read_to_string(path).expect("a file of the kernel's");
    let own: i32 = read("/proc/self/oom_score_adj").trim().parse().expect("a score");
    let status = read("/proc/self/status");
    let powers = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("its capabilities");
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let may_lower = u64::from_str_radix(powers, 16).expect("a number") & CAP_SYS_RESOURCE != 0;
    for (uid, qos, place, score) in [
        ("g", QosClass::Guaranteed, "podg", -997),
        ("b", QosClass::Burstable, "burstable/podb", 999),
        ("e", QosClass::BestEffort, "besteffort/pode", 1000),
    ] {
        let sandbox = node.runtime().create_sandbox(&SandboxSpec { qos, ..node.sandbox_spec(uid) });
        let sandbox = sandbox.expect("a sandbox");
        assert_eq!(sandbox.cgroup, format!("{}/{place}", node.cgroup));
        assert!(sandbox.cgroup2.expect("a cgroup2 hierarchy").is_dir());
        let (_, seen) = node.finish(&node.container(uid, "main", "cat /proc/self/oom_score_adj"));
        let expected = if may_lower { score } else { score.max(own) };
        assert_eq!(seen, format!("{expected}\n"), "{qos:?}");
    }
}

#[test]
fn what_a_layer_deletes_or_replaces_is_so_in_the_container() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let lower = Layer::busybox()
        .directory("some/")
        .file("some/kept", b"")
        .file("some/gone", b"")
        .directory("all/")
        .file("all/old", b"")
        .directory("turned/")
        .file("turned/inner", b"")
        .file("gone", b"");
    let upper = Layer::new()
        .file("some/.wh.gone", b"")
        .file("all/.wh..wh..opq", b"")
        .file("all/new", b"")
        .file("turned", b"a file\n")
        .file(".wh.gone", b"");
    let layout = Layout(node.directory.path().join("layout"));
    let config = serde_json::json!({ "Env": ["PATH=/bin"] });
    let image = layout.image(config, &[lower.bytes(), upper.bytes()], Compression::Gzip);
    layout.index(&[(IMAGE, image)]);
    node.sandbox("pod-a");
    let script = "echo some: $(ls some); echo all: $(ls all); cat turned; test -e gone || echo no more; \
                  echo again > gone; cat gone";
    let mut spec = node.container("pod-a", "main", script);
    spec.working_dir = Some("/".into());
    assert_eq!(node.finish(&spec).1, "some: kept\nall: new\na file\nno more\nagain\n");
}

#[test]
fn stopping_gives_the_grace_period_and_then_kills() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let polite = node.container(
        "pod-a",
        "polite",
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done",
    );
    let deaf = node.container("pod-a", "deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done");
    for spec in [&polite, &deaf] {
        node.run(spec);
        node.wait_for_log(&spec.key, "up");
    }
    let exit = node.runtime().stop_container(&polite.key, Duration::from_secs(10)).expect("stopping");
    assert_eq!((exit.code, exit.signal), (3, None));
    assert!(node.log(&polite.key).contains("bye"));

    let begun = Instant::now();
    let exit = node.runtime().stop_container(&deaf.key, Duration::from_millis(300)).expect("stopping");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let again = node.runtime().stop_container(&deaf.key, Duration::from_secs(1)).expect("stopping again");
    assert_eq!(again, exit);
}

#[test]
fn creating_and_starting_again_changes_nothing() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let first = node.sandbox("pod-a");
    assert_eq!(node.sandbox("pod-a").netns, first.netns);
    let spec = node.container("pod-a", "main", "sleep 1000");
    let created = node.runtime().create_container(&spec).expect("creating");
    assert_eq!(node.runtime().create_container(&spec).expect("creating again"), created);
    let started = node.runtime().start_container(&spec.key).expect("starting");
    assert_eq!(node.runtime().start_container(&spec.key).expect("starting again"), started);
}

#[test]
fn what_is_not_supported_yet_is_refused_by_name() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let mut sandbox = node.sandbox_spec("pod-b");
    sandbox.user_namespace = true;
    let refused = node.runtime().create_sandbox(&sandbox).expect_err("a user namespace");
    assert_eq!(refused.to_string(), "spec.hostUsers: false is not supported yet");
    let bad_parent =
        Config { cgroup_parent: "/".into(), state_dir: node.directory.path().join("b"), ..node.config() };
    assert!(matches!(Runtime::open(bad_parent), Err(Error::Cgroup(_))));
    let spec = node.container("../escape", "main", "true");
    assert!(matches!(node.runtime().create_container(&spec), Err(Error::InvalidName { .. })));
}

#[test]
fn a_follower_reads_a_log_while_it_is_written() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "for i in 1 2 3; do echo line $i; sleep 0.1; done");
    node.run(&spec);
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let reader = node.runtime().logs(&spec.key, options, Cancel::new()).expect("the log");
    let lines: Vec<_> =
        reader.map(|item| String::from_utf8(item.expect("an entry")).expect("text")).collect();
    assert_eq!(lines.concat(), "line 1\nline 2\nline 3\n");
}

#[test]
fn host_namespaces_are_the_nodes_own_and_orphans_do_not_survive() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let mut sandbox = node.sandbox_spec("pod-a");
    (sandbox.host_network, sandbox.host_ipc, sandbox.host_pid) = (true, true, true);
    let sandbox = node.runtime().create_sandbox(&sandbox).expect("a sandbox");
    assert_eq!(sandbox.netns, None);
    let marker = format!("1{}", std::process::id());
    let script =
        format!("for ns in net ipc pid uts; do readlink /proc/self/ns/$ns; done; sleep {marker} & exit 0");
    let spec = node.container("pod-a", "main", &script);
    let (_, log) = node.finish(&spec);
    let own: Vec<_> = ["net", "ipc", "pid", "uts"]
        .iter()
        .map(|kind| {
            fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace").display().to_string()
        })
        .collect();
    assert_eq!(log.lines().collect::<Vec<_>>(), own);
    wait_until("the orphan is gone", || traces(&format!("sleep {marker}")).is_empty());
}
