use serde_json::json;

use super::*;
use crate::kind::{kinds, resolve};
use crate::object::Object;

const NOW: i64 = 1_700_000_000;

fn object(kind: &str, value: &serde_json::Value) -> Box<dyn Object> {
    let mut unknown = Vec::new();
    let mut object = resolve(kind).unwrap().from_json(value, &mut unknown).unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    object.meta_mut().creation_timestamp = Some(Time::from_unix(NOW - 303));
    object
}

fn wide(kind: &str, value: serde_json::Value) -> String {
    cells(object(kind, &value).as_ref(), Time::from_unix(NOW), true).join(" | ")
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    for kind in kinds() {
        let empty = kind.empty();
        assert_eq!(row(empty.as_ref(), Time::from_unix(NOW)).len(), kind.columns.len(), "{kind}");
        assert_eq!(
            header(kind, true).len(),
            cells(empty.as_ref(), Time::from_unix(NOW), true).len(),
            "{kind}"
        );
        assert_eq!(
            header(kind, false).len(),
            cells(empty.as_ref(), Time::from_unix(NOW), false).len(),
            "{kind}"
        );
        let columns: Vec<_> = kind.columns.iter().map(|column| column.name).collect();
        assert!(columns.contains(&"AGE") || kind.kind == "Event", "{kind}");
    }
}

#[test]
fn pod_status_tells_what_keeps_it_from_running() {
    let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
    let crashed = json!({"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2023-11-14T22:08:20Z"}}});
    let exited = |state: serde_json::Value| json!({"name": "a", "state": {"terminated": state}});
    for (status, expected) in [
        (json!({"phase": "Pending"}), "0/1 | Pending | 0"),
        (json!({"phase": "Running", "containerStatuses": [running]}), "1/1 | Running | 0"),
        (json!({"phase": "Running", "containerStatuses": [crashed]}), "0/1 | CrashLoopBackOff | 3 (5m ago)"),
        (
            json!({"phase": "Failed", "containerStatuses": [exited(json!({"exitCode": 7}))]}),
            "0/1 | ExitCode:7 | 0",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [exited(json!({"exitCode": 137, "signal": 9}))]}),
            "0/1 | Signal:9 | 0",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [exited(json!({"exitCode": 0, "reason": "Completed"}))]}),
            "0/1 | Completed | 0",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/1 | Evicted | 0"),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"running": {}}}]}),
            "0/1 | Init:0/1 | 2",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            "0/1 | Init:Error | 0",
        ),
        (
            json!({"phase": "Running", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 0}}}],
                "containerStatuses": [running]}),
            "1/1 | Running | 0",
        ),
    ] {
        let init =
            if status.get("initContainerStatuses").is_some() { json!([{"name": "i"}]) } else { json!([]) };
        let pod = json!({"spec": {"containers": [{"name": "a"}], "initContainers": init}, "status": status});
        let cells = row(object("pod", &pod).as_ref(), Time::from_unix(NOW));
        assert_eq!(cells[..3].join(" | "), expected, "{status}");
    }
}

#[test]
fn a_deleted_pod_is_terminating_and_a_sidecar_counts() {
    let pod = json!({
        "metadata": {"name": "p", "deletionTimestamp": "2023-11-14T22:00:00Z"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "a"}],
            "initContainers": [{"name": "side", "restartPolicy": "Always"}],
            "readinessGates": [{"conditionType": "net"}]
        },
        "status": {
            "phase": "Running", "podIP": "10.32.1.2",
            "conditions": [{"type": "net", "status": "True"}],
            "initContainerStatuses": [{"name": "side", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
            "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]
        }
    });
    assert_eq!(wide("pod", pod), "p | 2/2 | Terminating | 1 | 5m3s | 10.32.1.2 | n1 | <none> | 1/1");
}

#[test]
fn other_kinds_read_as_in_kubectl() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}});
    let selector = json!({"matchLabels": {"app": "web"}});
    for (kind, value, line) in [
        (
            "deploy",
            json!({"metadata": {"name": "web"}, "spec": {"replicas": 4, "selector": selector, "template": template},
                "status": {"readyReplicas": 3, "updatedReplicas": 2, "availableReplicas": 1}}),
            "web | 3/4 | 2 | 1 | 5m3s | a,b | x:1,y | app=web",
        ),
        (
            "rs",
            json!({"metadata": {"name": "web"}, "spec": {"replicas": 0, "selector": selector, "template": template}, "status": {"replicas": 1}}),
            "web | 0 | 1 | 0 | 5m3s | a,b | x:1,y | app=web",
        ),
        (
            "svc",
            json!({"metadata": {"name": "web"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"app": "web"},
                "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}}),
            "web | NodePort | 10.96.0.9 | <none> | 80:30080/TCP,53/UDP | 5m3s | app=web",
        ),
        (
            "svc",
            json!({"metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9"}}),
            "lb | LoadBalancer | 10.96.0.9 | <pending> | <none> | 5m3s | <none>",
        ),
        (
            "no",
            json!({"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": ""}}, "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.31.0.11"}],
                    "nodeInfo": {"kubeletVersion": "v1.34.0", "osImage": "Debian"}}}),
            "n1 | Ready,SchedulingDisabled | worker | 5m3s | v1.34.0 | 10.31.0.11 | <none> | Debian | <unknown> | <unknown>",
        ),
        (
            "endpointslice",
            json!({"metadata": {"name": "web-x"}, "addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}]}),
            "web-x | IPv4 | 80 | 10.0.0.1,10.0.0.2,10.0.0.3 + 1 more... | 5m3s",
        ),
        (
            "cm",
            json!({"metadata": {"name": "c"}, "data": {"a": "1"}, "binaryData": {"b": "AA=="}}),
            "c | 2 | 5m3s",
        ),
        ("secret", json!({"metadata": {"name": "s"}, "data": {"a": "AA=="}}), "s | Opaque | 1 | 5m3s"),
        (
            "dpn",
            json!({"metadata": {"name": "n1"}, "status": {"revision": 42, "services": 3, "backends": 9}}),
            "n1 | 42 | 3 | 9 |  | 5m3s",
        ),
        (
            "pc",
            json!({"metadata": {"name": "high"}, "value": 1000, "globalDefault": true, "preemptionPolicy": "Never"}),
            "high | 1000 | true | 5m3s | Never",
        ),
        (
            "ev",
            json!({"metadata": {"name": "web.1"}, "type": "Warning", "reason": "BackOff", "message": "again\n", "count": 7,
                "involvedObject": {"kind": "Pod", "name": "web-1"}, "source": {"component": "agent", "host": "n1"},
                "firstTimestamp": "2023-11-14T22:11:20Z", "lastTimestamp": "2023-11-14T22:13:10Z"}),
            "10s (x7 over 2m) | Warning | BackOff | pod/web-1 | again |  | agent, n1 | 2m | 7 | web.1",
        ),
    ] {
        assert_eq!(wide(kind, value), line);
    }
}
