//! kill -9 of each process, with a deployment at each point of each step. The
//! steps and points are enumerated: a new step is covered by being one.

use std::collections::HashSet;

use launchway::store::DeploymentView;
use launchway_workflows::{engine::failpoint::Point, ids::DeploymentId, step::Step};

use crate::{
    effects::{assert_single_effects, instances},
    failpoints::Reached,
    support::{Installation, Process, eventually, now_ms},
};

/// Predecessors retire at once: that is interrupted too.
pub const SETTINGS: [&str; 3] =
    ["build.concurrency=64", "run.keep_running=0", "run.retire_after=200ms"];
/// Decided at the first look.
const READY_AT_ONCE: &[(&str, &str)] = &[];
/// Long enough to be waited for with an awakeable.
pub const SLOWLY_READY: &[(&str, &str)] = &[("LAUNCHWAY_INSTANT_READY_AFTER", "500")];
/// From the process being back to the first thing that had not been done. The
/// aim is two seconds; this bound also holds on a machine that does other work.
const LONGEST_PAUSE_MS: i64 = 6_000;

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_the_worker_is_killed() {
    survives("worker", &[Process::Worker], SLOWLY_READY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_restate_is_killed() {
    survives("restate-server", &[Process::Restate], READY_AT_ONCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_krane_is_killed() {
    survives("krane", &[Process::Krane], READY_AT_ONCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_everything_is_killed() {
    survives("everything", &Process::APART, SLOWLY_READY).await;
}

/// All in one process, as on a laptop; its restate-server outlives it.
#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_up_is_killed() {
    let here = Installation::together(&SETTINGS, READY_AT_ONCE).await;
    survives_in(here, "`up`", &[Process::Up]).await;
}

/// On a real engine: real builds, containers, probes and uploads.
mod on_docker {
    use super::*;

    async fn survives(label: &str, killed: &[Process]) {
        let here = Installation::apart_on_docker(&SETTINGS, None).await;
        survives_in(here, &format!("{label}, Docker"), killed).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "minutes of real builds: ./dev chaos"]
    async fn every_deployment_goes_live_when_the_worker_is_killed() {
        survives("worker", &[Process::Worker]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "minutes of real builds: ./dev chaos"]
    async fn every_deployment_goes_live_when_restate_is_killed() {
        survives("restate-server", &[Process::Restate]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "minutes of real builds: ./dev chaos"]
    async fn every_deployment_goes_live_when_krane_is_killed() {
        survives("krane", &[Process::Krane]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "minutes of real builds: ./dev chaos"]
    async fn every_deployment_goes_live_when_everything_is_killed() {
        survives("everything", &Process::APART).await;
    }
}

/// A set of instances that krane had made half of is made whole, by whichever
/// of the processes comes back.
#[tokio::test(flavor = "multi_thread")]
async fn half_made_instances_are_completed_whoever_is_killed() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    for (number, process) in [Process::Krane, Process::Worker, Process::Restate].iter().enumerate()
    {
        here.arm("apply", "during");
        let id = here.submit(&format!("half-{number}")).await;
        assert_eq!(here.parked("apply", "during").await, id);
        assert_eq!(instances(&here, &id), 1, "half of them");
        here.kill(*process);
        here.start(*process).await;
        here.ended(std::slice::from_ref(&id)).await;
        here.release("apply", "during");
        assert_single_effects(&here, &id).await;
    }
}

async fn survives(label: &str, killed: &[Process], readiness: &[(&str, &str)]) {
    let here = Installation::apart(&SETTINGS, readiness).await;
    survives_in(here, label, killed).await;
}

pub async fn survives_in(mut here: Installation, label: &str, killed: &[Process]) {
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    kill_at_all(&mut here, label, &Step::ALL, &projects, killed).await;
    here.assert_nothing_ran_twice_at_once();
    assert_only_the_latest_run(&here, &projects).await;
}

/// The processes are killed once for each point, with a deployment there in each of
/// the steps.
pub async fn kill_at_all(
    here: &mut Installation,
    label: &str,
    steps: &[Step],
    projects: &[String],
    killed: &[Process],
) {
    for point in Point::ALL {
        let mut pauses = kill_at(here, steps, projects, killed, point).await;
        pauses.sort_unstable();
        let (median, worst) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
        println!("| {label} | {} | {} | {median} | {worst} |", point.name(), pauses.len());
        assert!(worst < LONGEST_PAUSE_MS, "{label} {}: {pauses:?}", point.name());
    }
}

/// Milliseconds from the processes being back until each deployment that had
/// to wait for them had done something new.
async fn kill_at(
    here: &mut Installation,
    steps: &[Step],
    projects: &[String],
    killed: &[Process],
    point: Point,
) -> Vec<i64> {
    steps.iter().for_each(|step| here.arm(step.name(), point.name()));
    let ids = here.submit_all(projects).await;
    let parked = here.parked_at_all(steps, point).await;
    killed.iter().for_each(|process| here.kill(*process));
    let only_krane = killed == [Process::Krane];
    let mut waiting: Vec<_> = parked.iter().map(|(_, id)| id.clone()).collect();
    if only_krane {
        // Their worker lives: they go on, up to the step that needs krane.
        release_all(here, steps, point);
        waiting = held_up_by_krane(here, &parked).await;
    }
    let known = here.reached();
    here.start_all(killed).await;
    let back = now_ms();
    here.ended(&ids).await;
    if !only_krane {
        release_all(here, steps, point);
    }
    for (step, id) in &parked {
        let shown = assert_single_effects(here, id).await;
        assert_tries(&shown, *step, point, only_krane);
    }
    let reached = here.reached();
    waiting
        .iter()
        .map(|id| {
            // What krane does first is to make an instance.
            let made = here.outside.began(id).filter(|_| only_krane);
            made.unwrap_or_else(|| first_progress(&known, &reached, id)) - back
        })
        .map(|ms| ms.max(0))
        .collect()
}

/// The deployments that were before `deploy-to-krane`, once each has tried in
/// vain what needs krane.
async fn held_up_by_krane(
    here: &Installation,
    parked: &[(Step, DeploymentId)],
) -> Vec<DeploymentId> {
    let mut waiting = Vec::new();
    for (step, id) in parked.iter().filter(|(step, _)| *step < Step::DeployToKrane) {
        eventually(&format!("{id}, which was at {step}, misses krane"), async || {
            let shown = here.view(id).await;
            let needs_krane = [Step::ReleaseCommand, Step::DeployToKrane].map(Step::name);
            let mut rows =
                shown.steps.iter().filter(|row| needs_krane.contains(&row.name.as_str()));
            rows.any(|row| row.error_code.is_some()).then_some(())
        })
        .await;
        waiting.push(id.clone());
    }
    waiting
}

/// When the deployment reached what it had not reached before.
pub fn first_progress(known: &[Reached], reached: &[Reached], id: &DeploymentId) -> i64 {
    let key = |line: &Reached| (line.name.clone(), line.point.clone());
    let of_it = |line: &&Reached| line.id == id.as_str() && line.point != "left";
    let known: HashSet<_> = known.iter().filter(of_it).map(key).collect();
    let new = reached.iter().filter(of_it).find(|line| !known.contains(&key(line)));
    new.unwrap_or_else(|| panic!("{id} has done nothing new")).at
}

pub fn release_all(here: &Installation, steps: &[Step], point: Point) {
    for step in steps {
        here.release(step.name(), point.name());
    }
}

/// What the journal had is not done again; what was interrupted is, once.
fn assert_tries(shown: &DeploymentView, parked: Step, point: Point, only_krane: bool) {
    for row in &shown.steps {
        let step: Step = row.name.parse().unwrap();
        let journaled = step < parked || (step == parked && point == Point::Journaled);
        let at_most = match (journaled, only_krane) {
            (true, _) => 1,
            // krane's absence is waited out by trying again.
            (false, true) => u32::MAX,
            (false, false) if step == parked => 2,
            (false, false) => 1,
        };
        let context = format!("{step}, killed at {parked} {}", point.name());
        assert!(row.tries <= at_most, "{context}: {} tries: {:#?}", row.tries, shown.steps);
    }
}

/// Every predecessor has been retired, whatever was killed meanwhile.
pub async fn assert_only_the_latest_run(here: &Installation, projects: &[String]) {
    eventually("only the latest deployments run", async || {
        (here.outside.deployed().len() == projects.len()).then_some(())
    })
    .await;
    assert_eq!(here.slot_holders().await, Vec::<String>::new(), "a slot is held");
}
