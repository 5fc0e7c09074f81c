//! How long it takes until something is known. The limits leave room for machines
//! that do other things too.

use std::time::{Duration, Instant};

use launchway_proto::krane::v1::{HealthCheck, Instance, NotReadyReason};

use crate::{harness::HTTPD, world::World};

const SAMPLES: usize = 5;

/// The middle one counts: a machine may be busy for a moment.
fn assert_soon(world: &World<'_>, what: &str, mut took: Vec<Duration>) {
    took.sort();
    println!("{what}: median {:?} of {took:?}", took[took.len() / 2]);
    assert!(took[took.len() / 2] < world.harness.report_limit(), "{what}: {took:?}");
}

fn is_asked(instance: &Instance) -> bool {
    instance.reason() == NotReadyReason::ProbeFailing
}

pub async fn an_exit_is_reported_at_once(world: &World<'_>) {
    let mut took = Vec::new();
    for _ in 0..SAMPLES {
        // It ends when it is told to, before it was ever ready.
        let script = "trap 'exit 7' TERM; while :; do /busybox sleep 0.01; done";
        let request = world.scripted(script);
        let id = &request.deployment_id;
        world.apply(&request).await;
        let mut watch = world.watch(id).await;
        watch.until(|all| all.iter().any(is_asked)).await;
        let begun = Instant::now();
        let (_, ended) = tokio::join!(
            world.exec(id, "kill -TERM 1"),
            watch.until(|all| all.iter().any(|one| one.exit_code == Some(7))),
        );
        took.push(begun.elapsed());
        assert_eq!(ended.len(), 1);
        world.delete(id).await;
    }
    assert_soon(world, "from the signal to the report of the exit", took);
}

pub async fn readiness_is_reported_at_once(world: &World<'_>) {
    let mut took = Vec::new();
    for _ in 0..SAMPLES {
        let script = format!(
            "/busybox mkdir -p /tmp; while ! [ -e /tmp/go ]; do /busybox sleep 0.01; done; {HTTPD}"
        );
        let mut request = world.scripted(&script);
        let health = HealthCheck { interval_ms: 20, ..HealthCheck::default() };
        request.processes[0].health = Some(health);
        let id = &request.deployment_id;
        world.apply(&request).await;
        let mut watch = world.watch(id).await;
        watch.until(|all| all.iter().any(is_asked)).await;
        let begun = Instant::now();
        let (_, ready) = tokio::join!(
            world.exec(id, "> /tmp/go"),
            watch.until(|all| all.iter().any(|one| one.ready)),
        );
        took.push(begun.elapsed());
        assert_eq!(ready.len(), 1);
        world.delete(id).await;
    }
    assert_soon(world, "from the word to serve to the report of readiness", took);
}
