//! Commands that run once.

use std::time::{Duration, Instant};

use launchway_proto::krane::v1::{RunTaskRequest, task_event};
use launchway_workflows::ids::DeploymentId;
use tonic::Code;

use crate::world::{World, eventually};

/// Prints, says when it began, and ends with 4.
const ONCE: &str =
    "echo $GREETING; echo oops >&2; /busybox cat /proc/sys/kernel/random/uuid; exit 4";

/// For a deployment that has no instances: a release command comes before them.
fn new(world: &World<'_>) -> String {
    world.request().deployment_id
}

pub async fn a_task_runs_once_and_is_joined_afterwards(world: &World<'_>) {
    let id = new(world);
    let mut request = world.task(&id, "release", ONCE);
    request.env.insert("GREETING".to_owned(), "hello".to_owned());
    // Two callers at once: it runs once.
    let (first, second) = tokio::join!(world.run_task(&request), world.run_task(&request));
    assert_eq!(first.ended.exit_code, 4, "{first:?}");
    assert!(!first.ended.timed_out && !first.ended.oom_killed, "{first:?}");
    let texts = first.texts();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts.contains(&"hello") && texts.contains(&"oops"), "{texts:?}");
    let again = world.run_task(&RunTaskRequest { join_only: true, ..request.clone() }).await;
    for other in [&second, &again] {
        assert_eq!(other.lines, first.lines, "it ran twice");
        assert_eq!((&other.ended, other.started.at), (&first.ended, first.started.at));
    }
    assert!(again.started.joined);
    assert!(first.started.joined != second.started.joined, "one of the two has started it");
}

pub async fn a_task_that_runs_is_joined_from_its_first_line(world: &World<'_>) {
    let id = new(world);
    let script = "echo one; while ! [ -e /go ]; do /busybox sleep 0.05; done; echo two";
    // It waits for what nobody ever does, so only its beginning is read here.
    let request = world.task(&id, "slow", script);
    for _ in 0..2 {
        let mut events = world.begin_task(&request).await.unwrap();
        let started = events.message().await.unwrap().unwrap().event;
        assert!(matches!(started, Some(task_event::Event::Started(_))), "{started:?}");
        let line = events.message().await.unwrap().unwrap().event;
        let Some(task_event::Event::Line(line)) = line else { panic!("{line:?}") };
        assert_eq!(line.text, "one");
    }
    let begun = Instant::now();
    world.delete_task(&id, "slow").await;
    assert!(begun.elapsed() < Duration::from_secs(30));
}

pub async fn a_task_that_was_not_started_is_not_joined(world: &World<'_>) {
    let id = new(world);
    let request = RunTaskRequest { join_only: true, ..world.task(&id, "release", "exit 0") };
    let refused = world.begin_task(&request).await.expect_err("it was not started");
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert!(world.found(&id).await.is_empty());
    world.delete_task(&id, "release").await;
}

pub async fn a_task_ends_at_its_time_limit(world: &World<'_>) {
    let id = new(world);
    let script = "trap '' TERM; echo begun; while :; do /busybox sleep 0.1; done";
    let request = RunTaskRequest { time_limit_seconds: 2, ..world.task(&id, "endless", script) };
    let begun = Instant::now();
    let ran = world.run_task(&request).await;
    assert!(ran.ended.timed_out, "{ran:?}");
    assert_eq!(ran.texts(), ["begun"]);
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(30), "{took:?}");
    // What it was is found again.
    let again = world.run_task(&RunTaskRequest { join_only: true, ..request }).await;
    assert_eq!(again.ended, ran.ended);
}

pub async fn a_task_is_no_instance_and_goes_with_its_deployment(world: &World<'_>) {
    let deployment = world.request();
    let id = &deployment.deployment_id;
    let ready = world.deploy(&deployment).await;
    let endless = world.task(id, "endless", "echo begun; while :; do /busybox sleep 0.1; done");
    let mut events = world.begin_task(&endless).await.unwrap();
    events.message().await.unwrap();
    world.run_task(&world.task(id, "ended", "exit 0")).await;
    assert_eq!(world.get(id).await, ready);
    assert_eq!(world.watch(id).await.next().await, ready);
    let tasks = world.found(id).await.into_iter().filter(|found| found.kind == "task").count();
    assert_eq!(tasks, 2);
    // It is not an instance of the deployment for an apply, either.
    world.apply(&deployment).await;
    assert_eq!(world.get(id).await, ready);
    world.delete(id).await;
    assert!(world.found(id).await.is_empty(), "{:?}", world.found(id).await);
}

pub async fn a_deleted_task_runs_again(world: &World<'_>) {
    let id = new(world);
    let request = world.task(&id, "release", ONCE);
    let first = world.run_task(&request).await;
    world.delete_task(&id, "release").await;
    assert!(world.found(&id).await.is_empty());
    let second = world.run_task(&request).await;
    assert!(!second.started.joined);
    assert_ne!(first.texts(), second.texts(), "it has not run again");
}

pub async fn a_task_outlives_its_caller_and_krane(world: &World<'_>) {
    let id = DeploymentId::generate().to_string();
    let script = "echo begun; /busybox sleep 3; echo done; exit 5";
    let request = world.task(&id, "release", script);
    let mut events = world.begin_task(&request).await.unwrap();
    events.message().await.unwrap();
    drop(events);
    let restarted = world.harness.restart().await;
    let join = RunTaskRequest { join_only: true, ..request };
    let ran = eventually("krane answers", async || {
        world.begin_task(&join).await.ok()?;
        Some(world.run_task(&join).await)
    })
    .await;
    assert!(ran.started.joined, "restarted: {restarted}");
    assert_eq!((ran.texts(), ran.ended.exit_code), (vec!["begun", "done"], 5));
    world.delete(&id).await;
}

/// Whether that is refused or ends with a code is the runtime's choice.
pub async fn a_command_that_does_not_exist_ends_with_an_error(world: &World<'_>) {
    let id = new(world);
    let request = RunTaskRequest {
        command: vec!["/no/such/program".to_owned()],
        replace_entrypoint: true,
        ..world.task(&id, "release", "")
    };
    match world.begin_task(&request).await {
        Err(refused) => {
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            assert!(refused.message().contains("/no/such/program"), "{refused}");
        }
        Ok(_) => {
            let ran = world.run_task(&request).await;
            assert_ne!(ran.ended.exit_code, 0, "{ran:?}");
        }
    }
}
