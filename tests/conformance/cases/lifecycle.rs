//! Apply, scale, change, delete.

use std::{collections::HashSet, time::Duration};

use launchway_proto::krane::v1::WatchInstancesRequest;
use launchway_proto::krane::v1::{DeploymentRequest, DeploymentStatus, Instance};
use tokio::time::timeout;

use crate::{
    harness::sh,
    world::{PATIENCE, World, eventually},
};

fn ids(instances: &[Instance]) -> HashSet<String> {
    instances.iter().map(|instance| instance.id.clone()).collect()
}

pub async fn a_deployment_is_created_read_and_deleted(world: &World<'_>) {
    let request = world.request();
    let id = &request.deployment_id;
    let ready = world.deploy(&request).await;
    let web = &ready[0];
    assert_eq!((web.process.as_str(), web.replica, web.routed), ("web", 0, true), "{web:?}");
    assert_eq!(web.status(), DeploymentStatus::Running, "{web:?}");
    assert!(web.started_at > 1_600_000_000_000, "milliseconds since the epoch: {web:?}");
    assert_eq!(world.get(id).await, ready);
    assert_eq!(world.body(web).await, "hello");
    assert!(world.found(id).await.iter().any(|found| found.kind == "instance"));
    let mut watch = world.watch(id).await;
    world.delete(id).await;
    watch.until(<[Instance]>::is_empty).await;
    assert!(world.get(id).await.is_empty());
    assert!(world.found(id).await.is_empty());
    world.delete(id).await;
}

pub async fn applying_again_changes_nothing(world: &World<'_>) {
    let request = DeploymentRequest { replicas: 2, ..world.request() };
    let before = world.deploy(&request).await;
    world.apply(&request).await;
    assert_eq!(world.get(&request.deployment_id).await, before);
}

pub async fn what_was_deleted_is_made_again(world: &World<'_>) {
    let request = world.request();
    world.deploy(&request).await;
    world.delete(&request.deployment_id).await;
    let again = world.deploy(&request).await;
    assert_eq!(world.body(&again[0]).await, "hello");
}

/// The runtime may be in the middle of making something when nobody waits for it
/// any more.
pub async fn a_delete_after_an_apply_that_was_given_up_leaves_nothing(world: &World<'_>) {
    for wait in [20, 60, 120, 200, 400] {
        let request = DeploymentRequest { replicas: 3, ..world.request() };
        let _ = timeout(Duration::from_millis(wait), world.try_apply(&request)).await;
        world.delete(&request.deployment_id).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let found = world.found(&request.deployment_id).await;
        assert!(found.is_empty(), "given up after {wait} ms: {found:?}");
    }
}

pub async fn scaling_only_adds_and_removes(world: &World<'_>) {
    let one = world.request();
    let id = &one.deployment_id;
    let first = world.deploy(&one).await;
    let three = world.deploy(&DeploymentRequest { replicas: 3, ..one.clone() }).await;
    assert!(three.contains(&first[0]), "the first one was replaced: {three:#?}");
    let numbers: HashSet<u32> = three.iter().map(|instance| instance.replica).collect();
    assert_eq!(numbers, HashSet::from([0, 1, 2]));
    world.apply(&one).await;
    assert_eq!(world.ready(id, 1).await, first);
}

pub async fn a_change_makes_new_instances_while_some_are_ready(world: &World<'_>) {
    let mut request = DeploymentRequest { replicas: 2, ..world.request() };
    let id = request.deployment_id.clone();
    let before = world.deploy(&request).await;
    request.env.insert("GREETING".to_owned(), "changed".to_owned());
    request.memory_size_mib = 96;
    let mut watch = world.watch(&id).await;
    let (old, wanted) = (ids(&before), 2);
    let replaced = async {
        loop {
            let now = watch.next().await;
            assert!(now.iter().any(|one| one.ready), "none was ready any more: {now:#?}");
            let fresh = now.iter().filter(|one| one.ready && !old.contains(&one.id)).count();
            if fresh == wanted && now.len() == wanted {
                return now;
            }
        }
    };
    let (now, ()) = tokio::join!(timeout(PATIENCE, replaced), world.apply(&request));
    for instance in now.expect("they are replaced") {
        assert_eq!(world.body(&instance).await, "changed");
        assert_eq!(instance.memory_size_mib, 96);
    }
}

/// Whether the apply says so itself is the runtime's choice.
pub async fn a_change_that_cannot_start_leaves_what_serves(world: &World<'_>) {
    let mut request = world.scripted(crate::image::SERVE);
    let id = request.deployment_id.clone();
    let before = world.deploy(&request).await;
    request.processes[0].command = sh("echo no database; exit 3");
    let _ = world.try_apply(&request).await;
    for _ in 0..10 {
        let now = world.get(&id).await;
        assert!(now.iter().any(|one| one.ready && one.id == before[0].id), "{now:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.body(&before[0]).await, "hello");
}

/// Checklist 81.
pub async fn limits_are_reported_as_the_runtime_has_them(world: &World<'_>) {
    let request = DeploymentRequest { cpu_millicores: 250, memory_size_mib: 48, ..world.request() };
    let ready = world.deploy(&request).await;
    let limits = (ready[0].cpu_millicores, ready[0].memory_size_mib);
    assert_eq!(limits, (250, 48));
    if world.harness.limits_processes() {
        assert!(ready[0].pids_limit > 0, "{ready:?}");
    }
}

pub async fn twenty_replicas_get_ready(world: &World<'_>) {
    let request = DeploymentRequest { replicas: 20, memory_size_mib: 16, ..world.request() };
    let ready = world.deploy(&request).await;
    let addresses: HashSet<&str> = ready.iter().map(|one| one.address.as_str()).collect();
    assert_eq!(addresses.len(), 20);
    world.delete(&request.deployment_id).await;
    assert!(world.get(&request.deployment_id).await.is_empty());
}

pub async fn two_deployments_at_once_do_not_meet(world: &World<'_>) {
    let (one, mut other) = (world.request(), world.request());
    other.env.insert("GREETING".to_owned(), "other".to_owned());
    let (first, second) = tokio::join!(world.deploy(&one), world.deploy(&other));
    assert_eq!(world.body(&first[0]).await, "hello");
    assert_eq!(world.body(&second[0]).await, "other");
    world.delete(&one.deployment_id).await;
    assert_eq!(world.get(&other.deployment_id).await, second);
    assert_eq!(world.body(&second[0]).await, "other");
}

pub async fn a_watch_of_everything_begins_with_the_present_state(world: &World<'_>) {
    let request = world.request();
    let id = &request.deployment_id;
    let ready = world.deploy(&request).await;
    let everything = WatchInstancesRequest::default();
    let mut all = world.krane().await.watch_instances(everything).await.unwrap().into_inner();
    let mut seen = None;
    loop {
        let change = all.message().await.unwrap().unwrap();
        if change.deployment_id == *id {
            assert_eq!(change.namespace, world.namespace);
            seen = Some(change.instances);
        } else if change.synced {
            break;
        }
    }
    assert_eq!(seen, Some(ready), "the present state comes before the marker");
    world.delete(id).await;
    let gone = async {
        loop {
            let change = all.message().await.unwrap().unwrap();
            if change.deployment_id == *id && change.instances.is_empty() {
                return;
            }
        }
    };
    timeout(PATIENCE, gone).await.expect("the delete is told");
}

pub async fn another_krane_takes_up_what_runs(world: &World<'_>) {
    let request = world.request();
    let id = &request.deployment_id;
    let before = world.deploy(&request).await;
    if !world.harness.restart().await {
        return eprintln!("not run: this harness cannot restart krane");
    }
    let again = eventually("krane answers", async || {
        let mut watch = timeout(PATIENCE, world.watch(id)).await.ok()?;
        Some(watch.next().await)
    });
    // Known as ready from the first word: no traffic is taken away.
    assert!(again.await.iter().all(|one| one.ready), "{:#?}", world.get(id).await);
    world.apply(&request).await;
    assert_eq!(ids(&world.ready(id, 1).await), ids(&before), "it was made anew");
}
