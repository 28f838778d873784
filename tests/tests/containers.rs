//! Containers as their users meet them: looked into while they run, sharing processes, started and stopped with hooks, and
//! what the pod says when one cannot be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, items};
use weir_tests::{images, require, wait};
use xtask::cluster::Store;

const BUSYBOX: &str = "weir.test/busybox:1";

fn up(name: &str) -> Result<Option<Cluster>> {
    if !require::cluster() {
        return Ok(None);
    }
    let cluster = Cluster::up(name, 1, Store::Embedded)?;
    images::add_busybox(&cluster)?;
    Ok(Some(cluster))
}

/// A pod of busybox; `more` goes into its specification, `container` into its only container.
fn pod(name: &str, more: &str, container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {more} \
         containers: [{{name: main, image: '{BUSYBOX}', {container}}}]}}}}"
    )
}

fn ready(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"])?;
    Ok(())
}

fn fed(cluster: &Cluster, arguments: &[&str], input: &str) -> Result<(Option<i32>, String)> {
    let output = cluster.weir_fed(arguments, input)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

fn events(cluster: &Cluster, pod: &str) -> Result<String> {
    let events = cluster.get(&["events"])?;
    let of_pod = items(&events).filter(|event| event["involvedObject"]["name"] == pod);
    let lines: Vec<String> =
        of_pod.map(|event| format!("{} {}", event["reason"], event["message"])).collect();
    Ok(lines.join("\n"))
}

fn wait_for_event(cluster: &Cluster, pod: &str, word: &str) -> Result<()> {
    wait::until(&format!("an event of {pod} that says {word}"), PATIENCE, || {
        let events = events(cluster, pod)?;
        if events.contains(word) { Ok(()) } else { bail!("there are:\n{events}") }
    })
}

fn wait_for_file(path: &Path, word: &str) -> Result<String> {
    wait::until(&format!("{word} in {}", path.display()), PATIENCE, || {
        let text = fs::read_to_string(path)?;
        if text.contains(word) { Ok(text) } else { bail!("it holds {text:?}") }
    })
}

#[test]
fn a_running_pod_is_debugged_with_the_tools_of_another_image() -> Result<()> {
    let Some(cluster) = up("debug")? else { return Ok(()) };
    cluster.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 0, containers: \
         [{name: main, image: 'weir.dev/echo:0.1.0', args: [serve, --port, '8080']}]}}",
    )?;
    ready(&cluster, "web")?;

    // With the processes of the container that has no shell of its own.
    let script = "read word; echo got $word; tr '\\0' ' ' < /proc/1/cmdline; exit 3";
    let image = format!("--image={BUSYBOX}");
    let debug = ["debug", "web", "-i", &image, "--target=main", "-c", "look", "--profile=general", "--"];
    let (code, said) = fed(&cluster, &[&debug[..], &["sh", "-c", script]].concat(), "sesame\n")?;
    ensure!(code == Some(0) && said.contains("got sesame") && said.contains("/echo serve"), "{said}");
    let pod = cluster.wait_for(&["pod", "web"], |pod| {
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    })?;
    ensure!(pod["status"]["phase"] == "Running" && pod["spec"]["ephemeralContainers"][0]["name"] == "look");
    ensure!(cluster.weir(&["logs", "web", "-c", "look"])?.contains("got sesame"));
    let described = cluster.weir(&["describe", "pod", "web"])?;
    ensure!(described.contains("Ephemeral Containers:\n  look:"), "{described}");
    let (code, said) = fed(&cluster, &[&debug[..], &["true"]].concat(), "")?;
    ensure!(code != Some(0) && said.contains("is there already"), "{said}");

    // By kubectl too.
    let mut kubectl = Command::new("kubectl");
    kubectl.arg("--kubeconfig").arg(cluster.layout.kubeconfig());
    kubectl.args(["debug", "web", &image, "--target=main", "-c", "bykubectl", "--", "sleep", "1000"]);
    xtask::shell::output(&mut kubectl)?;
    cluster.wait_for(&["pod", "web"], |pod| {
        let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
        statuses.iter().any(|status| status["name"] == "bykubectl" && !status["state"]["running"].is_null())
    })?;
    let (code, said) =
        fed(&cluster, &["exec", "web", "-c", "bykubectl", "--", "sh", "-c", "ps; exit 4"], "")?;
    ensure!(code == Some(4) && said.contains("/echo serve") && said.contains("sleep 1000"), "{said}");

    // One whose image cannot be had says so, and disturbs nobody.
    cluster.weir(&["debug", "web", "--image=weir.test/nothing:1", "-c", "lost"])?;
    cluster.wait_for(&["pod", "web"], |pod| {
        let statuses = pod["status"]["ephemeralContainerStatuses"].to_string();
        statuses.contains("weir.test/nothing:1") && statuses.contains("Pull")
    })?;
    let pod = cluster.get(&["pod", "web"])?;
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0);
    ensure!(pod["status"]["containerStatuses"][0]["ready"] == true);
    cluster.weir(&["delete", "pod", "web", "--timeout=60s"])?;
    Ok(())
}

#[test]
fn containers_that_share_processes_outlive_each_other() -> Result<()> {
    let Some(cluster) = up("processes")? else { return Ok(()) };
    let second = format!("{{name: second, image: '{BUSYBOX}', command: [sleep, '2468']}}, ");
    let manifest = pod("both", "shareProcessNamespace: true,", "command: [sleep, '1357']");
    cluster.apply(&manifest.replace("containers: [", &format!("containers: [{second}")))?;
    ready(&cluster, "both")?;
    let (_, said) = fed(&cluster, &["exec", "both", "-c", "main", "--", "ps"], "")?;
    ensure!(said.contains("sleep 2468") && said.contains("sleep 1357"), "{said}");
    let script = "kill -9 $(ps | grep '[s]leep 2468' | sed 's/^ *//; s/ .*//')";
    fed(&cluster, &["exec", "both", "-c", "main", "--", "sh", "-c", script], "")?;
    let restarts = |pod: &Value, name: &str| {
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let found = statuses.into_iter().find(|status| status["name"] == name);
        let running = found.as_ref().is_some_and(|status| !status["state"]["running"].is_null());
        found.filter(|_| running).and_then(|status| status["restartCount"].as_i64())
    };
    let pod = cluster.wait_for(&["pod", "both"], |pod| restarts(pod, "second") == Some(1))?;
    ensure!(restarts(&pod, "main") == Some(0), "{pod}");
    let address = pod["status"]["podIP"].clone();

    // With the first process of the namespace everything in it dies. The pod comes back where it was.
    kill(Pid::from_raw(pause_of(&cluster)?), Signal::SIGKILL)?;
    let again = |pod: &Value| {
        restarts(pod, "main").is_some_and(|count| count > 0) && restarts(pod, "second") > Some(1)
    };
    let pod = cluster.wait_for(&["pod", "both"], again)?;
    ensure!(pod["status"]["podIP"] == address, "{pod}");
    let (_, said) = fed(&cluster, &["exec", "both", "-c", "main", "--", "ps"], "")?;
    ensure!(said.contains("sleep 2468") && said.contains("sleep 1357"), "{said}");
    cluster.weir(&["delete", "pod", "both", "--timeout=60s"])?;
    ensure!(pause_of(&cluster).is_err(), "the first process is still there");
    Ok(())
}

fn pause_of(cluster: &Cluster) -> Result<i32> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let ours = read("cgroup").contains(&format!("/{}/", cluster.layout.name));
        if ours && read("comm").trim() == "pause" && !read("status").contains("State:\tZ") {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    bail!("no process is called pause")
}

#[test]
fn hooks_run_in_order_and_within_the_grace_period() -> Result<()> {
    let Some(cluster) = up("hooks")? else { return Ok(()) };
    let out = cluster.layout.directory.join("out");
    fs::create_dir(&out)?;
    let mounted = |name: &str, seconds: u32, container: &str| {
        let volume = format!("volumes: [{{name: out, hostPath: {{path: '{}'}}}}],", out.display());
        pod(name, &volume, &format!("volumeMounts: [{{name: out, mountPath: /out}}], {container}"))
            .replace("GracePeriodSeconds: 1,", &format!("GracePeriodSeconds: {seconds},"))
    };
    let says = |word: &str| format!("{{exec: {{command: [sh, -c, 'echo {word} >> /out/order']}}}}");
    let loops = "while :; do sleep 0.05; done";
    cluster.apply(&mounted(
        "polite",
        30,
        &format!(
            "lifecycle: {{postStart: {}, preStop: {}}}, \
             command: [sh, -c, \"trap 'echo term >> /out/order; exit 0' TERM; {loops}\"]",
            says("started"),
            says("stopping")
        ),
    ))?;
    ready(&cluster, "polite")?;
    let begun = Instant::now();
    cluster.weir(&["delete", "pod", "polite", "--timeout=60s"])?;
    ensure!(begun.elapsed().as_secs() < 25, "the grace period was waited out");
    ensure!(fs::read_to_string(out.join("order"))? == "started\nstopping\nterm\n");

    // preStop takes its time from the grace period; whoever ignores the signal is killed at its end, to the second.
    let deaf = "trap 'read at rest < /proc/uptime; echo $at > /out/term' TERM; \
                while :; do read now rest < /proc/uptime; echo $now >> /out/alive; sleep 0.02; done";
    cluster.apply(&mounted("deaf", 2, &format!("command: [sh, -c, \"{deaf}\"]")))?;
    let hook = "lifecycle: {preStop: {sleep: {seconds: 2}}, stopSignal: SIGUSR1}, ";
    let signalled = format!("trap 'echo usr1 > /out/signal' USR1; echo up > /out/up; {loops}");
    let slow = mounted("slow", 5, &format!("{hook} command: [sh, -c, \"{signalled}\"]"));
    cluster.apply(&slow.replace("spec: {", "spec: {os: {name: linux}, "))?;
    wait_for_file(&out.join("alive"), ".")?;
    wait_for_file(&out.join("up"), "up")?;
    cluster.weir(&["delete", "pod", "deaf", "--timeout=60s"])?;
    let seconds = |file: &str| -> Result<f64> {
        let text = fs::read_to_string(out.join(file))?;
        Ok(text.lines().last().context("it never said when")?.parse()?)
    };
    let lived = seconds("alive")? - seconds("term")?;
    // It lives whole two seconds and then no more than the kill takes; its own clock ticks every few hundredths.
    ensure!((1.8..4.0).contains(&lived), "it lived for {lived} s after SIGTERM");
    let begun = Instant::now();
    cluster.weir(&["delete", "pod", "slow", "--timeout=60s"])?;
    let took = begun.elapsed().as_secs_f64();
    ensure!((4.9..15.0).contains(&took), "gone after {took} s");
    ensure!(fs::read_to_string(out.join("signal"))? == "usr1\n");

    // A failed postStart ends the container, which restarts by its policy.
    cluster.apply(&pod(
        "failing",
        "",
        &format!("lifecycle: {{postStart: {{exec: {{command: ['false']}}}}}}, command: [sh, -c, '{loops}']"),
    ))?;
    wait_for_event(&cluster, "failing", "FailedPostStartHook")?;
    cluster.wait_for(&["pod", "failing"], |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_i64().is_some_and(|count| count > 0)
    })?;
    // A hook by HTTP, against the container's own server.
    let served = "command: [sh, -c, 'mkdir /www; echo ok > /www/hook; exec httpd -f -p 8080 -h /www']";
    let asks =
        |path: &str| format!("lifecycle: {{postStart: {{httpGet: {{port: 8080, path: {path}}}}}}}, {served}");
    cluster.apply(&pod("unanswered", "restartPolicy: Never,", &asks("/nothing")))?;
    wait_for_event(&cluster, "unanswered", "FailedPostStartHook")?;
    Ok(())
}

#[test]
fn hooks_by_http_and_hooks_that_sleep_are_waited_for() -> Result<()> {
    let Some(cluster) = up("hooked")? else { return Ok(()) };
    // Every server here writes down who asked it for what.
    let out = cluster.layout.directory.join("out");
    let script = out.join("www/cgi-bin/hook");
    fs::create_dir_all(script.parent().context("a parent")?)?;
    let note = "echo $REQUEST_METHOD $REQUEST_URI $HTTP_HOST $HTTP_USER_AGENT >> /out/order";
    fs::write(&script, format!("#!/bin/sh\n{note}\nprintf 'Content-Type: text/plain\\r\\n\\r\\nok\\n'\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let order = || Ok::<_, anyhow::Error>(fs::read_to_string(out.join("order"))?);
    let server = |name: &str, more: &str, lifecycle: &str| {
        let volume = format!("{more} volumes: [{{name: out, hostPath: {{path: '{}'}}}}],", out.display());
        let serve = format!(
            "read at rest < /proc/uptime; echo $at > /out/{name}-up; httpd -p 8080 -h /out/www; \
             trap 'echo {name} ends >> /out/order; exit 0' TERM; while :; do sleep 0.05; done"
        );
        let container = format!(
            "volumeMounts: [{{name: out, mountPath: /out}}], command: [sh, -c, \"{serve}\"], \
             ports: [{{name: web, containerPort: 8080}}], {lifecycle}"
        );
        pod(name, &volume, &container)
    };
    cluster.apply(&server("door", "", ""))?;
    ready(&cluster, "door")?;
    let door = cluster.get(&["pod", "door"])?["status"]["podIP"].as_str().context("no address")?.to_owned();

    // The first goes to another host, the second to the container's own server; both by the port's name.
    let headers = "{name: User-Agent, value: guest-hook}";
    let hooks = format!(
        "lifecycle: {{postStart: {{httpGet: {{host: {door}, port: web, path: '/cgi-bin/hook?when=start', \
         httpHeaders: [{headers}]}}}}, preStop: {{httpGet: {{port: web, path: '/cgi-bin/hook?when=stop', \
         httpHeaders: [{headers}, {{name: Host, value: guest.example}}]}}}}}}"
    );
    cluster
        .apply(&server("guest", "", &hooks).replace("GracePeriodSeconds: 1,", "GracePeriodSeconds: 30,"))?;
    ready(&cluster, "guest")?;
    let started = format!("GET /cgi-bin/hook?when=start {door}:8080 guest-hook\n");
    ensure!(order()? == started, "{}", order()?);
    cluster.weir(&["delete", "pod", "guest", "--timeout=60s"])?;
    let stopped = "GET /cgi-bin/hook?when=stop guest.example guest-hook\nguest ends\n";
    ensure!(order()? == started + stopped, "{}", order()?);
    let told = events(&cluster, "guest")?;
    ensure!(!told.contains("Hook"), "{told}");

    // A sleep after the start keeps the pod from being ready; one before the end is cut off with the grace period.
    let sleeps = "lifecycle: {postStart: {sleep: {seconds: 3}}, preStop: {sleep: {seconds: 600}}}";
    cluster
        .apply(&server("sleepy", "", sleeps).replace("GracePeriodSeconds: 1,", "GracePeriodSeconds: 3,"))?;
    ready(&cluster, "sleepy")?;
    let seconds =
        |text: &str| -> Result<f64> { Ok(text.split(' ').next().unwrap_or_default().trim().parse()?) };
    let up = seconds(&fs::read_to_string(out.join("sleepy-up"))?)?;
    let slept = seconds(&fs::read_to_string("/proc/uptime")?)? - up;
    ensure!(slept > 2.0, "ready {slept} s after the start");
    let begun = Instant::now();
    cluster.weir(&["delete", "pod", "sleepy", "--timeout=60s"])?;
    let took = begun.elapsed().as_secs_f64();
    ensure!((2.9..30.0).contains(&took), "gone after {took} s");
    wait_for_event(&cluster, "sleepy", "FailedPreStopHook")
}

#[test]
fn what_cannot_run_is_said_in_kubernetes_words() -> Result<()> {
    let Some(cluster) = up("words")? else { return Ok(()) };
    // A program that is not there: the policy decides what comes next.
    cluster.apply(&pod("never", "restartPolicy: Never,", "command: [/no/such/program]"))?;
    cluster.apply(&pod("always", "", "command: [/no/such/program]"))?;
    let failed = cluster.wait_for(&["pod", "never"], |pod| pod["status"]["phase"] == "Failed")?;
    let end = &failed["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(end["exitCode"] == 128 && end["reason"] == "StartError", "{end}");
    ensure!(end["message"].as_str().is_some_and(|said| said.contains("/no/such/program")), "{end}");
    cluster.wait_for(&["pod", "always"], |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status["lastState"]["terminated"]["reason"] == "StartError"
            && status["restartCount"] == 1
    })?;

    // What the node does not take fails at once, with the reason.
    let sysctl = |name: &str| format!("securityContext: {{sysctls: [{{name: {name}, value: '1'}}]}},");
    let refused = [
        ("sysctl", sysctl("kernel.msgmax"), "SysctlForbidden", "kernel.msgmax"),
        (
            "apparmor",
            "securityContext: {appArmorProfile: {type: RuntimeDefault}},".to_owned(),
            "AppArmor",
            "Cannot enforce AppArmor",
        ),
    ];
    for (name, more, reason, word) in refused {
        cluster.apply(&pod(name, &more, "command: [sleep, '1000']"))?;
        let pod = cluster.wait_for(&["pod", name], |pod| pod["status"]["phase"] == "Failed")?;
        let status = &pod["status"];
        ensure!(status["reason"] == reason && status["message"].to_string().contains(word), "{status}");
        cluster.weir(&["delete", "pod", name, "--timeout=60s"])?;
    }
    cluster.apply(&pod("safe", &sysctl("net.ipv4.tcp_syncookies"), "command: [sleep, '1000']"))?;
    ready(&cluster, "safe")?;

    let waiting = [
        (
            "root",
            "securityContext: {runAsNonRoot: true},",
            "container has runAsNonRoot and image will run as root",
        ),
        (
            "profile",
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}},",
            "none.json",
        ),
    ];
    for (name, more, word) in waiting {
        cluster.apply(&pod(name, more, "command: [sleep, '1000']"))?;
        let pod = cluster.wait_for(&["pod", name], |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        })?;
        let said = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
        ensure!(said.contains(word), "{said}");
    }
    let users = cluster.apply(&pod("users", "hostUsers: false,", "command: [sleep, '1000']"))?;
    ensure!(users.contains("hostUsers: not supported yet"), "{users}");
    wait_for_event(&cluster, "users", "spec.hostUsers: false is not supported yet")?;

    // Huge pages are counted by the scheduler, against what the node has set aside.
    let node = cluster.get(&["node", "node-1"])?;
    let capacity = &node["status"]["capacity"];
    ensure!(capacity["hugepages-2Mi"].as_str().is_some(), "{capacity}");
    let pages = "resources: {limits: {hugepages-2Mi: 1Ti, memory: 8Mi}}, command: [sleep, '1000']";
    cluster.apply(&pod("pages", "", pages))?;
    wait_for_event(&cluster, "pages", "Insufficient hugepages-2Mi")?;
    let half = cluster.weir_fed(&["apply", "-f", "-"], &pod("half", "", &pages.replace("1Ti", "3Mi")))?;
    let said = String::from_utf8_lossy(&half.stderr).into_owned();
    ensure!(said.contains("must be a positive integer multiple of page size"), "{said}");
    Ok(())
}

#[test]
fn a_terminal_is_a_console_and_groups_are_as_the_policy_says() -> Result<()> {
    let Some(cluster) = up("groups")? else { return Ok(()) };
    let context = |policy: &str| {
        format!(
            "restartPolicy: Never, securityContext: {{runAsUser: 101, supplementalGroups: [2000], fsGroup: 3000, \
             supplementalGroupsPolicy: {policy}}},"
        )
    };
    for (name, policy, groups) in
        [("merge", "Merge", "102 4 2000 3000"), ("strict", "Strict", "102 2000 3000")]
    {
        let script = "tty: true, command: [sh, -c, 'id -G; echo console > /dev/console']";
        cluster.apply(&pod(name, &context(policy), script))?;
        cluster.wait_for(&["pod", name], |pod| pod["status"]["phase"] == "Succeeded")?;
        let log = cluster.weir(&["logs", name])?.replace('\r', "");
        ensure!(log == format!("{groups}\nconsole\n"), "{policy}: {log}");
    }
    let pod = cluster.get(&["pod", "strict"])?;
    let end = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64();
    ensure!(end.context("an exit code")? == 0);
    Ok(())
}
