//! Volumes and environment of pods, in whole clusters: what follows its objects, what is limited, what is refused and how.

use anyhow::{Context, Result, bail, ensure};
use weir_tests::cluster::{Cluster, PATIENCE};
use weir_tests::{require, wait};
use xtask::cluster::Store;

/// A pod of the demo's image with a shell: the node's busybox under the names of a few of its programs. `script` is its
/// main container's; `volumes` and `mounts` are added to those.
fn pod(name: &str, script: &str, volumes: &str, mounts: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {{ name: busybox, hostPath: {{ path: /usr/bin/busybox, type: File }} }}
{volumes}{more}
  containers:
  - name: main
    image: weir.dev/echo:0.1.0
    command: [sh, -c, {script:?}]
    volumeMounts:
    {busybox}
{mounts}",
        busybox = busybox()
    )
}

fn busybox() -> String {
    let programs = ["sh", "cat", "ls", "sleep", "head", "ln", "mkdir", "touch", "env", "id", "mount", "sort"];
    let mount =
        |program: &&str| format!("- {{ name: busybox, mountPath: /bin/{program}, readOnly: true }}\n    ");
    programs.iter().map(mount).collect()
}

fn ready(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=120s"])?;
    Ok(())
}

fn in_pod(cluster: &Cluster, pod: &str, script: &str) -> Result<String> {
    cluster.weir(&["exec", pod, "-c", "main", "--", "sh", "-c", script])
}

fn wait_in_pod(cluster: &Cluster, pod: &str, script: &str, wanted: &str) -> Result<()> {
    wait::until(&format!("{script}: {wanted:?}"), PATIENCE, || {
        let said = in_pod(cluster, pod, script)?;
        ensure!(said.trim() == wanted, "it says {said:?}");
        Ok(())
    })
}

/// Waits for an event of the pod, or a state or condition, that holds all words.
fn told(cluster: &Cluster, pod: &str, words: &[&str]) -> Result<()> {
    wait::until(&format!("weir describe pod {pod}: {words:?}"), PATIENCE, || {
        let text = cluster.weir(&["describe", "pod", pod])?;
        let events = text.split_once("Events:").context("no events")?.1;
        ensure!(words.iter().all(|word| events.contains(word)), "no such event:\n{text}");
        let status = cluster.get(&["pod", pod])?["status"].to_string();
        let last = words.last().context("a word")?;
        ensure!(status.contains(&last.replace('"', "\\\"")), "no such condition or state: {status}");
        Ok(())
    })
}

fn config_map(name: &str, value: &str) -> String {
    let long = value.repeat(2000);
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ number: '{value}', a: '{long}', b: '{long}' }}\n"
    )
}

#[test]
fn what_volumes_show_follows_the_objects_and_a_reader_sees_one_moment() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("shows", 1, Store::Embedded)?;
    cluster.apply(&config_map("numbers", "0"))?;
    // Says when what it reads is not all of one moment.
    let script = "while true; do cd -P /all/..data || echo GONE; a=$(cat a) || echo MISSING; b=$(cat b) || echo MISSING; \
                  [ \"$a\" = \"$b\" ] || echo MIX; [ -n \"$a\" ] || echo EMPTY; [ -s /all/a ] || echo SHORT; cd /; done";
    let volumes = "  - { name: numbers, configMap: { name: numbers } }
  - { name: later, secret: { secretName: later, optional: true } }
  - name: all
    projected:
      sources:
      - { configMap: { name: numbers } }
      - { downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] } }
";
    let mounts = "    - { name: numbers, mountPath: /numbers }
    - { name: later, mountPath: /later }
    - { name: all, mountPath: /all }
    - { name: numbers, mountPath: /part, subPath: number }
";
    cluster.apply(&pod("reader", script, volumes, mounts, ""))?;
    ready(&cluster, "reader")?;
    for number in 1..=6 {
        cluster.apply(&config_map("numbers", &number.to_string()))?;
        wait_in_pod(&cluster, "reader", "cat /all/number /numbers/number", &format!("{number}{number}"))?;
    }
    // A part of a volume stays what it was, as in Kubernetes.
    ensure!(in_pod(&cluster, "reader", "cat /part")? == "0");

    // What is optional may come and go.
    ensure!(in_pod(&cluster, "reader", "ls /later")?.is_empty());
    let secret =
        "apiVersion: v1\nkind: Secret\nmetadata: { name: later }\nstringData: { password: hidden }\n";
    cluster.apply(secret)?;
    wait_in_pod(&cluster, "reader", "cat /later/password", "hidden")?;
    ensure!(in_pod(&cluster, "reader", "mount | sort")?.contains("tmpfs on /later type tmpfs"));
    cluster.weir(&["delete", "secret", "later"])?;
    wait_in_pod(&cluster, "reader", "ls /later", "")?;

    // What is not stays shown as it was last, and the pod is told of it.
    cluster.weir(&["delete", "configmap", "numbers"])?;
    cluster.weir(&["label", "pod", "reader", "tier=gold"])?;
    wait::until("an event", PATIENCE, || {
        let text = cluster.weir(&["describe", "pod", "reader"])?;
        ensure!(text.contains("configmap \"numbers\" not found"), "{text}");
        Ok(())
    })?;
    ensure!(in_pod(&cluster, "reader", "cat /numbers/number /all/number")? == "66");
    // The next agent goes on where the last one was killed.
    for pid in cluster.processes(&["weir-agent"])? {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    }
    cluster.apply(&config_map("numbers", "7"))?;
    xtask::cluster::restart_agent(&cluster.layout, "node-1")?;
    wait_in_pod(&cluster, "reader", "cat /all/number /numbers/number", "77")?;
    wait::until("labels", PATIENCE, || {
        let labels = in_pod(&cluster, "reader", "cat /all/labels")?;
        ensure!(labels.contains("tier=\"gold\""), "{labels}");
        Ok(())
    })?;
    let logs = cluster.weir(&["logs", "reader"])?;
    ensure!(logs.is_empty(), "the reader saw: {}", &logs[..logs.len().min(200)]);
    Ok(())
}

#[test]
fn a_container_finds_its_environment_its_parts_of_volumes_and_the_files_of_an_image() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("env", 1, Store::Embedded)?;
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: web-front }\nspec: { clusterIP: 10.96.7.7, ports: [{ port: 80 }] }\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: map }\ndata: { colour: blue }\n",
    )?;
    let volumes = "  - { name: data, emptyDir: {} }
  - { name: fast, emptyDir: { medium: Memory, sizeLimit: 1Mi } }
  - { name: tools, image: { reference: 'weir.dev/echo:0.1.0' } }
";
    let init = format!(
        "  securityContext: {{ fsGroup: 2000 }}
  hostAliases: [{{ ip: 192.0.2.5, hostnames: [alias.example] }}]
  initContainers:
  - name: first
    image: weir.dev/echo:0.1.0
    command: [sh, -c, 'echo \"FROM_FILE = written\" > /data/env; mkdir /data/logs']
    volumeMounts:
    {busybox}
    - {{ name: data, mountPath: /data }}
",
        busybox = busybox()
    );
    let mounts = "    - { name: data, mountPath: /data }
    - { name: data, mountPath: /own, subPathExpr: logs/$(POD) }
    - { name: fast, mountPath: /fast }
    - { name: tools, mountPath: /tools }
    env:
    - { name: POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
    - { name: HOST, valueFrom: { fieldRef: { fieldPath: status.hostIPs } } }
    - { name: APP, valueFrom: { fieldRef: { fieldPath: \"metadata.labels['app']\" } } }
    - { name: MEMORY, valueFrom: { resourceFieldRef: { resource: limits.memory, divisor: 1Mi } } }
    - { name: COLOUR, valueFrom: { configMapKeyRef: { name: map, key: colour } } }
    - { name: NONE, valueFrom: { secretKeyRef: { name: none, key: none, optional: true } } }
    - { name: FROM_FILE, valueFrom: { fileKeyRef: { volumeName: data, path: env, key: FROM_FILE } } }
    - { name: ALL, value: '$(POD)-$(COLOUR)-$(WEB_FRONT_SERVICE_HOST)-$$(POD)-$(NONE)' }
    envFrom: [{ prefix: P_, configMapRef: { name: map } }]
    resources: { limits: { memory: 64Mi } }
";
    cluster.apply(&pod("full", "echo up > /own/file; sleep 100000", volumes, mounts, &init))?;
    ready(&cluster, "full")?;
    let env = in_pod(&cluster, "full", "env | sort")?;
    let host = cluster.layout.address_of("node-1");
    for line in [
        "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        "WEB_FRONT_SERVICE_HOST=10.96.7.7",
        "WEB_FRONT_PORT_80_TCP=tcp://10.96.7.7:80",
        "POD=full",
        &format!("HOST={host}"),
        "APP=full",
        "MEMORY=64",
        "COLOUR=blue",
        "P_colour=blue",
        "FROM_FILE=written",
        "ALL=full-blue-10.96.7.7-$(POD)-$(NONE)",
    ] {
        ensure!(env.lines().any(|found| found == line), "no {line} in\n{env}");
    }
    ensure!(!env.lines().any(|line| line.starts_with("NONE=")), "{env}");
    ensure!(in_pod(&cluster, "full", "cat /data/logs/full/file")? == "up\n");
    let full = "head -c 3000000 /dev/zero > /fast/file; [ -s /fast/file ] && ls -l /fast/file || true";
    let written = in_pod(&cluster, "full", full)?;
    ensure!(written.contains(" 1048576 "), "memory is not limited: {written}");
    let group = in_pod(&cluster, "full", "ls -ldn /data /own")?;
    ensure!(group.lines().all(|line| line.split_whitespace().nth(3) == Some("2000")), "{group}");
    ensure!(in_pod(&cluster, "full", "ls /tools")?.contains("echo"));
    ensure!(in_pod(&cluster, "full", "touch /tools/x || echo fixed")?.contains("fixed"));
    let hosts = in_pod(&cluster, "full", "cat /etc/hosts")?;
    ensure!(hosts.starts_with("# Kubernetes-managed hosts file.\n"), "{hosts}");
    ensure!(hosts.contains("192.0.2.5\talias.example\n"), "{hosts}");

    // Nothing of it is left when the pod is gone.
    let mounted = || std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let state = cluster.layout.directory.display().to_string();
    cluster.weir(&["delete", "pod", "full"])?;
    wait::until("no mount of it", PATIENCE, || {
        let left: Vec<_> = mounted()
            .lines()
            .filter(|line| line.contains(&state) && line.contains("/pods/"))
            .map(str::to_owned)
            .collect();
        if left.is_empty() { Ok(()) } else { bail!("{}", left.join("\n")) }
    })
}

#[test]
fn who_writes_more_than_its_limits_is_evicted_with_kubernetes_words() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("limits", 1, Store::Embedded)?;
    let write = "head -c 3000000 /dev/zero > /data/file; sleep 100000";
    let mounts = "    - { name: data, mountPath: /data }\n";
    let limited = "  - { name: data, emptyDir: { sizeLimit: 1Mi } }\n";
    cluster.apply(&pod("volume", write, limited, mounts, ""))?;
    let limits = format!("{mounts}    resources: {{ limits: {{ ephemeral-storage: 2Mi }} }}\n");
    cluster.apply(&pod("whole", write, "  - { name: data, emptyDir: {} }\n", &limits, ""))?;
    // Within its limits, whatever the others do.
    let modest = "head -c 300000 /dev/zero > /data/file; sleep 100000";
    cluster.apply(&pod("modest", modest, limited, &limits, ""))?;
    for (name, message) in [
        ("volume", "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\"."),
        ("whole", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi."),
    ] {
        let pod = cluster.wait_for(&["pod", name], |pod| pod["status"]["phase"] == "Failed")?;
        let status = &pod["status"];
        ensure!(status["reason"] == "Evicted" && status["message"] == message, "{status}");
        told(&cluster, name, &["Evicted", message])?;
    }
    ready(&cluster, "modest")?;
    Ok(())
}

#[test]
fn a_volume_that_cannot_be_is_told_by_a_condition_and_an_event_that_say_what_to_do() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("wrong", 1, Store::Embedded)?;
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "claim",
            "persistentVolumeClaim: { claimName: c }",
            &[
                "FailedMount",
                "volume \"v\" : persistentVolumeClaim is not supported; this node offers emptyDir",
            ],
        ),
        ("nfs", "nfs: { server: s, path: /p }", &["FailedMount", "volume \"v\" : nfs is not supported"]),
        ("csi", "csi: { driver: d.example.com }", &["FailedMount", "volume \"v\" : csi is not supported"]),
        (
            "type",
            "hostPath: { path: /dev/null, type: Directory }",
            &["FailedMount", "hostPath type check failed: /dev/null is not a directory"],
        ),
        (
            "map",
            "configMap: { name: nowhere }",
            &["FailedMount", "configmap \"nowhere\" not found; make it, or set optional: true"],
        ),
        (
            "pages",
            "emptyDir: { medium: HugePages-3Mi }",
            &["FailedMount", "this node has no huge pages of size 3Mi"],
        ),
        (
            "image",
            "image: { reference: 'weir.dev/nothing:1', pullPolicy: Never }",
            &["ErrImageNeverPull", "weir.dev/nothing:1"],
        ),
    ];
    for (name, source, _) in cases {
        let volumes = format!("  - {{ name: v, {source} }}\n");
        let mounts = "    - { name: v, mountPath: /v }\n";
        // The scheduler has something against claims itself.
        cluster.apply(&pod(name, "sleep 100000", &volumes, mounts, "  nodeName: node-1\n"))?;
    }
    let init = format!(
        "  initContainers:
  - name: first
    image: weir.dev/echo:0.1.0
    command: [sh, -c, 'ln -s /etc /v/link']
    volumeMounts:
    {busybox}
    - {{ name: v, mountPath: /v }}
",
        busybox = busybox()
    );
    let out = "    - { name: v, mountPath: /out, subPath: link }\n";
    cluster.apply(&pod("out", "sleep 100000", "  - { name: v, emptyDir: {} }\n", out, &init))?;
    for (name, _, words) in cases {
        told(&cluster, name, words)?;
    }
    told(&cluster, "out", &["failed to prepare subPath for the volume mount at /out"])?;
    told(&cluster, "out", &["it leads out of the volume"])?;
    let pod_out = cluster.get(&["pod", "out"])?;
    let reason = &pod_out["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
    ensure!(reason == "CreateContainerConfigError", "{pod_out}");

    // What was missing comes, and the pod goes on by itself.
    cluster.apply(&config_map("nowhere", "1"))?;
    ready(&cluster, "map")?;

    // What is wrong by itself is refused at once.
    let mounts = "    - { name: v, mountPath: /v, mountPropagation: Bidirectional }\n";
    let manifest = pod("refused", "true", "  - { name: v, emptyDir: {} }\n", mounts, "");
    let refusal = cluster.weir_fed(&["apply", "-f", "-"], &manifest)?;
    let said = String::from_utf8_lossy(&refusal.stderr).into_owned();
    ensure!(!refusal.status.success() && said.contains("only to privileged containers"), "{said}");
    Ok(())
}
