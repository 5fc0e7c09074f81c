//! What a cluster does by itself: ReplicaSets and their pods, jobs, and the
//! removal of what has lost its owner.

use std::{collections::HashSet, sync::Arc, sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use super::{
    Shared, rollout,
    store::{Id, Store, now},
};

/// Something may be due although nothing was written: a rollout's pause.
const TICK: Duration = Duration::from_millis(250);
/// Writes of this time are looked at together.
const TOGETHER: Duration = Duration::from_millis(10);

pub async fn run(shared: Arc<Shared>) {
    let mut written = shared.written.subscribe();
    loop {
        written.mark_unchanged();
        if shared.controllers.load(Ordering::SeqCst) {
            // Until nothing changes any more: each reacts to the others.
            for _ in 0..50 {
                let before = shared.store().version();
                step(&mut shared.store());
                if shared.store().version() == before {
                    break;
                }
                shared.note_write();
            }
        }
        let _ = tokio::time::timeout(TICK, written.changed()).await;
        tokio::time::sleep(TOGETHER).await;
    }
}

fn step(store: &mut Store) {
    for deployment in store.list("deployments") {
        rollout::deployment(store, &deployment);
    }
    for set in store.list("replicasets") {
        rollout::replica_set(store, &set);
    }
    for job in store.list("jobs") {
        run_job(store, &job);
    }
    collect(store);
    for namespace in store.list("namespaces") {
        finish_namespace(store, &namespace);
    }
}

/// A controller's own object.
pub fn owner_of(object: &Value) -> Value {
    json!([{"apiVersion": object["apiVersion"], "kind": object["kind"],
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true}])
}

pub fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub fn is_owned_by(object: &Value, uid: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["uid"] == *uid)
}

fn run_job(store: &mut Store, job: &Value) {
    let done = job["status"]["conditions"].as_array().is_some_and(|all| !all.is_empty());
    if is_going(job) || done {
        return;
    }
    let id = Id::of("jobs", job);
    let own = store.owned("pods", &job["metadata"]["uid"]);
    let begun = job["status"]["startTime"].is_string();
    let Some(pod) = own.first() else {
        if begun {
            // Its pod was taken away: with a backoff limit of 0 that is the end.
            return end_job(store, &id, "Failed", "BackoffLimitExceeded");
        }
        let mut template = job["spec"]["template"].clone();
        let name = job["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        template["metadata"]["labels"]["job-name"] = json!(name);
        template["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(name);
        let pod = json!({"metadata": {
                "generateName": format!("{name}-"), "namespace": job["metadata"]["namespace"],
                "labels": template["metadata"]["labels"],
                "annotations": template["metadata"]["annotations"],
                "ownerReferences": owner_of(job)},
            "spec": template["spec"]});
        if store.create("pods", pod, "job-controller").is_ok() {
            let _ = store.edit(&id, "job-controller", |job| {
                job["status"]["startTime"] = json!(now());
            });
        }
        return;
    };
    match pod["status"]["phase"].as_str() {
        Some("Succeeded") => end_job(store, &id, "Complete", "CompletionsReached"),
        Some("Failed") => end_job(store, &id, "Failed", "BackoffLimitExceeded"),
        _ => {}
    }
}

fn end_job(store: &mut Store, id: &Id, kind: &str, reason: &str) {
    let _ = store.edit(id, "job-controller", |job| {
        job["status"]["conditions"] = json!([{"type": kind, "status": "True", "reason": reason,
            "message": format!("Job has ended: {reason}"), "lastTransitionTime": now()}]);
    });
}

/// Owners that are gone take what is theirs with them; owners that are to go last
/// wait for it.
fn collect(store: &mut Store) {
    let live: HashSet<String> = store
        .all()
        .filter_map(|(_, value)| value["metadata"]["uid"].as_str().map(str::to_owned))
        .collect();
    let waiting: HashSet<String> = store
        .all()
        .filter(|(_, value)| is_going(value) && waits(value))
        .filter_map(|(_, value)| value["metadata"]["uid"].as_str().map(str::to_owned))
        .collect();
    let owned: Vec<(Id, Vec<Value>, bool)> = store
        .all()
        .filter_map(|(id, value)| {
            let owners = value["metadata"]["ownerReferences"].as_array()?;
            Some((id.clone(), owners.clone(), is_going(value)))
        })
        .collect();
    for (id, owners, going) in &owned {
        let uid = |owner: &Value| owner["uid"].as_str().unwrap_or_default().to_owned();
        let solid = |owner: &&Value| live.contains(&uid(owner)) && !waiting.contains(&uid(owner));
        let kept: Vec<Value> = owners.iter().filter(solid).cloned().collect();
        if owners.is_empty() || kept.len() == owners.len() {
            continue;
        }
        if !kept.is_empty() {
            // Somebody else still wants it.
            let _ = store.edit(id, "garbage-collector", |value| {
                value["metadata"]["ownerReferences"] = json!(kept);
            });
        } else if !going {
            let foreground = owners.iter().any(|owner| waiting.contains(&uid(owner)));
            let policy = if foreground { "Foreground" } else { "Background" };
            let _ = store.delete(id, Some(policy), None);
        }
    }
    for uid in waiting {
        release(store, &uid);
    }
}

fn waits(value: &Value) -> bool {
    let finalizers = value["metadata"]["finalizers"].as_array();
    finalizers.into_iter().flatten().any(|name| name == "foregroundDeletion")
}

/// Lets an owner go once nothing that blocks it is left.
fn release(store: &mut Store, uid: &str) {
    let blocks = |value: &Value| {
        let owners = value["metadata"]["ownerReferences"].as_array();
        owners
            .into_iter()
            .flatten()
            .any(|owner| owner["uid"] == *uid && owner["blockOwnerDeletion"] == true)
    };
    if store.all().any(|(_, value)| blocks(value)) {
        return;
    }
    let found = store.all().find(|(_, value)| value["metadata"]["uid"] == *uid);
    let Some(id) = found.map(|(id, _)| id.clone()) else { return };
    let _ = store.edit(&id, "garbage-collector", |value| {
        let finalizers = value["metadata"]["finalizers"].as_array_mut();
        finalizers.into_iter().for_each(|all| all.retain(|name| name != "foregroundDeletion"));
    });
}

/// A namespace that is to go takes everything in it.
fn finish_namespace(store: &mut Store, namespace: &Value) {
    if !is_going(namespace) {
        return;
    }
    let name = namespace["metadata"]["name"].clone();
    let inside: Vec<(Id, bool)> = store
        .all()
        .filter(|(_, value)| value["metadata"]["namespace"] == name)
        .map(|(id, value)| (id.clone(), is_going(value)))
        .collect();
    for (id, going) in &inside {
        if !going {
            let _ = store.delete(id, None, None);
        }
    }
    if inside.is_empty() {
        let _ = store.remove(&Id::of("namespaces", namespace));
    }
}
