//! kill -9 of each process, with a deployment at each point of each step. The
//! steps and points are enumerated: a new step is covered by being one.

use std::collections::HashSet;

use launchway_workflows::{
    engine::failpoint::Point, ids::DeploymentId, status::DeploymentStatus, step::Step,
};

use crate::support::{Installation, Process, REPLICAS, eventually, now_ms};

/// Predecessors retire at once: that is interrupted too.
const SETTINGS: [&str; 3] =
    ["build.concurrency=64", "run.keep_running=0", "run.retire_after=200ms"];
/// From the process being back to the first thing that had not been done. The
/// aim is two seconds; this bound also holds on a machine that does other work.
const LONGEST_PAUSE_MS: i64 = 6_000;

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_the_worker_is_killed() {
    survives("worker", &[Process::Worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_restate_is_killed() {
    survives("restate-server", &[Process::Restate]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_krane_is_killed() {
    survives("krane", &[Process::Krane]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_everything_is_killed() {
    survives("everything", &Process::APART).await;
}

/// A set of instances that krane had made half of is made whole, by whichever
/// of the processes comes back.
#[tokio::test(flavor = "multi_thread")]
async fn half_made_instances_are_completed_whoever_is_killed() {
    let mut here = Installation::apart(&SETTINGS).await;
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

async fn survives(label: &str, killed: &[Process]) {
    let mut here = Installation::apart(&SETTINGS).await;
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    for point in Point::ALL {
        let mut pauses = kill_at(&mut here, &projects, killed, point).await;
        pauses.sort_unstable();
        let (median, worst) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
        println!("| {label} | {} | {} | {median} | {worst} |", point.name(), pauses.len(),);
        assert!(worst < LONGEST_PAUSE_MS, "{label} {}: {pauses:?}", point.name());
    }
    here.assert_nothing_ran_twice_at_once();
    assert_only_the_latest_run(&here, &projects).await;
}

/// Milliseconds from the processes being back until each deployment had done
/// something new; only of those that had to wait for them.
async fn kill_at(
    here: &mut Installation,
    projects: &[String],
    killed: &[Process],
    point: Point,
) -> Vec<i64> {
    Step::ALL.iter().for_each(|step| here.arm(step.name(), point.name()));
    let ids = here.submit_all(projects).await;
    let parked = here.parked_at_all(point).await;
    let known: HashSet<_> =
        here.reached().into_iter().map(|line| (line.id, line.name, line.point)).collect();
    killed.iter().for_each(|process| here.kill(*process));
    let only_krane = killed == [Process::Krane];
    if only_krane {
        // Their worker lives: they go on while krane is away.
        release_all(here, point);
    }
    for process in killed {
        here.start(*process).await;
    }
    let back = now_ms();
    here.ended(&ids).await;
    if !only_krane {
        release_all(here, point);
    }
    for (step, id) in &parked {
        let shown = assert_single_effects(here, id).await;
        assert_tries(&shown, *step, point, only_krane);
    }
    let reached = here.reached();
    let progress = parked.iter().map(|(step, id)| {
        let first = reached.iter().find(|line| {
            let key = (line.id.clone(), line.name.clone(), line.point.clone());
            line.id == id.as_str() && line.point != "left" && !known.contains(&key)
        });
        let first = first.unwrap_or_else(|| panic!("{id} at {step} has done nothing new"));
        first.at - back
    });
    let mut pauses: Vec<_> = progress.collect();
    if only_krane {
        pauses.retain(|pause| *pause >= 0);
        pauses.push(0);
    }
    pauses.into_iter().map(|pause| pause.max(0)).collect()
}

fn release_all(here: &Installation, point: Point) {
    for step in Step::ALL {
        here.release(step.name(), point.name());
    }
}

/// What the journal had is not done again; what was interrupted is, once.
fn assert_tries(
    shown: &launchway::store::DeploymentView,
    parked: Step,
    point: Point,
    only_krane: bool,
) {
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

fn instances(here: &Installation, id: &DeploymentId) -> u32 {
    let set = here.world.get("instances", id.as_str()).unwrap_or_default();
    set.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Live, and everything outside is there once.
async fn assert_single_effects(
    here: &Installation,
    id: &DeploymentId,
) -> launchway::store::DeploymentView {
    let shown = here.view(id).await;
    assert_eq!(shown.status, DeploymentStatus::Live, "{shown:#?}");
    let build = shown.build_id.as_str();
    assert_eq!(here.world.count("image", build), 1, "one image: {shown:#?}");
    assert_eq!(here.world.count("two-builds-at-once", build), 0, "{shown:#?}");
    assert_eq!(here.world.get("builds", build), None, "a build still runs: {shown:#?}");
    assert_eq!(instances(here, id), REPLICAS, "one set of instances: {shown:#?}");
    let routed = shown.routed.as_ref().expect("routed");
    let routes = here.store.route_rows().await.unwrap();
    assert_eq!(routed.domains.len(), 3, "commit, branch and environment: {shown:#?}");
    for domain in &routed.domains {
        let targets: Vec<_> = routes.iter().filter(|route| route.host == *domain).collect();
        assert_eq!(targets.len(), 1, "{domain}: {targets:?}");
        assert_eq!(targets[0].deployment_id, *id, "{domain}");
    }
    shown
}

/// Every predecessor has been retired, whatever was killed meanwhile.
async fn assert_only_the_latest_run(here: &Installation, projects: &[String]) {
    eventually("only the latest deployments run", async || {
        (here.world.ids("instances").len() == projects.len()).then_some(())
    })
    .await;
    assert_eq!(here.slot_holders().await, Vec::<String>::new(), "a slot is held");
}
