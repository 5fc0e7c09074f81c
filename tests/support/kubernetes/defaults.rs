//! Defaults.

use serde_json::{Value, json};

use super::kinds::Kind;

/// What is not there and has a default, as far as krane looks at it.
pub fn default(kind: &Kind, value: &mut Value) {
    let spec = &mut value["spec"];
    match kind.plural {
        "deployments" => {
            fill(spec, "replicas", json!(1));
            fill(spec, "progressDeadlineSeconds", json!(600));
            default_pod(&mut spec["template"]["spec"]);
        }
        "jobs" => default_pod(&mut spec["template"]["spec"]),
        "pods" => {
            default_pod(spec);
            fill(value, "status", json!({"phase": "Pending", "qosClass": "BestEffort"}));
        }
        "services" => fill(spec, "type", json!("ClusterIP")),
        "namespaces" => fill(value, "status", json!({"phase": "Active"})),
        _ => {}
    }
    if value["spec"].is_null()
        && let Some(map) = value.as_object_mut()
    {
        map.remove("spec");
    }
}

fn default_pod(spec: &mut Value) {
    fill(spec, "restartPolicy", json!("Always"));
    fill(spec, "terminationGracePeriodSeconds", json!(30));
    fill(spec, "dnsPolicy", json!("ClusterFirst"));
    fill(spec, "schedulerName", json!("default-scheduler"));
}

fn fill(map: &mut Value, key: &str, value: Value) {
    if map[key].is_null() {
        map[key] = value;
    }
}
