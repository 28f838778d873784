//! A cluster for one test, made exactly as `cargo xtask up` makes one, and removed when the test ends, however.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::cluster::{self, Layout, Store};

use crate::wait::until;

/// How long a test waits for what should take a second or two: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster; dropping it takes it down.
#[derive(Debug)]
pub struct Cluster {
    pub layout: Layout,
}

/// How often each pod answered.
#[derive(Debug)]
pub struct Tally {
    pub failed: u64,
    pub error: String,
    /// (pod, node, answers)
    pub answers: Vec<(String, String, u64)>,
}

impl Cluster {
    /// Brings one up under a name that no other test has.
    pub fn up(name: &str, nodes: u8, store: Store) -> Result<Self> {
        let layout = Layout::for_test(&format!("weir-{name}-{}", std::process::id()), nodes, store)?;
        let cluster = Self { layout };
        cluster::up(&cluster.layout)?;
        Ok(cluster)
    }

    /// One of one node, whose agent has these flags besides.
    pub fn with_flags(name: &str, flags: impl FnOnce(&Layout) -> Vec<String>) -> Result<Self> {
        let mut layout =
            Layout::for_test(&format!("weir-{name}-{}", std::process::id()), 1, Store::Embedded)?;
        let flags = flags(&layout);
        if flags.iter().any(|flag| flag.starts_with("--eviction-hard")) {
            layout.agent_flags.retain(|flag| !flag.starts_with("--eviction-hard"));
        }
        layout.agent_flags.extend(flags);
        let cluster = Self { layout };
        cluster::up(&cluster.layout)?;
        Ok(cluster)
    }

    /// Runs `weir`; its standard output where it succeeds, an error with its standard error where not.
    pub fn weir(&self, arguments: &[&str]) -> Result<String> {
        xtask::shell::output(&mut cluster::weir(&self.layout, arguments))
    }

    /// Runs `weir` with `input` on standard input, whatever comes of it.
    pub fn weir_fed(&self, arguments: &[&str], input: &str) -> Result<Output> {
        use std::io::Write;
        use std::process::Stdio;
        let mut command = cluster::weir(&self.layout, arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    /// Applies a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let output = self.weir_fed(&["apply", "-f", "-"], manifest)?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "weir apply ended with {}: {stdout}{stderr}", output.status);
        Ok(format!("{stdout}{stderr}"))
    }

    /// `weir get WHAT -o json`.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let mut arguments = vec!["get"];
        arguments.extend(what);
        arguments.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.weir(&arguments)?)?)
    }

    /// Waits until `weir get WHAT` satisfies `holds`, and returns the object.
    pub fn wait_for(&self, what: &[&str], holds: impl Fn(&Value) -> bool) -> Result<Value> {
        until(&what.join(" "), PATIENCE, || {
            let object = self.get(what)?;
            if holds(&object) { Ok(object) } else { bail!("is {object}") }
        })
    }

    /// Waits until a Deployment has all its replicas available and updated, and every node's kernel knows the
    /// endpoints.
    pub fn wait_for_rollout(&self, deployment: &str) -> Result<()> {
        self.wait_for_rollout_on_paper(deployment)?;
        self.wait_for_dataplanes()
    }

    /// The same without asking the nodes' kernels.
    pub fn wait_for_rollout_on_paper(&self, deployment: &str) -> Result<()> {
        self.wait_for(&["deployment", deployment], |object| {
            let (spec, status) = (&object["spec"], &object["status"]);
            status["observedGeneration"] == object["metadata"]["generation"]
                && ["replicas", "updatedReplicas", "availableReplicas"]
                    .iter()
                    .all(|field| status[field] == spec["replicas"])
        })?;
        Ok(())
    }

    /// Waits until each node has acknowledged a dataplane revision that covers every EndpointSlice there is now.
    pub fn wait_for_dataplanes(&self) -> Result<()> {
        let slices = self.get(&["endpointslices", "-A"])?;
        let newest = items(&slices)
            .filter_map(|slice| slice["metadata"]["resourceVersion"].as_str()?.parse::<i64>().ok())
            .max()
            .unwrap_or_default();
        self.wait_for(&["dataplanenodes"], |nodes| {
            items(nodes).count() == usize::from(self.layout.nodes)
                && items(nodes).all(|node| node["status"]["revision"].as_i64().unwrap_or_default() >= newest)
        })?;
        Ok(())
    }

    /// A command inside a node ("node-1"), the hub or the client, in its namespace and cgroup.
    pub fn command_in(&self, machine: &str, program: &Path) -> Result<Command> {
        cluster::command_in(&self.layout, machine, program)
    }

    /// Kills all of the cluster's processes of a program, and waits until they have gone.
    pub fn kill(&self, program: &str) -> Result<()> {
        for pid in self.processes(&[program])? {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        self.wait_for_end_of(program)
    }

    /// Waits until none of the cluster's processes of a program is left.
    pub fn wait_for_end_of(&self, program: &str) -> Result<()> {
        until(&format!("the end of {program}"), PATIENCE, || {
            let left = self.processes(&[program])?;
            if left.is_empty() { Ok(()) } else { bail!("{left:?}") }
        })
    }

    /// Processes of the cluster that run one of these programs under their own name; shims are not agents.
    pub fn processes(&self, programs: &[&str]) -> Result<Vec<i32>> {
        processes_of(&self.layout, programs)
    }

    /// The agent of a node.
    pub fn agent_of(&self, node: &str) -> Result<Pid> {
        let found = processes_below(&self.layout.cgroup_of(node), &["weir-agent"])?;
        let [pid] = found[..] else { bail!("{node} has {} agents", found.len()) };
        Ok(Pid::from_raw(pid))
    }

    /// Kills one process, and waits until it is gone.
    pub fn kill_one(&self, pid: Pid) -> Result<()> {
        self.end_one(pid, Signal::SIGKILL)
    }

    /// Sends one process a signal that ends it, and waits until it is gone.
    pub fn end_one(&self, pid: Pid, signal: Signal) -> Result<()> {
        kill(pid, signal)?;
        until(&format!("the end of {pid}"), PATIENCE, || match kill(pid, None) {
            Err(nix::Error::ESRCH) => Ok(()),
            // Its parent, which may be this process, has yet to collect it.
            _ if stat_of(pid).is_some_and(|stat| stat.contains(") Z ")) => Ok(()),
            _ => bail!("it lives"),
        })
    }

    /// Processes of a pod's containers.
    pub fn processes_of_pod(&self, uid: &str) -> Result<Vec<i32>> {
        let mark = format!("pod{uid}");
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if groups.lines().any(|line| line.contains(&mark)) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Sends requests from a machine of the cluster and counts the answers.
    pub fn request_from(&self, machine: &str, target: &str, flags: &[&str]) -> Result<Tally> {
        let mut command = self.command_in(machine, &xtask::build::echo())?;
        Tally::of(command.args(["request", "--target", target]).args(flags))
    }
}

/// A process that was told to stand still, and goes on at the latest when this is dropped.
#[derive(Debug)]
pub struct Stopped(Pid);

impl Stopped {
    pub fn stop(pid: Pid) -> Result<Self> {
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = cluster::remove(&self.layout) {
            eprintln!("cluster {} was not removed: {error:#}", self.layout.name);
        }
    }
}

impl Tally {
    /// Runs `echo request …`.
    pub fn of(command: &mut Command) -> Result<Self> {
        let output = command.output().with_context(|| format!("run {command:?}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(&text)
            .with_context(|| format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Reads the line that `echo request` printed.
    pub fn parse(text: &str) -> Result<Self> {
        let line = text
            .lines()
            .rfind(|line| line.starts_with('{'))
            .with_context(|| format!("no tally in {text:?}"))?;
        let value: Value = serde_json::from_str(line)?;
        let answers = value["answers"].as_array().context("no answers")?;
        let word = |answer: &Value, key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            failed: value["failed"].as_u64().unwrap_or_default(),
            error: word(&value, "error"),
            answers: answers
                .iter()
                .map(|answer| {
                    (word(answer, "pod"), word(answer, "node"), answer["count"].as_u64().unwrap_or_default())
                })
                .collect(),
        })
    }

    pub fn answered(&self) -> u64 {
        self.answers.iter().map(|(_, _, count)| count).sum()
    }

    /// How many different nodes answered.
    pub fn nodes(&self) -> usize {
        self.answers.iter().map(|(_, node, _)| node).collect::<std::collections::BTreeSet<_>>().len()
    }
}

/// Processes in the cluster's cgroups that run one of these programs under their own name; shims are not agents.
pub fn processes_of(layout: &Layout, programs: &[&str]) -> Result<Vec<i32>> {
    processes_below(&layout.name, programs)
}

/// The same, of one group and those below it.
fn processes_below(group: &str, programs: &[&str]) -> Result<Vec<i32>> {
    let prefix = format!("0::/{group}/");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let ours = read("cgroup").lines().any(|line| line.starts_with(&prefix));
        let command = read("cmdline");
        let mut words = command.split('\0');
        let program = words.next().and_then(|word| Path::new(word).file_name()?.to_str()).unwrap_or_default();
        let is_shim = words.next() == Some("shim");
        if ours && !is_shim && programs.contains(&program) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn stat_of(pid: Pid) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// A condition of an object's status; null where it has none of that type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// Whether an object is Ready, and since when.
pub fn readiness(object: &Value) -> String {
    let ready = condition(object, "Ready");
    format!("{} since {}", ready["status"], ready["lastTransitionTime"])
}

/// The objects of a list.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}
