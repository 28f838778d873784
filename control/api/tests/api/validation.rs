//! What is wrong with an object, in the words that kubectl's users know, and what may not change.

use serde_json::{Value, json};

use crate::fixture::Cluster;

const CORE: &str = "/api/v1/namespaces/default";
const APPS: &str = "/apis/apps/v1/namespaces/default";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A merge of `change` into `base`.
fn changed(mut base: Value, change: &Value) -> Value {
    fn merge(base: &mut Value, change: &Value) {
        match (base, change) {
            (Value::Object(base), Value::Object(change)) => {
                for (key, value) in change {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (base, change) => *base = change.clone(),
        }
    }
    merge(&mut base, change);
    base
}

async fn refused(cluster: &Cluster, path: &str, base: &Value, cases: &[(Value, &str)]) {
    for (change, expected) in cases {
        let (code, status) = cluster.rest("POST", path, &changed(base.clone(), change).to_string()).await;
        let message = status["message"].as_str().unwrap_or_default();
        assert_eq!(code, 422, "{change}: {message}");
        assert!(message.contains(expected), "{change}:\n  expected {expected}\n  found    {message}");
    }
    let (code, status) = cluster.rest("POST", path, &base.to_string()).await;
    assert_eq!(code, 201, "what all were made from is right: {status}");
}

#[tokio::test]
async fn pods() {
    let cluster = Cluster::start().await;
    let container = |more: Value| changed(json!({"name": "web", "image": "web:1"}), &more);
    let spec = |more: Value| json!({"spec": {"containers": [container(more)]}});
    let base = changed(json!({"metadata": {"name": "p"}}), &spec(json!({})));
    let port = |port: Value| spec(json!({"ports": [port]}));
    let cases = [
        (json!({"spec": {"containers": []}}), "spec.containers: Required value"),
        (spec(json!({"image": ""})), "spec.containers[0].image: Required value"),
        (
            spec(json!({"name": "Web"})),
            "spec.containers[0].name: Invalid value: \"Web\": a lowercase RFC 1123 label must consist of",
        ),
        (
            spec(json!({"imagePullPolicy": "Soon"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Soon\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            port(json!({"containerPort": 70000})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            port(json!({"containerPort": 80, "protocol": "ICMP"})),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            spec(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            spec(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            changed(
                spec(json!({"volumeMounts": [{"name": "v", "mountPath": "/a:/b"}]})),
                &json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            ),
            "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a:/b\": must not contain ':'",
        ),
        (
            spec(json!({"readinessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 5}})),
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value",
        ),
        (
            spec(json!({"livenessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 0}})),
            "spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            spec(json!({"livenessProbe": {}})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"spec": {"restartPolicy": "Sometimes"}}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            json!({"spec": {"terminationGracePeriodSeconds": -1}}),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"spec": {"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}}),
            "spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\"",
        ),
        (
            json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "minDomains": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]}}),
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}}),
            "spec.volumes[0]: Forbidden: may not specify more than 1 volume type",
        ),
    ];
    refused(&cluster, &format!("{CORE}/pods"), &base, &cases).await;
}

#[tokio::test]
async fn services_and_their_slices() {
    let cluster = Cluster::start().await;
    let base =
        json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "s"}, "ports": [{"port": 80}]}});
    let cases = [
        (
            json!({"metadata": {"name": "1s"}}),
            "metadata.name: Invalid value: \"1s\": a DNS-1035 label must consist of",
        ),
        (json!({"spec": {"ports": []}}), "spec.ports: Required value"),
        (
            json!({"spec": {"type": "Odd"}}),
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (json!({"spec": {"clusterIP": "1.2.3.4"}}), "the provided IP (1.2.3.4) is not in the valid range"),
        (
            json!({"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
        ),
        (
            json!({"spec": {"externalIPs": ["127.0.0.1"]}}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}]}}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
    ];
    refused(&cluster, &format!("{CORE}/services"), &base, &cases).await;
    let (_, made) = cluster.rest("GET", &format!("{CORE}/services/s"), "").await;
    let moved = changed(made, &json!({"spec": {"clusterIP": "10.96.77.7", "clusterIPs": ["10.96.77.7"]}}));
    let (code, status) = cluster.rest("PUT", &format!("{CORE}/services/s"), &moved.to_string()).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("spec.clusterIPs[0]: Invalid value: \"10.96.77.7\": may not change once set")
    );

    let base = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let endpoint = |address: &str| json!({"endpoints": [{"addresses": [address]}]});
    let cases = [
        (endpoint("::1"), "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address"),
        (
            endpoint("169.254.169.254"),
            "endpoints[0].addresses[0]: Invalid value: \"169.254.169.254\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
        (
            json!({"endpoints": [{"addresses": []}]}),
            "endpoints[0].addresses: Required value: must contain at least 1 address",
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "A B"}]}),
            "endpoints[0].nodeName: Invalid value: \"A B\"",
        ),
        (json!({"addressType": ""}), "addressType: Required value"),
    ];
    refused(&cluster, SLICES, &base, &cases).await;
}

#[tokio::test]
async fn deployments_and_what_may_not_change() {
    let cluster = Cluster::start().await;
    let template =
        json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let base = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template}});
    let cases = [
        (
            json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}}),
            "`selector` does not match template `labels`",
        ),
        (
            json!({"spec": {"replicas": -1}}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}),
            "may not be 0 when `maxSurge` is 0",
        ),
        (
            json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
    ];
    refused(&cluster, &format!("{APPS}/deployments"), &base, &cases).await;
    let (_, made) = cluster.rest("GET", &format!("{APPS}/deployments/d"), "").await;
    let other = json!({"spec": {"selector": {"matchLabels": {"app": "e"}}, "template": {"metadata": {"labels": {"app": "e"}}}}});
    let (code, status) =
        cluster.rest("PUT", &format!("{APPS}/deployments/d"), &changed(made, &other).to_string()).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("field is immutable"), "{status}");
}

#[tokio::test]
async fn secrets_and_config_maps() {
    let cluster = Cluster::start().await;
    let base = json!({"metadata": {"name": "s"}, "type": "Opaque"});
    let cases = [
        (json!({"type": "kubernetes.io/tls"}), "data[tls.crt]: Required value"),
        (json!({"type": "kubernetes.io/basic-auth"}), "data[username]: Required value"),
        (
            json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{hunter2"}}),
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\"",
        ),
        (
            json!({"stringData": {"a/b": "c"}}),
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of",
        ),
    ];
    refused(&cluster, &format!("{CORE}/secrets"), &base, &cases).await;
    let large = json!({"metadata": {"name": "m"}, "data": {"k": "x".repeat(1_100_000)}});
    let (code, status) = cluster.rest("POST", &format!("{CORE}/configmaps"), &large.to_string()).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("[]: Too long: may not be more than 1048576 bytes"));
}
