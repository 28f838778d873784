//! Images made of Debian's packages, pulled from Debian's own registry and run as anybody would run them: nginx behind a
//! Service and as a gRPC server, redis that keeps what it was told, Python as nobody in particular.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use weir_tests::cluster::{Cluster, PATIENCE, items};
use weir_tests::registry::{self, PASSWORD, Registry, USER};
use weir_tests::{debian, images, require, wait};
use xtask::cluster::Store;

/// What installing needs, and running does not.
const INSTALLING: &[&str] = &[
    "perl",
    "libperl",
    "libfile-find",
    "libtext-glob",
    "libnumber-compare",
    "usrmerge",
    "dpkg_",
    "tar_",
    "adduser",
    "passwd",
    "debconf",
    "libpam",
    "libsemanage",
    "init-system",
    "sysvinit",
    "iproute2",
    "libgdbm",
];

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: nginx }
data:
  nginx.conf: |
    daemon off;
    pid /tmp/nginx.pid;
    error_log stderr;
    events {}
    http {
      access_log off;
      client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
      uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
      server { listen 8080; location / { default_type text/plain; return 200 "served by $hostname\n"; } }
      # Enough of gRPC for its health check: a message of two bytes that says SERVING, and a status behind it.
      server {
        listen 9090 http2;
        root /etc/nginx/health;
        location = /grpc.health.v1.Health/Check {
          error_page 405 =200 /serving;
          default_type application/grpc;
          add_trailer grpc-status 0 always;
          try_files /serving =404;
        }
        location = /serving { default_type application/grpc; add_trailer grpc-status 0 always; }
      }
    }
binaryData:
  serving: AAAAAAIIAQ==
---
apiVersion: v1
kind: Pod
metadata: { name: nginx, labels: { app: nginx } }
spec:
  terminationGracePeriodSeconds: 5
  imagePullSecrets: [{ name: registry }]
  securityContext: { runAsNonRoot: true, seccompProfile: { type: RuntimeDefault } }
  volumes:
  - { name: conf, configMap: { name: nginx } }
  - { name: tmp, emptyDir: {} }
  containers:
  - name: nginx
    image: REGISTRY/debian/nginx:12
    command: [/usr/sbin/nginx, -c, /conf/nginx.conf]
    securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
    ports: [{ name: http, containerPort: 8080 }]
    volumeMounts:
    - { name: conf, mountPath: /conf }
    - { name: conf, mountPath: /etc/nginx/health }
    - { name: tmp, mountPath: /tmp }
    readinessProbe: { httpGet: { port: http }, periodSeconds: 1 }
    livenessProbe: { grpc: { port: 9090 }, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 5 }
    startupProbe: { grpc: { port: 9090 }, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60 }
---
apiVersion: v1
kind: Service
metadata: { name: nginx }
spec: { selector: { app: nginx }, ports: [{ port: 80, targetPort: http }] }
---
apiVersion: v1
kind: Pod
metadata: { name: redis, labels: { app: redis } }
spec:
  terminationGracePeriodSeconds: 5
  imagePullSecrets: [{ name: registry }]
  securityContext: { fsGroup: 102 }
  volumes: [{ name: data, emptyDir: {} }]
  containers:
  - name: redis
    image: REGISTRY/debian/redis:12
    volumeMounts: [{ name: data, mountPath: /data }]
    readinessProbe: { exec: { command: [redis-cli, ping] }, periodSeconds: 1, timeoutSeconds: 10 }
---
apiVersion: v1
kind: Service
metadata: { name: redis }
spec: { selector: { app: redis }, ports: [{ port: 6379 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: python, labels: { app: python } }
spec:
  terminationGracePeriodSeconds: 1
  imagePullSecrets: [{ name: registry }]
  securityContext: { runAsUser: 1000, runAsNonRoot: true, seccompProfile: { type: RuntimeDefault } }
  containers:
  - name: python
    image: REGISTRY/debian/python:12
    command: [python3, -m, http.server, "8000", --directory, /usr/lib/python3.11/json]
    securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
    env: [{ name: PYTHONDONTWRITEBYTECODE, value: "1" }]
    readinessProbe: { tcpSocket: { port: 8000 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: python }
spec: { selector: { app: python }, ports: [{ port: 80, targetPort: 8000 }] }
"#;

/// Makes an image of the packages and uploads it: nothing of it is on the nodes.
fn push(
    cluster: &Cluster,
    registry: &Registry,
    name: &str,
    package: &str,
    config: serde_json::Value,
) -> Result<()> {
    let root =
        debian::root(name, &[package], |deb| !INSTALLING.iter().any(|beginning| deb.starts_with(beginning)))?;
    let layout = cluster.layout.directory.join("layouts").join(name);
    images::layout(&layout)?;
    images::add_to(&layout, name, &config, &root)?;
    registry.push(&layout, &format!("debian/{name}"), "12");
    Ok(fs::remove_dir_all(layout)?)
}

/// What opens the registry, as an imagePullSecret has it.
fn pull_secret(registry: &Registry) -> String {
    let auths = json!({ "auths": { &registry.name: { "username": USER, "password": PASSWORD } } });
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "registry" },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": auths.to_string() },
    })
    .to_string()
}

/// What a pod's events and its container's state say of its image.
fn pull_trouble(cluster: &Cluster, pod: &str) -> Result<String> {
    let events = cluster.get(&["events"])?;
    let of_pod = items(&events).filter(|event| event["involvedObject"]["name"] == pod);
    let said: Vec<String> =
        of_pod.map(|event| format!("{} {}\n", event["reason"], event["message"])).collect();
    let state = &cluster.get(&["pod", pod])?["status"]["containerStatuses"][0]["state"];
    Ok(format!("{}{state}", said.concat()))
}

#[test]
fn nginx_redis_and_python_of_debian_come_from_a_registry_and_run_as_they_should() -> Result<()> {
    if !require::cluster() || !registry::available() {
        return Ok(());
    }
    let cluster = Cluster::up("debian", 1, Store::Embedded)?;
    let registry = Registry::beside(&cluster);
    push(&cluster, &registry, "nginx", "nginx", json!({ "User": "33" }))?;
    let entry = ["/usr/bin/redis-server", "--dir", "/data", "--appendonly", "yes", "--save", ""];
    let entry = [&entry[..], &["--protected-mode", "no"]].concat();
    let config = json!({ "User": "redis", "Entrypoint": entry, "StopSignal": "SIGINT" });
    push(&cluster, &registry, "redis", "redis-server", config)?;
    push(&cluster, &registry, "python", "python3", json!({ "User": "1000:1000" }))?;

    // Without the password the pods wait, and say for what.
    cluster.apply(&MANIFEST.replace("REGISTRY", &registry.name))?;
    for pod in ["nginx", "redis", "python"] {
        wait::until("what is wrong with the image", PATIENCE, || {
            let said = pull_trouble(&cluster, pod)?;
            for word in
                ["FailedToRetrieveImagePullSecret", "registry", "Failed", "PullBackOff", "imagePullSecrets"]
            {
                ensure!(said.contains(word), "no {word} in:\n{said}");
            }
            Ok(())
        })?;
    }
    cluster.apply(&pull_secret(&registry))?;
    for pod in ["nginx", "redis", "python"] {
        cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"])?;
        let status = cluster.get(&["pod", pod])?["status"]["containerStatuses"][0].clone();
        let from = format!("{}/debian/{pod}@sha256:", registry.name);
        ensure!(status["imageID"].as_str().is_some_and(|id| id.contains(&from)), "{status}");
    }
    // nginx through its Service, asked by Python, whose own server serves its own library.
    let address = cluster.get(&["service", "nginx"])?["spec"]["clusterIP"].clone();
    let ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=30).read().decode())";
    let python = |url: &str| {
        // A Service's endpoints come after its pod is ready.
        wait::until(url, PATIENCE, || cluster.weir(&["exec", "python", "--", "python3", "-c", ask, url]))
    };
    let page = python(&format!("http://{}/", address.as_str().unwrap_or_default()))?;
    ensure!(page.contains("served by nginx"), "{page}");
    ensure!(python("http://nginx.default.svc/")?.contains("served by nginx"));
    ensure!(python("http://python.default.svc/__init__.py")?.contains("JSONDecoder"));
    ensure!(python("http://127.0.0.1:8000/__init__.py")?.contains("JSONDecoder"));
    let write = "open('/usr/x', 'w')";
    let refused = cluster.weir(&["exec", "python", "--", "python3", "-c", write]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("Read-only file system")));
    let who = cluster.weir(&[
        "exec",
        "python",
        "--",
        "python3",
        "-c",
        "import os; print(os.getuid(), os.getgid())",
    ])?;
    ensure!(who.trim() == "1000 0", "{who}");

    // The health check by gRPC has let it start, and goes on.
    let nginx = cluster.get(&["pod", "nginx"])?;
    let status = &nginx["status"]["containerStatuses"][0];
    ensure!(status["started"] == true && status["restartCount"] == 0, "{status}");

    // What redis was told outlives its process.
    let redis = |words: &[&str]| cluster.weir(&[&["exec", "redis", "--", "redis-cli"], words].concat());
    ensure!(redis(&["ping"])?.trim() == "PONG");
    ensure!(redis(&["-h", "redis", "set", "word", "sesame"])?.trim() == "OK");
    // The command ends with the process that it ends.
    let _ = redis(&["shutdown"]);
    cluster.wait_for(&["pod", "redis"], |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["ready"] == true
    })?;
    wait::until("the word", PATIENCE, || {
        let said = redis(&["get", "word"])?;
        if said.trim() == "sesame" { Ok(()) } else { bail!("redis said {said:?}") }
    })?;
    for pod in ["nginx", "redis", "python"] {
        cluster.weir(&["delete", "pod", pod, "--timeout=60s"])?;
    }
    leaves_nothing(&cluster.layout.node_directory("node-1").join("pods"))
}

fn leaves_nothing(pods: &Path) -> Result<()> {
    let left: Vec<_> = fs::read_dir(pods)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
