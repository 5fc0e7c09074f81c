//! What goes wrong is told, and leaves nothing.

use std::time::{Duration, Instant};

use launchway_proto::krane::v1::{DeploymentRequest, NotReady, NotReadyReason, Process};
use prost::Message;
use tonic::Code;

use crate::{harness::SERVER, world::World};

pub async fn an_exit_before_ready_is_told_with_code_and_last_lines(world: &World<'_>) {
    let script = "for n in $(/busybox seq 1 60); do echo line $n; done; exit 3";
    let request = world.scripted(script);
    let id = &request.deployment_id;
    world.apply(&request).await;
    let ended = world.until(id, |all| all.iter().any(|one| one.exit_code.is_some())).await;
    assert_eq!(ended[0].exit_code, Some(3));
    assert_eq!(ended[0].reason(), NotReadyReason::Exited);
    assert!(!ended[0].ready && ended[0].permanent, "{ended:?}");
    let tail: Vec<String> = (11..=60).map(|n| format!("line {n}")).collect();
    assert_eq!(ended[0].log_tail, tail);
    // Reported for good: it is not started again by itself.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.get(id).await[0].exit_code, Some(3));
}

pub async fn one_that_ends_after_it_was_ready_is_started_again(world: &World<'_>) {
    let script = format!("trap 'exit 7' TERM; {SERVER}; while :; do /busybox sleep 0.05; done");
    let request = world.scripted(&script);
    let id = &request.deployment_id;
    world.deploy(&request).await;
    let mut watch = world.watch(id).await;
    watch.next().await;
    world.exec(id, "kill -TERM 1").await;
    let down = watch.until(|all| all.iter().all(|one| !one.ready)).await;
    let looping = [NotReadyReason::Exited, NotReadyReason::CrashLoop].map(i32::from);
    assert!(looping.contains(&down[0].reason) && !down[0].permanent, "{down:?}");
    let again = watch.until(|all| all.len() == 1 && all[0].ready).await;
    assert!(again[0].restarts > 0, "{again:?}");
    assert_eq!(again[0].exit_code, None);
}

pub async fn one_that_needs_more_memory_than_it_may_have_says_so(world: &World<'_>) {
    let script = "echo filling; text=0123456789abcdef; while :; do text=$text$text; done";
    let request = DeploymentRequest { memory_size_mib: 16, ..world.scripted(script) };
    let id = &request.deployment_id;
    world.apply(&request).await;
    let ended = world.until(id, |all| all.iter().any(|one| one.exit_code.is_some())).await;
    assert_eq!(ended[0].reason(), NotReadyReason::OutOfMemory, "{ended:?}");
    assert!(ended[0].permanent && ended[0].oom_killed, "{ended:?}");
    assert_eq!(ended[0].log_tail, ["filling"]);
}

pub async fn an_image_that_is_nowhere_is_named_and_leaves_nothing(world: &World<'_>) {
    let image = format!("127.0.0.1:1/no-such-image@sha256:{}", "0".repeat(64));
    let request = DeploymentRequest { image: image.clone(), ..world.request() };
    let refused = world.try_apply(&request).await.expect_err("it has no such image");
    assert!(matches!(refused.code(), Code::NotFound | Code::Unavailable), "{refused}");
    assert!(refused.message().contains(&image), "{refused}");
    // One that may come back is tried again.
    let reason = NotReady::decode(refused.details()).unwrap().reason();
    assert_eq!(reason == NotReadyReason::ImagePull, refused.code() == Code::NotFound, "{refused}");
    assert!(world.get(&request.deployment_id).await.is_empty());
    assert!(world.found(&request.deployment_id).await.is_empty());
}

pub async fn one_that_ignores_its_stop_signal_is_killed_after_its_grace(world: &World<'_>) {
    let script = format!("trap '' TERM; {SERVER}; while :; do /busybox sleep 1; done");
    let request = world.scripted(&script);
    let id = &request.deployment_id;
    world.deploy(&request).await;
    let begun = Instant::now();
    world.delete(id).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900), "it was not given its grace: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(world.get(id).await.is_empty());
}

pub async fn the_stop_signal_is_the_one_asked_for(world: &World<'_>) {
    let script =
        format!("trap '' TERM; trap 'exit 0' INT; {SERVER}; while :; do /busybox sleep 0.1; done");
    let request = DeploymentRequest {
        stop_signal: "SIGINT".to_owned(),
        stop_grace_seconds: 40,
        ..world.scripted(&script)
    };
    world.deploy(&request).await;
    let begun = Instant::now();
    world.delete(&request.deployment_id).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "it was given another signal");
}

pub async fn requests_that_break_a_rule_are_refused_with_its_name(world: &World<'_>) {
    let good = world.request();
    let process = Process { name: "Web_1".to_owned(), ..Process::default() };
    for (bad, named) in [
        (DeploymentRequest { deployment_id: "x".to_owned(), ..good.clone() }, "`x`"),
        (DeploymentRequest { namespace: "y".to_owned(), ..good.clone() }, "`y`"),
        (DeploymentRequest { image: String::new(), ..good.clone() }, "image"),
        (DeploymentRequest { port: 65_536, ..good.clone() }, "65536"),
        (DeploymentRequest { replicas: 101, ..good.clone() }, "101"),
        (DeploymentRequest { processes: vec![process], ..good.clone() }, "`Web_1`"),
    ] {
        let refused = world.try_apply(&bad).await.expect_err(named);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(named), "{refused}");
    }
}
