//! A pod speaks to the API server as any in-cluster client does: by its mounted token, the authority's certificate beside
//! it, and the Service `kubernetes`.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE};
use weir_tests::{require, wait};
use xtask::cluster::{self, Store};

const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The demo's image with the node's programs under it: curl, and busybox' shell.
fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {{ name: usr, hostPath: {{ path: /usr, type: Directory }} }}
  - {{ name: lib, hostPath: {{ path: /usr/lib, type: Directory }} }}
  - {{ name: lib64, hostPath: {{ path: /usr/lib64, type: Directory }} }}
{more}
  containers:
  - name: main
    image: weir.dev/echo:0.1.0
    args: [serve, --port, \"8080\"]
    volumeMounts:
    - {{ name: usr, mountPath: /usr, readOnly: true }}
    - {{ name: lib, mountPath: /lib, readOnly: true }}
    - {{ name: lib64, mountPath: /lib64, readOnly: true }}
"
    )
}

fn run(cluster: &Cluster, pod: &str, script: &str) -> Result<String> {
    cluster.weir(&["exec", pod, "--", "/usr/bin/busybox", "sh", "-ec", script])
}

/// What a GET of a pod came to: the body, and the code behind it.
fn get(cluster: &Cluster, pod: &str, host: &str, path: &str) -> Result<(Value, u16)> {
    let script = format!(
        "/usr/bin/curl -sS --max-time 20 --cacert {MOUNTED}/ca.crt -H \"Authorization: Bearer $(cat {MOUNTED}/token)\" \
         --connect-to {host}:443:10.96.0.1:443 -w '\\n%{{http_code}}' https://{host}{path}"
    );
    let said = run(cluster, pod, &script.replace("$(cat", "$(/usr/bin/busybox cat"))?;
    let (body, code) = said.trim_end().rsplit_once('\n').context("no code")?;
    Ok((serde_json::from_str(body)?, code.parse()?))
}

#[test]
fn a_pod_speaks_to_the_api_server_as_its_account() -> Result<()> {
    if !require::cluster_and(&["/usr/bin/curl"]) {
        return Ok(());
    }
    let cluster = Cluster::up("tokens", 1, Store::Embedded)?;
    cluster.weir(&["create", "serviceaccount", "web"])?;
    cluster.apply(&pod("client", "  serviceAccountName: web"))?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?;
    let listed = run(&cluster, "client", &format!("/usr/bin/busybox ls {MOUNTED}"))?;
    ensure!(listed.split_whitespace().eq(["ca.crt", "namespace", "token"]), "{listed}");
    ensure!(run(&cluster, "client", &format!("/usr/bin/busybox cat {MOUNTED}/namespace"))? == "default");

    // The node's kernel may hear of the Service after the pod is ready.
    wait::until("the API server to answer", PATIENCE, || get(&cluster, "client", "10.96.0.1", "/version"))?;
    for host in ["kubernetes.default.svc", "kubernetes", "kubernetes.default.svc.cluster.local", "10.96.0.1"]
    {
        let (version, code) = get(&cluster, "client", host, "/version")?;
        ensure!(code == 200 && version["gitVersion"].is_string(), "{host}: {code} {version}");
    }
    let (said, code) = get(&cluster, "client", "kubernetes.default", "/api/v1/namespaces/default/pods")?;
    let message = said["message"].as_str().unwrap_or_default();
    ensure!(
        code == 403 && message.contains("User \"system:serviceaccount:default:web\" cannot list"),
        "{said}"
    );

    // As a person who was given a token.
    let token = cluster.weir(&["create", "token", "web"])?;
    let who = cluster.weir(&["auth", "whoami", "--token", token.trim(), "-o", "json"])?;
    let who: Value = serde_json::from_str(&who)?;
    ensure!(who["status"]["userInfo"]["username"] == "system:serviceaccount:default:web", "{who}");

    // With the pod its token goes, wherever it is shown.
    let token = run(&cluster, "client", &format!("/usr/bin/busybox cat {MOUNTED}/token"))?;
    cluster.weir(&["auth", "whoami", "--token", token.trim()])?;
    cluster.weir(&["delete", "pod", "client"])?;
    wait::until("the token to be refused", PATIENCE, || {
        match cluster.weir(&["auth", "whoami", "--token", token.trim()]) {
            Ok(who) => bail!("it still is {who}"),
            Err(error) => {
                ensure!(error.to_string().contains("Unauthorized"), "{error:#}");
                Ok(())
            }
        }
    })
}

#[test]
fn a_running_pods_token_is_replaced_whole_and_the_pod_goes_on_with_the_new_one() -> Result<()> {
    if !require::cluster_and(&["/usr/bin/curl"]) {
        return Ok(());
    }
    let cluster = Cluster::up("renewal", 1, Store::Embedded)?;
    // It reads without a pause, and tells of each token that it sees.
    let reads = format!(
        "while :; do now=$(/usr/bin/busybox cat {MOUNTED}/token) || echo missing; case $now in *.*.*) ;; *) echo broken;; esac; \
         test \\\"$now\\\" = \\\"$last\\\" || echo new; last=$now; done"
    );
    let reader = format!(
        "  initContainers:
  - name: reader
    image: weir.dev/echo:0.1.0
    restartPolicy: Always
    command: [/usr/bin/busybox, sh, -c, \"{reads}\"]
    volumeMounts:
    - {{ name: usr, mountPath: /usr, readOnly: true }}
    - {{ name: lib, mountPath: /lib, readOnly: true }}
    - {{ name: lib64, mountPath: /lib64, readOnly: true }}"
    );
    cluster.apply(&pod("client", &reader))?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?;
    let token = || run(&cluster, "client", &format!("/usr/bin/busybox cat {MOUNTED}/token"));
    let shown = || run(&cluster, "client", &format!("/usr/bin/busybox readlink {MOUNTED}/..data"));
    let known = || {
        let (said, code) = get(&cluster, "client", "kubernetes.default", "/api/v1/namespaces/default/pods")?;
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(code == 403 && message.contains("\"system:serviceaccount:default:default\""), "{said}");
        Ok(())
    };
    wait::until("the API server to answer", PATIENCE, known)?;
    let (first, place) = (token()?, shown()?);

    // The node's tokens are in its agent's memory: the next agent asks for another one, as at a token's own time.
    cluster.kill_one(cluster.agent_of("node-1")?)?;
    cluster::restart_agent(&cluster.layout, "node-1")?;
    let second = wait::until("another token", PATIENCE, || {
        let now = token()?;
        ensure!(now != first, "it is the same");
        Ok(now)
    })?;
    ensure!(shown()? != place, "the files were not replaced together");
    known()?;
    for token in [&first, &second] {
        let who = cluster.weir(&["auth", "whoami", "--token", token.trim(), "-o", "json"])?;
        let who: Value = serde_json::from_str(&who)?;
        ensure!(who["status"]["userInfo"]["username"] == "system:serviceaccount:default:default", "{who}");
    }
    let told = cluster.weir(&["logs", "client", "-c", "reader"])?;
    ensure!(told == "new\nnew\n", "{told}");
    let status = cluster.get(&["pod", "client"])?["status"]["containerStatuses"][0].clone();
    ensure!(status["restartCount"] == 0, "{status}");
    Ok(())
}

#[test]
fn a_pod_that_says_who_it_is_keeps_its_token_to_itself() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("tokenfile", 1, Store::Embedded)?;
    cluster.apply(&pod("own", "  securityContext: { runAsUser: 1234, fsGroup: 4321 }"))?;
    cluster.apply(&pod("none", "  automountServiceAccountToken: false"))?;
    for name in ["own", "none"] {
        cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])?;
    }
    let shown = run(&cluster, "own", &format!("/usr/bin/busybox stat -L -c '%a %u %g' {MOUNTED}/token"))?;
    ensure!(shown.trim() == "640 1234 4321", "{shown}");
    ensure!(run(&cluster, "none", &format!("/usr/bin/busybox ls {MOUNTED}")).is_err(), "a token was mounted");
    let said = cluster.apply(&pod("lost", "  serviceAccountName: nobody"));
    let said = said.expect_err("no such account").to_string();
    ensure!(said.contains("serviceaccount \"nobody\" not found"), "{said}");
    // Nothing of it lies on the disk.
    let state = fs::read_to_string("/proc/mounts")?;
    ensure!(
        state.lines().any(|line| line.starts_with("tmpfs ") && line.contains("kube-api-access-")),
        "{state}"
    );
    Ok(())
}
