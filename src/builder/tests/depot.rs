//! What is Depot's own: projects, registration, health, and ends that are
//! always told.

use std::{sync::Arc, time::Duration};

use launchway_workflows::{
    error::{ErrorCode, StepError},
    model::BuildOptions,
    ports::Builder,
    secret::Secret,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    bench::{Backend, Bench, HEAD, run, sleeping},
    servers::registry::PASSWORD,
    suite::{gone, started, unique_seconds},
};

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Checklist 27, 74, 79.
#[tokio::test]
async fn a_project_is_created_once_however_many_build_first() {
    let bench = Bench::new(Backend::Depot, HEAD).await;
    let others: Vec<_> = (0..3).map(|_| bench.depot_builder(|_, _| {})).collect();
    let builds = others.iter().map(|builder| async {
        let spec = bench.spec(BuildOptions::default()).await;
        let (events, mut received) = mpsc::channel(16);
        let (built, ()) = tokio::join!(builder.build(&spec, events), async {
            while received.recv().await.is_some() {}
        });
        (spec, built.unwrap())
    });
    let built = futures::future::join_all(builds).await;
    let state = bench.depot().state();
    assert_eq!(state.projects.len(), 1, "{:?}", state.projects);
    for (spec, image) in built {
        let expected = format!(
            "{}/depotproject1:{}-{}",
            bench.registry.host, spec.project_id, spec.deployment_id
        );
        assert_eq!(image.reference, expected);
        assert!(state.builds.values().any(|build| build.tags == [expected.clone()]), "{expected}");
    }
}

/// Checklist 1, 40.
#[tokio::test]
async fn the_registrys_password_is_no_token() {
    let bench = Bench::new(Backend::Depot, HEAD).await;
    let builder = bench.depot_builder(|account, _| account.token = Secret::new(PASSWORD));
    let spec = bench.spec(BuildOptions::default()).await;
    let error = builder.build(&spec, mpsc::channel(16).0).await.unwrap_err();
    assert!(matches!(error, StepError::Permanent(_)), "{error:?}");
    let said = format!("{error:?}");
    assert!(said.contains("depot.token_file") && !said.contains(PASSWORD), "{said}");
}

/// Checklist 26, 77.
#[tokio::test]
async fn each_end_is_told_as_what_it_was() {
    let bench = Bench::new(Backend::Depot, HEAD).await;
    bench.run().await.image();
    bench.upload(&run("exit 3")).await;
    bench.run().await.error();
    let ends = bench.depot().ends();
    assert_eq!(ends[0], ["success"]);
    assert!(ends[1].len() == 1 && ends[1][0].contains("exit code: 3"), "{ends:?}");
    assert_eq!(bench.untold().await, 0);
}

#[tokio::test]
async fn a_machine_that_never_comes_is_a_lost_builder() {
    let bench = Bench::new(Backend::Depot, HEAD).await;
    bench.depot().state().pending = u32::MAX;
    let builder = bench.depot_builder(|_, limits| limits.machine = Duration::from_millis(300));
    let spec = bench.spec(BuildOptions::default()).await;
    let error = builder.build(&spec, mpsc::channel(16).0).await.unwrap_err();
    assert!(matches!(error, StepError::Transient(_)), "{error:?}");
    assert_eq!(error.failure().code, ErrorCode::BuilderUnavailable);
    let ends = bench.depot().ends();
    assert!(ends[0].len() == 1 && ends[0][0].contains("no machine"), "{ends:?}");
}

#[tokio::test]
async fn a_connection_that_drops_in_the_solve_ends_the_build_as_an_error() {
    let seconds = unique_seconds(4);
    let dockerfile = run(&format!("/bin/busybox sleep {seconds}"));
    let bench = Bench::new(Backend::Depot, &dockerfile).await;
    let building = started(&bench, bench.spec(BuildOptions::default()).await, &seconds).await;
    bench.forwarder.as_ref().unwrap().cut();
    let lost = building.await.unwrap().unwrap_err();
    assert_eq!(lost.failure().code, ErrorCode::BuilderUnavailable, "{lost:?}");
    let ends = bench.depot().ends();
    assert!(ends[0].len() == 1 && ends[0][0].starts_with("error: "), "{ends:?}");
    gone(&seconds, Duration::from_secs(5)).await;
}

/// More often than is tried at once: the next process tells it.
#[tokio::test]
async fn an_end_that_was_lost_is_told_by_the_next_process() {
    let bench = Bench::new(Backend::Depot, HEAD).await;
    bench.depot().state().lose_finishes = 3;
    bench.run().await.image();
    assert_eq!(bench.depot().ends(), [Vec::<String>::new()]);
    assert_eq!(bench.untold().await, 1);
    let _next = bench.depot_builder(|_, _| {});
    until("the end is told", || bench.depot().ends() == [["success"]]).await;
    let begun = Instant::now();
    while bench.untold().await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not forgotten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_build_whose_worker_was_killed_is_ended_by_the_next_attempt() {
    let bench = Bench::new(Backend::Depot, HEAD).await;
    bench.depot().state().pending = u32::MAX;
    let spec = bench.spec(BuildOptions::default()).await;
    let (builder, first) = (Arc::clone(&bench.builder), spec.clone());
    let killed = tokio::spawn(async move { builder.build(&first, mpsc::channel(16).0).await });
    until("it asks for a machine", || bench.depot().state().pending < u32::MAX).await;
    killed.abort();
    assert_eq!(bench.depot().ends(), [Vec::<String>::new()]);
    bench.depot().state().pending = 0;
    // As the step does when it is executed again, on another worker.
    let next = bench.depot_builder(|_, _| {});
    assert_eq!(next.find_image(&spec).await.unwrap(), None);
    next.abort(&spec.build_id).await.unwrap();
    let (events, mut received) = mpsc::channel(16);
    let (built, ()) =
        tokio::join!(next.build(&spec, events), async { while received.recv().await.is_some() {} });
    built.unwrap();
    assert_eq!(bench.depot().ends(), [["canceled"], ["success"]]);
}

#[tokio::test]
async fn a_cancelled_build_ends_on_its_machine_and_at_depot() {
    let seconds = unique_seconds(5);
    let dockerfile = run(&format!("/bin/busybox sleep {seconds}"));
    let bench = Bench::new(Backend::Depot, &dockerfile).await;
    let spec = bench.spec(BuildOptions::default()).await;
    let building = started(&bench, spec.clone(), &seconds).await;
    building.abort();
    bench.builder.abort(&spec.build_id).await.unwrap();
    gone(&seconds, Duration::from_secs(2)).await;
    assert_eq!(bench.depot().ends(), [["canceled"]]);
}

#[tokio::test]
async fn depot_is_told_that_a_build_goes_on_from_before_it_has_a_machine() {
    let seconds = unique_seconds(6);
    let dockerfile = run(&format!("/bin/busybox sleep {seconds}"));
    let bench = Bench::new(Backend::Depot, &dockerfile).await;
    let building = started(&bench, bench.spec(BuildOptions::default()).await, &seconds).await;
    let reports = || bench.depot().state().builds["build000"].health;
    let so_far = reports();
    assert!(bench.depot().state().builds["build000"].health_before >= 1);
    until("it is told again", || reports() >= so_far + 3).await;
    // A report that fails does not end a build.
    bench.depot().state().refuse_health = true;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sleeping(&seconds), 1);
    bench.depot().state().refuse_health = false;
    // Depot's own word does.
    bench.depot().state().cancels_in = Some(Duration::ZERO);
    let ended = building.await.unwrap().unwrap_err();
    assert!(ended.failure().message.contains("Depot has ended the build"), "{ended:?}");
    gone(&seconds, Duration::from_secs(5)).await;
}
