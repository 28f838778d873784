//! What the agent's process does not notice of the containers that it makes, and what they do not get of it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Pid, getsid};
use weir_runtime::cgroup::QosClass;
use weir_runtime::{ContainerSpec, ContainerState, Mount, Runtime, SandboxSpec};
use weir_tests::require;

use crate::fixture::{Node, kill, shim_of, wait_until};

/// An agent in a process of its own, until it is dropped: then its node's containers are taken over here.
struct Agent<'n> {
    node: &'n mut Node,
    process: Child,
}

impl<'n> Agent<'n> {
    /// One that has met `failing` and runs `container`.
    fn start(
        node: &'n mut Node,
        sandbox: &SandboxSpec,
        failing: &[ContainerSpec],
        container: &ContainerSpec,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let config = node.config();
        let request = serde_json::json!({ "state_dir": config.state_dir, "cgroup_parent": config.cgroup_parent,
            "sandbox": sandbox, "failing": failing, "container": container });
        node.runtime = None;
        let mut command = Command::new(config.agent_exe);
        command.args(["agent", &request.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        prepare(&mut command);
        let process = command.spawn().expect("an agent");
        let mut agent = Self { node, process };
        let mut answer = [0; 7];
        let output = agent.process.stdout.as_mut().expect("its output");
        let mut word = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut word, PollTimeout::from(60_000_u16)), Ok(1), "the agent says nothing");
        output.read_exact(&mut answer).expect("the container is started");
        agent
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join(name)
    }

    fn children(&self) -> Vec<String> {
        let tasks = fs::read_dir(self.file("task")).expect("its threads").flatten();
        let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        children.collect::<String>().split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.node.runtime = Runtime::open(self.node.config()).ok();
    }
}

/// What a process has open.
fn descriptors(process: &Path) -> Vec<String> {
    let open = fs::read_dir(process.join("fd")).expect("descriptors").flatten();
    open.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect()
}

#[test]
fn making_containers_changes_nothing_of_the_agents_process() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let mut open = Vec::new();
    for failures in [0, 6] {
        let uid = format!("pod-{failures}");
        let sandbox = node.sandbox_spec(&uid);
        let good = node.container(&uid, "main", "sleep 1000");
        let failing: Vec<_> = (0..failures)
            .map(|number| {
                let mut spec = node.container(&uid, &format!("bad-{number}"), "true");
                if number % 2 == 0 {
                    // Found out in the container, as the last of all.
                    spec.command = vec!["no-such-program".into()];
                } else {
                    // A directory cannot be mounted on a file.
                    let (source, destination) = ("/usr".into(), "/etc/passwd".into());
                    spec.mounts = vec![Mount { source, destination, ..Mount::default() }];
                }
                spec
            })
            .collect();
        let agent = Agent::start(&mut node, &sandbox, &failing, &good, |command| {
            command.current_dir("/usr");
        });
        assert_eq!(fs::read_link(agent.file("cwd")).expect("its directory"), Path::new("/usr"));
        let score = |path: &Path| fs::read_to_string(path).expect("a score");
        assert_eq!(score(&agent.file("oom_score_adj")), score(Path::new("/proc/self/oom_score_adj")));
        assert_eq!(agent.children().len(), 1, "the shim of the container that runs, and no zombie");
        open.push(descriptors(&agent.file("")));
        drop(agent);
        node.runtime().remove_sandbox(&uid).expect("removing");
    }
    assert_eq!(open[0].len(), open[1].len(), "failures leave descriptors open: {open:#?}");
}

#[test]
fn a_shim_is_by_itself_and_holds_nothing_that_the_agent_had_open() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let (sandbox, spec) = (node.sandbox_spec("pod-a"), node.container("pod-a", "main", "sleep 1000"));
    let directory = node.directory.path().join("state/pods/pod-a/main/0").display().to_string();
    let secret = node.directory.path().join("secret");
    let file = File::create(&secret).expect("a file");
    let inherited = file.as_raw_fd();
    let agent = Agent::start(&mut node, &sandbox, &[], &spec, |command| {
        // SAFETY: between fork and exec: one call that duplicates a descriptor, without close-on-exec.
        unsafe {
            command.pre_exec(move || Ok(nix::errno::Errno::result(libc::dup2(inherited, 100)).map(drop)?))
        };
    });
    let secret = secret.display().to_string();
    assert!(descriptors(&agent.file("")).contains(&secret), "the agent has it");
    let shim = shim_of(&directory);
    let process = Path::new("/proc").join(shim.to_string());
    assert!(!descriptors(&process).contains(&secret), "the shim has not");
    let status = fs::read_to_string(process.join("status")).expect("the shim");
    assert!(status.contains("Threads:\t1\n"), "libcontainer clones whoever calls it: {status}");
    let session = |pid: i32| getsid(Some(Pid::from_raw(pid))).expect("a session");
    assert_eq!(session(shim), Pid::from_raw(shim));
    drop(agent);
    let ContainerState::Running { pid, .. } = node.runtime().status(&spec.key).expect("the container").state
    else {
        panic!("the container does not run");
    };
    let open = descriptors(&Path::new("/proc").join(pid.to_string()));
    assert_eq!(open.len(), 3, "standard streams, and nothing else: {open:?}");
}

#[test]
fn orphans_among_the_nodes_processes_come_to_the_shim_and_are_collected() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let mut sandbox = node.sandbox_spec("pod-a");
    sandbox.host_pid = true;
    node.runtime().create_sandbox(&sandbox).expect("a sandbox");
    let spec = node.container("pod-a", "main", "(sleep 1000 & echo orphan $!); exec sleep 1000");
    node.run(&spec);
    node.wait_for_log(&spec.key, "orphan");
    let orphan: i32 = node.log(&spec.key).trim().replace("orphan ", "").parse().expect("its number");
    let shim = shim_of(&node.directory.path().join("state/pods/pod-a/main/0").display().to_string());
    let status = format!("/proc/{orphan}/status");
    let parent = format!("PPid:\t{shim}\n");
    wait_until("the shim is its parent", || {
        fs::read_to_string(&status).is_ok_and(|status| status.contains(&parent))
    });
    kill(orphan);
    wait_until("it is collected", || !Path::new(&status).exists());
    assert!(matches!(
        node.runtime().status(&spec.key).expect("the container").state,
        ContainerState::Running { .. }
    ));
}

#[test]
fn an_exit_is_written_whole() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "exit 3");
    node.runtime().create_container(&spec).expect("creating the container");
    let changes = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    let directory = node.directory.path().join("state/pods/pod-a/main/0");
    changes.add_watch(&directory, AddWatchFlags::IN_ALL_EVENTS).expect("a watch");
    node.runtime().start_container(&spec.key).expect("starting the container");
    assert_eq!(node.wait(&spec.key).code, 3);
    let (mut moved, mut written) = (false, false);
    while let Ok(events) = changes.read_events() {
        for event in
            events.into_iter().filter(|event| event.name.as_deref().is_some_and(|n| n == "exit.json"))
        {
            moved |= event.mask.contains(AddWatchFlags::IN_MOVED_TO);
            written |= event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY);
        }
    }
    assert!(moved && !written, "whoever reads it in between must not find half of it");
}

#[test]
fn where_limits_cannot_be_exceeded_containers_get_what_the_node_has() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let mut sandbox = node.sandbox_spec("pod-a");
    sandbox.qos = QosClass::Guaranteed;
    let script = "ulimit -Hn; cat /proc/self/oom_score_adj; echo all; exec sleep 1000";
    let spec = node.container("pod-a", "main", script);
    let own = fs::read_to_string("/proc/self/oom_score_adj").expect("a score");
    let score = own.trim().parse::<i32>().expect("a number").max(-997);
    drop(Agent::start(&mut node, &sandbox, &[], &spec, |command| {
        let lessen = || {
            setrlimit(Resource::RLIMIT_NOFILE, 5000, 5000)?;
            const CAP_SYS_RESOURCE: libc::c_ulong = 24;
            // SAFETY: takes plain numbers.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) };
            Ok(nix::errno::Errno::result(dropped).map(drop)?)
        };
        // SAFETY: between fork and exec: two system calls.
        unsafe { command.pre_exec(lessen) };
    }));
    node.wait_for_log(&spec.key, "all");
    assert_eq!(node.log(&spec.key), format!("5000\n{score}\nall\n"));
}
