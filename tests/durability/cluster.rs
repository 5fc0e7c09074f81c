//! Postgres instead of SQLite, and two workers behind one address: whichever
//! dies, the other goes on with what it had.

use std::collections::HashSet;

use launchway_workflows::{engine::failpoint::Point, step::Step};

use crate::{
    chaos::{SETTINGS, assert_only_the_latest_run, first_progress, release_all},
    effects::assert_single_effects,
    support::{Installation, Process, now_ms},
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
        here.parked_at_all(point).await;
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
        release_all(&here, point);
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

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_on_postgres_when_everything_is_killed() {
    let everything = [&Process::APART[..], &[Process::SecondWorker]].concat();
    let here = Installation::as_cluster(&SETTINGS).await;
    crate::chaos::survives_in(here, "everything, Postgres", &everything).await;
}
