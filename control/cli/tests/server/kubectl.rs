//! kubectl against the server: what it does must work, and where `weir` has the same command it must say the same.

use std::process::Output;

use crate::cluster::Cluster;
use crate::transcripts::masked;

/// Whether there is a kubectl to compare with; where CI runs there must be one.
async fn there(cluster: &Cluster) -> bool {
    let found = cluster.run("kubectl version --client").await.status.success();
    assert!(found || std::env::var_os("WEIR_REQUIRE_ROOT").is_none(), "no kubectl");
    if !found {
        eprintln!("skipped: no kubectl");
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeded(command: &str, output: &Output) -> String {
    assert!(output.status.success(), "{command}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Without flags that only work around servers: manifests are validated, fields explained, by what this one tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works() {
    let cluster = Cluster::start().await;
    if !there(&cluster).await {
        return;
    }
    for (command, want) in [
        (
            "apply -f web.yaml",
            "configmap/settings created\nservice/web created\ndeployment.apps/web created\n",
        ),
        (
            "apply -f web.yaml",
            "configmap/settings unchanged\nservice/web unchanged\ndeployment.apps/web unchanged\n",
        ),
        ("apply -f node.yaml -f pods.yaml", "node/n1 created\npod/web-a created\npod/web-b created\n"),
        ("get deployment web -o jsonpath={.spec.replicas}", "3"),
        ("scale deployment web --replicas=2", "deployment.apps/web scaled\n"),
        ("label pod web-b tier=front", "pod/web-b labeled\n"),
        ("annotate pod web-b why=because", "pod/web-b annotated\n"),
        ("patch deployment web -p '{\"spec\":{\"minReadySeconds\":3}}'", "deployment.apps/web patched\n"),
        (
            "patch deployment web --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/minReadySeconds\"}]'",
            "patched\n",
        ),
        ("set image deployment/web web=web:2", "deployment.apps/web image updated\n"),
        ("rollout pause deployment web", "deployment.apps/web paused\n"),
        ("rollout resume deployment web", "deployment.apps/web resumed\n"),
        ("rollout restart deployment web", "deployment.apps/web restarted\n"),
        ("rollout history deployment web", "deployment.apps/web"),
        ("expose deployment web --port=80 --name=web2", "service/web2 exposed\n"),
        ("cordon n1", "node/n1 cordoned\n"),
        ("taint node n1 a=b:NoSchedule", "node/n1 tainted\n"),
        ("uncordon n1", "node/n1 uncordoned\n"),
        ("wait pod/web-b --for=jsonpath={.status.phase}=Pending --timeout=30s", "pod/web-b condition met\n"),
        ("describe deployment web", "web:2"),
        ("describe node n1", "n1"),
        ("describe pod web-a", "side:1"),
        ("describe service web", "http"),
        ("explain pod.spec.containers.livenessProbe.periodSeconds", "How often; 10 when unset."),
        ("explain deployment.spec.strategy", "Recreate"),
        ("explain service --recursive", "clusterIP\t<string>"),
        ("api-resources", "deployments"),
        ("get events", ""),
        ("get pods -o wide", "web-a"),
        ("get all -A", "deployment.apps/web"),
        (
            "get configmap settings -o yaml | sed s/green/blue/ | kubectl replace -f -",
            "configmap/settings replaced\n",
        ),
        ("diff -f web.yaml | grep -c '^+  colour: green'", "1\n"),
        ("delete -f pods.yaml --force --grace-period=0", "pod \"web-a\" force deleted"),
        ("delete deployment,service -l app=web", "deployment.apps \"web\" deleted"),
    ] {
        let output = cluster.run(&format!("kubectl {command}")).await;
        let said = succeeded(command, &output);
        assert!(said.contains(want), "{command}: {said}");
    }
    let output = cluster.run("EDITOR='sed -i s/blue/red/' kubectl edit configmap settings").await;
    assert_eq!(succeeded("edit", &output), "configmap/settings edited\n");
    for (command, want) in [
        ("sed 's/replicas: 3/replica: 3/' web.yaml | kubectl apply -f -", "unknown field \"spec.replica\""),
        ("kubectl apply -f broken.yaml", "spec.replicas"),
        ("kubectl apply -f refused.yaml", "spec.template.metadata.labels"),
        ("kubectl get pod none", "Error from server (NotFound): pods \"none\" not found"),
        ("kubectl explain pod.spec.nothing", "field \"nothing\" does not exist"),
    ] {
        let output = cluster.run(command).await;
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(want), "{command}: {said}");
    }
}

/// As in a pod, or from a person who was given a token: no certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_is_known_by_a_token() {
    let cluster = Cluster::start().await;
    if !there(&cluster).await {
        return;
    }
    let bare =
        "sed 's/client-certificate-data.*/}}]}/' $KUBECONFIG > $HOME/bare; export KUBECONFIG=$HOME/bare";
    for (command, want) in [
        ("kubectl --token=$T get --raw /version", "gitVersion"),
        ("kubectl --token=$T api-resources", "deployments"),
        ("kubectl --token=$T get pods", "cannot list resource \"pods\""),
        ("kubectl --token=${T}x get pods", "Unauthorized"),
        ("kubectl --token=nothing get --raw /version", "Unauthorized"),
    ] {
        let output = cluster.run(&format!("T=$(weir create token default); {bare}; {command} 2>&1")).await;
        let said = text(&output.stdout);
        assert!(said.to_lowercase().contains(&want.to_lowercase()), "{command}: {said}");
    }
}

/// Left out: where `weir` says more (the place of a manifest, a hint, that a run was dry), and where kubectl sends its own
/// protobuf.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_says_what_kubectl_says() {
    let cluster = Cluster::start().await;
    if !there(&cluster).await {
        return;
    }
    cluster.says("apply -f web.yaml -f node.yaml -f pods.yaml").await;
    let mut different = Vec::new();
    for command in [
        "get pods --no-headers -o name",
        "get pods -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName",
        "get pods -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName --no-headers --sort-by=.metadata.name",
        "get pods,services -l app=web -o name",
        "get pod web-a -o jsonpath='{.spec.containers[*].name}'",
        "get configmap settings -o jsonpath='{.data}'",
        "get configmap settings -o json",
        "get pods none",
        "get pods web-a none -o name",
        "get pods -l app=nothing",
        "get pods -A -l app=nothing",
        "get pods -n none",
        "get pods none --ignore-not-found",
        "get configmap settings --show-labels --no-headers -o wide",
        "label pod web-b x=y --dry-run=client",
        "label pod web-b app=other",
        "scale deployment web --replicas=2 --dry-run=client",
        "rollout history deployment web",
        "rollout undo deployment web",
        "rollout status deployment none",
        "delete pod none",
        "delete pod none --ignore-not-found",
        "create secret generic c --from-literal=a=1 --dry-run=client -o name",
        "cordon none",
        "wait pod/none --for=delete",
        "wait pod/web-b --for=condition=Ready --timeout=10ms",
        "wait pod/none --for=condition=Ready",
        "annotate pod web-b a=b --dry-run=client",
        "patch pod web-b",
        "apply -f nothing.yaml",
    ] {
        let weir = cluster.weir(command).await;
        let kubectl = cluster.run(&format!("kubectl {command}")).await;
        let told = |output: &Output| {
            let text = text(&[output.stdout.clone(), output.stderr.clone()].concat());
            // Spaces at the ends of lines are kubectl's alone.
            let lines = masked(&text.replace("kubectl", "weir"));
            let lines: Vec<&str> = lines.lines().map(str::trim_end).collect();
            format!("exit {:?}\n{}", output.status.code(), lines.join("\n"))
        };
        if told(&weir) != told(&kubectl) {
            different.push(format!("$ {command}\nkubectl: {}\nweir: {}", told(&kubectl), told(&weir)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
