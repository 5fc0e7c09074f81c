//! What is lost on the way: watches, the API server, controllers, krane itself.

use super::*;

#[tokio::test]
async fn watches_that_are_too_old_and_servers_that_restart_lose_nothing() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let one = spec(1);
    backend.apply(&one).await.unwrap();
    let before = until(&backend, &one.deployment_id, all_ready(1)).await;
    cluster.kill_api();
    // What happens meanwhile is in no watch.
    let pod = before[0].id.clone();
    cluster.delete(&Id::new("pods", &namespace(&one), &pod));
    cluster::eventually("it is replaced", || {
        let pods = cluster.list("pods");
        (pods.len() == 1 && pods[0]["metadata"]["name"] != *pod).then_some(())
    });
    cluster.compact();
    assert_eq!(backend.get(&one.deployment_id).await.unwrap(), before, "traffic was taken away");
    cluster.start_api();
    let after = until(&backend, &one.deployment_id, |all| all_ready(1)(all) && all[0].id != pod);
    after.await;
    let other = spec(1);
    backend.apply(&other).await.unwrap();
    until(&backend, &other.deployment_id, all_ready(1)).await;
}

#[tokio::test]
async fn an_apply_goes_on_through_a_restart_of_the_api_server_and_through_throttling() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    backend.table().synced().await;
    cluster.kill_api();
    let spec = spec(1);
    let (applied, ()) = tokio::join!(backend.apply(&spec), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.start_api();
        cluster.throttle(3);
    });
    applied.unwrap();
    assert!(!cluster.is_throttling(), "nobody was held up");
    until(&backend, &spec.deployment_id, all_ready(1)).await;
}

#[tokio::test]
async fn without_controllers_an_apply_waits_for_them() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    cluster.kill_controllers();
    let spec = spec(2);
    let id = spec.deployment_id.clone();
    let (applied, ()) = tokio::join!(backend.apply(&spec), async {
        while cluster.list("deployments").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(backend.get(&id).await.unwrap().is_empty());
        cluster.start_controllers();
    });
    applied.unwrap();
    until(&backend, &id, all_ready(2)).await;
}

#[tokio::test]
async fn another_krane_takes_up_what_runs_and_leaves_others_alone() {
    let cluster = serving();
    let spec = spec(2);
    let id = &spec.deployment_id;
    let before = {
        let backend = backend(&cluster).await;
        backend.apply(&spec).await.unwrap();
        until(&backend, id, all_ready(2)).await
    };
    let again = backend(&cluster).await;
    again.table().synced().await;
    // Known as ready before anything is reported: no traffic is taken away.
    let known = again.get(id).await.unwrap();
    assert!(all_ready(2)(&known), "{known:?}");
    again.apply(&spec).await.unwrap();
    let ids = |all: &[Instance]| all.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&again.get(id).await.unwrap()), ids(&before));
    let stranger = KubernetesBackend::start(settings(&cluster, "ins-2")).await.unwrap();
    stranger.table().synced().await;
    assert!(stranger.table().all().is_empty());
    stranger.delete(id).await.unwrap();
    assert!(all_ready(2)(&again.get(id).await.unwrap()), "somebody else's was removed");
    let refused = stranger.apply(&spec).await.unwrap_err();
    assert!(refused.to_string().contains("namespace_prefix"), "{refused}");
}

/// Two apply the name of their project at the same moment.
#[tokio::test]
async fn deployments_that_share_a_name_at_once_both_own_it() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let first = spec(1);
    let all: Vec<InstanceSpec> = (0..4)
        .map(|_| InstanceSpec { deployment_id: DeploymentId::generate(), ..first.clone() })
        .collect();
    let applied = futures::future::join_all(all.iter().map(|spec| backend.apply(spec))).await;
    applied.into_iter().for_each(|applied| applied.unwrap());
    let service = cluster.get("services", &namespace(&first), "shop").unwrap();
    assert_eq!(service["metadata"]["ownerReferences"].as_array().unwrap().len(), 4);
}
