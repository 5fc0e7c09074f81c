//! Postgres instead of SQLite, and two workers behind one address: whichever
//! dies, the other goes on with what it had.

use std::collections::HashSet;

use launchway_workflows::{engine::failpoint::Point, status::DeploymentStatus, step::Step};

use crate::{
    chaos::{SETTINGS, assert_only_the_latest_run, first_progress, release_all},
    effects::assert_single_effects,
    stalls::signal,
    support::{Installation, Process, eventually, now_ms},
};

/// From the death of a worker to the first thing that the other does.
const LONGEST_PAUSE_MS: i64 = 6_000;

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_is_taken_over_when_its_worker_dies() {
    let mut here = Installation::as_cluster(&SETTINGS).await;
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    let mut killed = HashSet::new();
    for point in Point::ALL {
        Step::ALL.iter().for_each(|step| here.arm(step.name(), point.name()));
        let ids = here.submit_all(&projects).await;
        here.parked_at_all(&Step::ALL, point).await;
        let known = here.reached();
        let holds = |pid: u32| {
            known
                .iter()
                .rfind(|line| ids.iter().any(|id| line.id == id.as_str()) && line.pid == pid)
        };
        let one = [Process::Worker, Process::SecondWorker]
            .into_iter()
            .max_by_key(|worker| holds(here.pid(*worker)).map(|line| line.at))
            .unwrap();
        let pid = here.pid(one);
        here.kill(one);
        let died = now_ms();
        release_all(&here, &Step::ALL, point);
        here.ended(&ids).await;
        let reached = here.reached();
        let mut pauses: Vec<i64> = ids
            .iter()
            .filter(|id| known.iter().rfind(|line| line.id == id.as_str()).unwrap().pid == pid)
            .map(|id| first_progress(&known, &reached, id) - died)
            .collect();
        pauses.sort_unstable();
        assert!(!pauses.is_empty(), "{} had nothing to do", one.name());
        let (median, worst) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
        println!(
            "| one of two workers | {} | {} | {median} | {worst} |",
            point.name(),
            pauses.len()
        );
        assert!(worst < LONGEST_PAUSE_MS, "{pauses:?}");
        for id in &ids {
            assert_single_effects(&here, id).await;
        }
        killed.insert(one);
        here.start(one).await;
    }
    assert_eq!(killed.len(), 2, "one of them was never given anything");
    assert_only_the_latest_run(&here, &projects).await;
}

/// The engine goes on with what a frozen worker has begun, while Restate has given
/// the deployment to the other one: that must not build beside it, and what was
/// built is not built again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a build that outlasts Restate's patience, on real Docker: ./dev chaos"]
async fn a_build_of_a_frozen_worker_is_not_done_again_on_docker() {
    let here = Installation::with_two_workers_on_docker(&SETTINGS).await;
    let id = here.submit_building_for("shop", "25").await;
    eventually("it builds", async || here.outside.builds(&here.view(&id).await).then_some(()))
        .await;
    let entered = |point: &str| {
        let of_the_build = |line: &crate::failpoints::Reached| {
            line.id == id.as_str() && line.name == "build-image" && line.point == point
        };
        here.reached().into_iter().filter(of_the_build).map(|line| line.pid).collect::<Vec<_>>()
    };
    let [pid] = entered("entered")[..] else { panic!("{:?}", here.reached()) };
    let of_pid = |worker: &Process| here.pid(*worker) == pid;
    let frozen = [Process::Worker, Process::SecondWorker].into_iter().find(of_pid).unwrap();
    signal(&here, frozen, "STOP");
    eventually("the other worker has it", async || {
        entered("entered").iter().any(|other| *other != pid).then_some(())
    })
    .await;
    assert!(here.outside.builds(&here.view(&id).await), "it was to be built meanwhile");
    here.wait(&id, DeploymentStatus::Live).await;
    here.ended(std::slice::from_ref(&id)).await;
    let built = assert_single_effects(&here, &id).await;
    signal(&here, frozen, "CONT");
    eventually("it has let go", async || entered("left").contains(&pid).then_some(())).await;
    let still = assert_single_effects(&here, &id).await;
    assert_eq!(still.image_digest, built.image_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_on_postgres_when_everything_is_killed() {
    let everything = [&Process::APART[..], &[Process::SecondWorker]].concat();
    let here = Installation::as_cluster(&SETTINGS).await;
    crate::chaos::survives_in(here, "everything, Postgres", &everything).await;
}
