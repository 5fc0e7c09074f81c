//! Deployments and ReplicaSets.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    controllers::{is_going, owner_of},
    store::{Id, Store, now},
};

const MANAGER: &str = "kube-controller-manager";

pub fn deployment(store: &mut Store, deployment: &Value) {
    if is_going(deployment) {
        return;
    }
    let (uid, spec) = (&deployment["metadata"]["uid"], &deployment["spec"]);
    let hash: String = Sha256::digest(spec["template"].to_string())
        .iter()
        .take(5)
        .map(|b| format!("{b:02x}"))
        .collect();
    let name = format!("{}-{hash}", deployment["metadata"]["name"].as_str().unwrap_or_default());
    let sets = store.owned("replicasets", uid);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    if !sets.iter().any(|set| set["metadata"]["name"] == *name) {
        make_set(store, deployment, &name, &hash, if sets.is_empty() { wanted } else { 0 });
    }
    let sets = store.owned("replicasets", uid);
    let (new, old): (Vec<&Value>, Vec<&Value>) =
        sets.iter().partition(|set| set["metadata"]["name"] == *name);
    let Some(new) = new.first() else { return };
    scale_sets(store, wanted, new, &old);
    let status = status(store, deployment, &name, uid);
    let _ = store.edit(&Id::of("deployments", deployment), MANAGER, |value| {
        value["status"] = status;
    });
}

fn make_set(store: &mut Store, deployment: &Value, name: &str, hash: &str, replicas: i64) {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"]["pod-template-hash"] = json!(hash);
    let set = json!({"metadata": {"name": name, "namespace": deployment["metadata"]["namespace"],
            "labels": template["metadata"]["labels"], "ownerReferences": owner_of(deployment)},
        "spec": {"replicas": replicas, "selector": selector, "template": template,
            "minReadySeconds": deployment["spec"]["minReadySeconds"]}});
    let _ = store.create("replicasets", set, MANAGER);
}

/// Without anything unavailable: as many more as may be, then fewer of the old.
fn scale_sets(store: &mut Store, wanted: i64, new: &Value, old: &[&Value]) {
    let number = |set: &Value, key: &str| set["status"][key].as_i64().unwrap_or(0);
    let old_size: i64 = old.iter().map(|set| set["spec"]["replicas"].as_i64().unwrap_or(0)).sum();
    let new_size = new["spec"]["replicas"].as_i64().unwrap_or(0);
    if old_size == 0 {
        return scale(store, new, wanted);
    }
    let surge = (wanted + 3) / 4;
    let room = wanted + surge.max(1) - old_size - new_size;
    if room > 0 && new_size < wanted {
        scale(store, new, (new_size + room).min(wanted));
    }
    // What is not ready serves nobody; the others go as the new ones come.
    let mut spare = number(new, "availableReplicas")
        + old.iter().map(|set| number(set, "availableReplicas")).sum::<i64>()
        - wanted;
    for set in old {
        let size = set["spec"]["replicas"].as_i64().unwrap_or(0);
        let broken = size - number(set, "availableReplicas").min(size);
        let less = broken + spare.clamp(0, size - broken);
        spare -= less - broken;
        if less > 0 {
            scale(store, set, size - less);
        }
    }
}

fn scale(store: &mut Store, set: &Value, replicas: i64) {
    let _ = store.edit(&Id::of("replicasets", set), MANAGER, |value| {
        value["spec"]["replicas"] = json!(replicas);
    });
}

fn status(store: &Store, deployment: &Value, name: &str, uid: &Value) -> Value {
    let sets = store.owned("replicasets", uid);
    let sum =
        |key: &str| sets.iter().map(|set| set["status"][key].as_i64().unwrap_or(0)).sum::<i64>();
    let new = sets.iter().find(|set| set["metadata"]["name"] == *name);
    let mut conditions = Vec::new();
    for failure in
        sets.iter().flat_map(|set| set["status"]["conditions"].as_array().into_iter().flatten())
    {
        conditions.push(failure.clone());
    }
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": sum("replicas"), "readyReplicas": sum("readyReplicas"),
        "availableReplicas": sum("availableReplicas"),
        "updatedReplicas": new.and_then(|set| set["status"]["replicas"].as_i64()).unwrap_or(0),
    });
    if !conditions.is_empty() {
        status["conditions"] = json!(conditions);
    }
    status
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn is_available(pod: &Value, min_ready: i64) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|one| one["type"] == "Ready");
    let since: Option<jiff::Timestamp> =
        ready.and_then(|ready| ready["lastTransitionTime"].as_str()?.parse().ok());
    is_ready(pod)
        && (min_ready == 0
            || since
                .is_some_and(|at| jiff::Timestamp::now().as_second() - at.as_second() >= min_ready))
}

pub fn replica_set(store: &mut Store, set: &Value) {
    if is_going(set) {
        return;
    }
    let uid = &set["metadata"]["uid"];
    let mut own = store.owned("pods", uid);
    own.retain(|pod| !is_going(pod));
    let over =
        |pod: &&Value| matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    let mut alive: Vec<&Value> = own.iter().filter(|pod| !over(pod)).collect();
    let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    let mut failure = None;
    for _ in alive.len()..wanted {
        if let Err(refusal) = make_pod(store, set) {
            failure = Some(refusal.message);
            break;
        }
    }
    if alive.len() > wanted {
        // Not ready ones first, then the cheapest, then the youngest.
        let cost = |pod: &Value| {
            let notes =
                &pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
            notes.as_str().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0)
        };
        alive.sort_by_key(|pod| (is_ready(pod), cost(pod)));
        for pod in &alive[..alive.len() - wanted] {
            let _ = store.delete(&Id::of("pods", pod), None, None);
        }
    }
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let ready = alive.iter().filter(|pod| is_ready(pod)).count();
    let available = alive.iter().filter(|pod| is_available(pod, min_ready)).count();
    let count = alive.len();
    let _ = store.edit(&Id::of("replicasets", set), MANAGER, |value| {
        let known = value["status"]["conditions"].clone();
        value["status"] =
            json!({"replicas": count, "readyReplicas": ready, "availableReplicas": available});
        match failure {
            Some(message) if known[0]["message"] == *message => {
                value["status"]["conditions"] = known
            }
            Some(message) => {
                value["status"]["conditions"] = json!([{"type": "ReplicaFailure",
                "status": "True", "reason": "FailedCreate", "message": message,
                "lastTransitionTime": now()}])
            }
            None => {}
        }
    });
}

fn make_pod(store: &mut Store, set: &Value) -> super::refusal::Answer {
    let template = &set["spec"]["template"];
    let name = set["metadata"]["name"].as_str().unwrap_or_default();
    let pod = json!({"metadata": {"generateName": format!("{name}-"),
            "namespace": set["metadata"]["namespace"], "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"], "ownerReferences": owner_of(set)},
        "spec": template["spec"]});
    store.create("pods", pod, MANAGER)
}
