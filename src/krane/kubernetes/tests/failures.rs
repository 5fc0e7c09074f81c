//! What goes wrong with instances is told.

use launchway_proto::krane::v1::NotReadyReason;

use super::*;

#[tokio::test]
async fn a_first_end_is_told_with_code_and_output_although_it_is_started_again() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    cluster.script("broken", Behaviour::Exit { code: 3, output: "no database\nbye".to_owned() });
    let spec = InstanceSpec { image: "broken".to_owned(), ..spec(1) };
    let id = &spec.deployment_id;
    backend.apply(&spec).await.unwrap();
    let ended = until(&backend, id, |all| all.iter().any(|one| one.exit_code.is_some())).await;
    assert_eq!((ended[0].exit_code, ended[0].ready), (Some(3), false));
    assert_eq!(ended[0].log_tail, ["no database", "bye"]);
    let again = until(&backend, id, |all| all.iter().any(|one| one.restarts > 1)).await;
    assert_eq!(again[0].exit_code, Some(3), "it stays told: {again:?}");
}

#[tokio::test]
async fn one_that_needs_more_memory_than_it_may_have_says_so() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    cluster.script("fat", Behaviour::OutOfMemory);
    let spec = InstanceSpec { image: "fat".to_owned(), ..spec(1) };
    backend.apply(&spec).await.unwrap();
    let ended =
        until(&backend, &spec.deployment_id, |all| all.iter().any(|one| one.oom_killed)).await;
    assert_eq!(ended[0].exit_code, Some(137));
    assert_eq!((ended[0].reason(), ended[0].permanent), (NotReadyReason::OutOfMemory, true));
}

#[tokio::test]
async fn an_answer_of_500_is_not_ready_and_one_of_404_is() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let serve = |status| Behaviour::Serve { status, body: "x".to_owned() };
    cluster.script("bad", serve(503));
    cluster.script("good", serve(404));
    let (bad, good) = (
        InstanceSpec { image: "bad".to_owned(), ..spec(1) },
        InstanceSpec { image: "good".to_owned(), ..spec(1) },
    );
    backend.apply(&bad).await.unwrap();
    backend.apply(&good).await.unwrap();
    until(&backend, &good.deployment_id, all_ready(1)).await;
    let id = &bad.deployment_id;
    let refused =
        until(&backend, id, |all| all.iter().any(|one| one.message.contains("503"))).await;
    assert!(!refused[0].ready && refused[0].probe_attempts > 0, "{refused:?}");
    // The cluster knows it too: a rollout would wait for it.
    let pods = cluster.list("pods");
    let pod = pods.iter().find(|pod| pod["metadata"]["name"] == *refused[0].id).unwrap();
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "False"));
}

#[tokio::test]
async fn an_instance_that_its_node_ends_is_replaced_and_not_reported_any_more() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    cluster.script("evicted", Behaviour::Evicted);
    let spec = InstanceSpec { image: "evicted".to_owned(), ..spec(1) };
    let id = &spec.deployment_id;
    let applying = backend.apply(&spec);
    let healing = async {
        let told = until(&backend, id, |all| {
            all.iter().any(|one| one.message.contains("low on resource"))
        });
        told.await;
        cluster.script("evicted", Behaviour::serve());
    };
    let (applied, ()) = tokio::join!(applying, healing);
    applied.unwrap();
    let ready = until(&backend, id, all_ready(1)).await;
    assert_eq!(ready.len(), 1, "{ready:?}");
}

/// The apply is long over: it is the report that says so, by time alone.
#[tokio::test]
async fn one_that_finds_no_node_any_more_is_hopeless_after_a_while() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let spec = spec(1);
    let id = &spec.deployment_id;
    backend.apply(&spec).await.unwrap();
    let ready = until(&backend, id, all_ready(1)).await;
    cluster.script(IMAGE, Behaviour::Unschedulable);
    cluster.delete(&Id::new("pods", &namespace(&spec), &ready[0].id));
    let is_nowhere = |one: &Instance| one.reason() == NotReadyReason::Unschedulable;
    let nowhere = until(&backend, id, |all| all.iter().any(is_nowhere)).await;
    assert!(nowhere.iter().all(|one| !one.permanent), "a node may come: {nowhere:?}");
    let all = until(&backend, id, |all| all.iter().any(|one| one.permanent)).await;
    let hopeless = all.iter().find(|one| one.permanent).unwrap();
    assert_eq!(hopeless.reason(), NotReadyReason::Unschedulable);
    assert!(hopeless.message.contains("Insufficient memory"), "{hopeless:?}");
}
