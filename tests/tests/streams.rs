//! Commands in containers and connections into pods: by `weir`, by `kubectl`, and when one end of them dies.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_tests::cluster::{Cluster, PATIENCE};
use weir_tests::forward::Forward;
use weir_tests::{require, wait};
use xtask::cluster::{self, Store};

/// A pod with a shell: the demo's image, and the node's busybox under the names of a few of its programs.
fn with_shell(name: &str, more: &str) -> String {
    let programs =
        ["sh", "cat", "sleep", "tar", "test", "tty", "stty", "id", "head", "wc", "sha256sum", "nc"];
    let mounts: Vec<String> = programs
        .iter()
        .map(|program| format!("{{ name: busybox, mountPath: /bin/{program}, readOnly: true }}"))
        .collect();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {{ name: busybox, hostPath: {{ path: /usr/bin/busybox, type: File }} }}
  - {{ name: data, emptyDir: {{}} }}
  securityContext: {{ fsGroup: 65532 }}
  containers:
  - name: main
    image: weir.dev/echo:0.1.0
    args: [serve, --port, \"8080\"]
    ports: [{{ name: http, containerPort: 8080 }}]
    volumeMounts: [{{ name: data, mountPath: /data }}, {mounts}]
{more}",
        mounts = mounts.join(", ")
    )
}

fn ready(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"])?;
    Ok(())
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(cluster.layout.kubeconfig()).args(arguments);
    command
}

fn output(command: &mut Command, stdin: &[u8]) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no stdin")?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Who reads no more has ended; that is for the caller to judge.
            let _ = input.write_all(stdin);
        });
        Ok(child.wait_with_output()?)
    })
}

/// A command line of it.
type Tool<'t> = &'t dyn Fn(&[&str]) -> Command;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Kills its process when dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many processes of the cluster have this command line.
fn processes(cluster: &Cluster, command: &str) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let ours =
            read("cgroup").lines().any(|line| line.starts_with(&format!("0::/{}/", cluster.layout.name)));
        if ours && read("cmdline").replace('\0', " ").contains(command) {
            count += 1;
        }
    }
    Ok(count)
}

fn wait_for_processes(cluster: &Cluster, command: &str, want: usize) -> Result<()> {
    wait::until(&format!("{want} processes {command:?}"), PATIENCE, || {
        let count = processes(cluster, command)?;
        if count == want { Ok(()) } else { bail!("there are {count}") }
    })
}

#[test]
fn commands_run_in_containers() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("exec", 1, Store::Embedded)?;
    cluster.apply(&with_shell("shell", ""))?;
    ready(&cluster, "shell")?;
    let by_weir = |arguments: &[&str]| cluster::weir(&cluster.layout, arguments);
    let by_kubectl = |arguments: &[&str]| kubectl(&cluster, arguments);
    let tools: [(&str, Tool<'_>); 2] = [("weir", &by_weir), ("kubectl", &by_kubectl)];
    for (tool, command) in tools {
        let script = "echo out; echo err >&2; exit 7";
        let ended = output(&mut command(&["exec", "shell", "--", "sh", "-c", script]), b"")?;
        ensure!(ended.status.code() == Some(7), "{tool}: {ended:?}");
        ensure!(text(&ended.stdout) == "out\n", "{tool}: {ended:?}");
        let said = text(&ended.stderr);
        ensure!(said == "err\ncommand terminated with exit code 7\n", "{tool}: {said}");

        let killed = output(&mut command(&["exec", "shell", "--", "sh", "-c", "kill -9 $$"]), b"")?;
        ensure!(killed.status.code() == Some(137), "{tool}: {killed:?}");

        // Not a multiple of any block, and nothing that repeats within one.
        let sent: Vec<u8> =
            (0..10_000_019_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let echoed = output(&mut command(&["exec", "-i", "shell", "--", "cat"]), &sent)?;
        ensure!(echoed.status.success(), "{tool}: {}", text(&echoed.stderr));
        ensure!(echoed.stdout == sent, "{tool}: {} of {} bytes came back", echoed.stdout.len(), sent.len());

        let missing = output(&mut command(&["exec", "shell", "--", "no-such-program"]), b"")?;
        let said = text(&missing.stderr);
        ensure!(!missing.status.success() && said.contains("executable file not found"), "{tool}: {said}");
        let nowhere = output(&mut command(&["exec", "no-such-pod", "--", "sh"]), b"")?;
        ensure!(text(&nowhere.stderr).contains("pods \"no-such-pod\" not found"), "{tool}: {nowhere:?}");
        let wrong = output(&mut command(&["exec", "-c", "other", "shell", "--", "sh"]), b"")?;
        ensure!(
            text(&wrong.stderr).contains("container other is not valid for pod shell"),
            "{tool}: {wrong:?}"
        );
    }
    Ok(())
}

#[test]
fn a_terminal_is_handed_through() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("tty", 1, Store::Embedded)?;
    cluster.apply(&with_shell("shell", ""))?;
    ready(&cluster, "shell")?;
    let weir = xtask::build::binaries().join("weir");
    let kubeconfig = cluster.layout.kubeconfig();
    for tool in [weir.as_path(), Path::new("kubectl")] {
        // script(1) gives the tool a terminal of its own.
        let line = format!(
            "stty rows 33 cols 111; {} --kubeconfig {} exec -it shell -- sh -c 'tty; stty size; exit 5'",
            tool.display(),
            kubeconfig.display()
        );
        let ended = output(Command::new("script").args(["-qec", &line, "/dev/null"]), b"")?;
        let said = text(&ended.stdout);
        ensure!(said.contains("/dev/pts/0"), "{}: {said}", tool.display());
        ensure!(ended.status.code() == Some(5), "{}: {ended:?}", tool.display());
        // kubectl tells the size after the command has begun.
        ensure!(tool == Path::new("kubectl") || said.contains("33 111"), "{said}");
    }
    Ok(())
}

#[test]
fn who_leaves_is_missed() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("leave", 1, Store::Embedded)?;
    cluster.apply(&with_shell("shell", ""))?;
    ready(&cluster, "shell")?;

    // The client is killed: so is the command.
    for mut command in [
        cluster::weir(&cluster.layout, &["exec", "-i", "shell", "--", "sleep", "3001"]),
        kubectl(&cluster, &["exec", "-i", "shell", "--", "sleep", "3001"]),
    ] {
        let client = Running::start(&mut command)?;
        wait_for_processes(&cluster, "sleep 3001", 1)?;
        drop(client);
        wait_for_processes(&cluster, "sleep 3001", 0)?;
    }

    // The agent is killed: the client is told, and the command is ended too.
    let mut client =
        Running::start(&mut cluster::weir(&cluster.layout, &["exec", "shell", "--", "sleep", "3002"]))?;
    wait_for_processes(&cluster, "sleep 3002", 1)?;
    for pid in cluster.processes(&["weir-agent"])? {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    let status = wait::until("the client's end", PATIENCE, || client.0.try_wait()?.context("it goes on"))?;
    let mut said = String::new();
    client.0.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    ensure!(!status.success() && said.contains("agent of node \"node-1\""), "{status}: {said}");
    wait_for_processes(&cluster, "sleep 3002", 0)?;
    cluster::restart_agent(&cluster.layout, "node-1")?;
    wait::until("a session with the next agent", PATIENCE, || {
        cluster
            .weir(&["exec", "shell", "--", "sh", "-c", "echo back"])
            .and_then(|said| if said == "back\n" { Ok(()) } else { bail!("{said}") })
    })
}

#[test]
fn usage_is_shown_and_a_silent_node_is_named() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("top", 2, Store::Embedded)?;
    cluster.apply(&with_shell("shell", "  nodeName: node-1\n"))?;
    ready(&cluster, "shell")?;
    let words = |text: &str, name: &str| -> Result<Vec<String>> {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .with_context(|| format!("no {name} in {text}"))?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    };
    let found = wait::until("the pod's figures", PATIENCE, || {
        let found = words(&cluster.weir(&["top", "pods"])?, "shell")?;
        ensure!(!found.contains(&"<unknown>".to_owned()), "{found:?}");
        Ok(found)
    })?;
    ensure!(found[1].ends_with('m') && found[2].ends_with("Mi"), "{found:?}");
    let containers = cluster.weir(&["top", "pods", "--containers"])?;
    ensure!(words(&containers, "shell")?[1] == "main", "{containers}");
    let nodes = cluster.weir(&["top", "nodes"])?;
    ensure!(words(&nodes, "node-2")?.len() == 5, "{nodes}");

    let by_kubectl = wait::until("kubectl's figures", PATIENCE, || {
        let ended = output(&mut kubectl(&cluster, &["top", "pods"]), b"")?;
        ensure!(ended.status.success(), "{}", text(&ended.stderr));
        Ok(text(&ended.stdout))
    })?;
    ensure!(words(&by_kubectl, "shell")?.len() == 3, "{by_kubectl}");
    let by_kubectl = output(&mut kubectl(&cluster, &["top", "nodes"]), b"")?;
    ensure!(words(&text(&by_kubectl.stdout), "node-1")?.len() == 5, "{by_kubectl:?}");

    for pid in cluster.processes(&["weir-agent"])? {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    cluster::restart_agent(&cluster.layout, "node-1")?;
    let shown = wait::until("what is left", PATIENCE, || {
        let ended = output(&mut cluster::weir(&cluster.layout, &["top", "nodes"]), b"")?;
        let shown = text(&ended.stdout);
        ensure!(!words(&shown, "node-1")?.contains(&"<unknown>".to_owned()), "{shown}");
        ensure!(!ended.status.success(), "it is no failure");
        Ok(format!("{shown}{}", text(&ended.stderr)))
    })?;
    ensure!(words(&shown, "node-2")?[1] == "<unknown>" && shown.contains("node node-2:"), "{shown}");
    Ok(())
}

#[test]
fn files_are_copied_in_and_out() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("cp", 1, Store::Embedded)?;
    cluster.apply(&with_shell("shell", ""))?;
    ready(&cluster, "shell")?;
    let here = cluster.layout.directory.join("copied");
    fs::create_dir_all(here.join("sub"))?;
    fs::write(here.join("sub/file"), "text\n")?;
    fs::write(here.join("large"), vec![b'x'; 3_000_001])?;
    let path = |path: &Path| path.to_str().map(str::to_owned).context("the path is not UTF-8");
    cluster.weir(&["cp", &path(&here)?, "shell:/data"])?;
    let said = cluster.weir(&[
        "exec",
        "shell",
        "--",
        "sh",
        "-c",
        "cat /data/copied/sub/file; wc -c < /data/copied/large",
    ])?;
    ensure!(said == "text\n3000001\n", "{said}");
    cluster.weir(&["cp", &path(&here.join("sub/file"))?, "default/shell:/data/renamed"])?;
    let back = cluster.layout.directory.join("back");
    cluster.weir(&["cp", "shell:/data/copied", &path(&back)?])?;
    ensure!(fs::read(back.join("large"))? == fs::read(here.join("large"))?);
    cluster.weir(&["cp", "shell:/data/renamed", &path(&back)?])?;
    ensure!(fs::read_to_string(back.join("renamed"))? == "text\n");
    let missing = output(&mut cluster::weir(&cluster.layout, &["cp", "shell:/data/none", "/tmp/none"]), b"")?;
    ensure!(
        !missing.status.success()
            && text(&missing.stderr).contains("/data/none".trim_start_matches("/data/"))
    );
    ensure!(!Path::new("/tmp/none").exists());
    Ok(())
}

/// Connections, one after the other.
const MANY: usize = 300;

#[test]
fn ports_are_forwarded_into_pods() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("forward", 2, Store::Embedded)?;
    cluster.apply(&with_shell("shell", ""))?;
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: shell }\nspec:\n  selector: { app: shell }\n  \
         ports: [{ port: 80, targetPort: http }]\n",
    )?;
    ready(&cluster, "shell")?;
    let weir = |arguments: &[&str]| cluster::weir(&cluster.layout, arguments);
    let kubectl = |arguments: &[&str]| kubectl(&cluster, arguments);
    let tools: [Tool<'_>; 2] = [&weir, &kubectl];
    let _server =
        Running::start(&mut weir(&["exec", "shell", "--", "nc", "-ll", "-p", "9001", "-e", "cat"]))?;
    for tool in tools {
        let forward = Forward::by(&mut tool(&["port-forward", "shell", ":9001"]))?;
        wait::until("all that was sent comes back", PATIENCE, || forward.there_and_back(32 * 1024 * 1024))?;
        for (target, port) in [("shell", ":8080"), ("svc/shell", ":80")] {
            let forward = Forward::by(&mut tool(&["port-forward", target, port]))?;
            ensure!(forward.remote == 8080, "{forward:?}");
            std::thread::scope(|scope| -> Result<()> {
                let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| forward.request())).collect();
                for asked in asking {
                    let answer = asked.join().map_err(|_| anyhow::anyhow!("a panic"))??;
                    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                }
                Ok(())
            })?;
            // More than may be open at a time: each is over when it is over.
            for _ in 0..MANY {
                forward.request()?;
            }
        }
        let forward = Forward::by(&mut tool(&["port-forward", "shell", ":9"]))?;
        ensure!(forward.request().unwrap_or_default().is_empty());
        let refused = forward.complaint()?;
        ensure!(refused.contains("refused"), "{refused}");
    }
    Ok(())
}

#[test]
fn what_runs_already_can_be_attached_to() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("attach", 1, Store::Embedded)?;
    let command = "    command: [sh, -c, \"while read word; do echo got $word; done; echo over\"]\n    stdin: true\n    stdinOnce: true\n  restartPolicy: Never\n";
    let manifest = with_shell("reader", command).replace("    args: [serve, --port, \"8080\"]\n", "");
    cluster.apply(&manifest)?;
    ready(&cluster, "reader")?;
    let ended = output(&mut cluster::weir(&cluster.layout, &["attach", "-i", "reader"]), b"one\ntwo\n")?;
    ensure!(ended.status.success() && text(&ended.stdout) == "got one\ngot two\nover\n", "{ended:?}");
    let logs = cluster.weir(&["logs", "reader"])?;
    ensure!(logs == "got one\ngot two\nover\n", "{logs}");
    Ok(())
}
