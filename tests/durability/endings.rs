//! A workflow that is cancelled, killed or interrupted while it unwinds ends
//! with a clean slate, at whatever point of whatever step it stood.

use std::collections::HashMap;

use launchway_workflows::{
    engine::failpoint::Point, error::ErrorCode, ids::DeploymentId, status::DeploymentStatus,
    step::Step,
};
use serde_json::json;

use crate::{
    effects::{assert_clean_slate, assert_single_effects},
    support::{Installation, Process, eventually, now_ms},
};

const SETTINGS: [&str; 3] = ["build.concurrency=64", "recovery.every=1s", "recovery.grace=1s"];
/// A look of the reconciler, what it waits for, and the unwinding itself.
const RECONCILED_WITHIN_MS: i64 = 6_000;

/// From here on the domains have moved.
fn is_committed(step: Step, point: Point) -> bool {
    step > Step::AssignDomains || (step == Step::AssignDomains && point != Point::Before)
}

fn projects() -> Vec<String> {
    Step::ALL.iter().map(|step| format!("shop-{step}")).collect()
}

async fn live(here: &Installation, projects: &[String]) -> Vec<DeploymentId> {
    let ids = here.submit_all(projects).await;
    here.ended(&ids).await;
    ids
}

/// One deployment at the point of each step, with its predecessor.
async fn parked(
    here: &Installation,
    before: &[DeploymentId],
    point: Point,
) -> Vec<(Step, DeploymentId, DeploymentId)> {
    Step::ALL.iter().for_each(|step| here.arm(step.name(), point.name()));
    let ids = here.submit_all(&projects()).await;
    let predecessor: HashMap<_, _> = ids.iter().zip(before).collect();
    let parked = here.parked_at_all(&Step::ALL, point).await;
    let with_predecessor = |(step, id): (Step, DeploymentId)| {
        let predecessor = predecessor[&id].clone();
        (step, id, predecessor)
    };
    parked.into_iter().map(with_predecessor).collect()
}

/// It serves now what the predecessor has served.
fn succeed(before: &mut [DeploymentId], predecessor: &DeploymentId, id: DeploymentId) {
    before.iter_mut().filter(|known| *known == predecessor).for_each(|known| *known = id.clone());
}

/// The step is not known where it had ended and no other had begun.
fn assert_interrupted(at: Option<Step>, step: Step, point: Point) {
    match point {
        Point::Journaled => assert!(at.is_none() || at == Some(step), "{at:?}, not {step}"),
        _ => assert_eq!(at, Some(step)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_is_killed_anywhere_is_unwound_within_the_interval() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let mut before = live(&here, &projects()).await;
    for point in Point::ALL {
        let parked = parked(&here, &before, point).await;
        for (_, id, _) in &parked {
            for workflow in here.unfinished(id).await.unwrap() {
                here.end_invocation(&workflow, "kill").await;
            }
        }
        let killed = now_ms();
        for (step, id, predecessor) in parked {
            here.release(step.name(), point.name());
            if is_committed(step, point) {
                assert_single_effects(&here, &id).await;
                succeed(&mut before, &predecessor, id);
                continue;
            }
            let shown = here.wait(&id, DeploymentStatus::Failed).await;
            let failure = shown.failure.as_ref().unwrap();
            assert_eq!(failure.code, ErrorCode::Interrupted, "{step} {}", point.name());
            assert_interrupted(failure.step, step, point);
            let took = shown.updated_at - killed;
            assert!(took < RECONCILED_WITHIN_MS, "{step} {}: after {took} ms", point.name());
            assert_clean_slate(&here, &id, &predecessor).await;
        }
    }
    live(&here, &projects()).await;
    here.assert_nothing_ran_twice_at_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_any_point_ends_clean_or_comes_too_late() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let mut before = live(&here, &projects()).await;
    for point in Point::ALL {
        for (step, id, predecessor) in parked(&here, &before, point).await {
            let context = format!("{step} {}", point.name());
            let answer = here.ask("Deployments/cancel", &json!({ "deployment_id": id })).await;
            here.release(step.name(), point.name());
            if is_committed(step, point) {
                assert!(answer.as_ref().is_err_and(|why| why.contains("too late")), "{answer:?}");
                here.ended(std::slice::from_ref(&id)).await;
                assert_single_effects(&here, &id).await;
                succeed(&mut before, &predecessor, id);
                continue;
            }
            assert_eq!(answer.unwrap()["found"], "asked", "{context}");
            let shown = here.wait(&id, DeploymentStatus::Cancelled).await;
            assert!(!shown.undone.iter().any(|undone| undone.failed), "{context}: {shown:#?}");
            if point == Point::Journaled {
                // It had ended well, whatever came after it.
                let row = shown.steps.iter().find(|row| row.name == step.name()).unwrap();
                assert!(["done", "skipped"].contains(&row.status.as_str()), "{context}: {row:?}");
            }
            assert_clean_slate(&here, &id, &predecessor).await;
        }
    }
    live(&here, &projects()).await;
}

/// The deployment has ended when its wait asks for the slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_was_cancelled_keeps_no_slot_that_it_gets_late() {
    let here = Installation::together(&["build.concurrency=1"], &[]).await;
    here.arm("build-image", "during");
    let builds = here.submit("shop").await;
    here.parked("build-image", "during").await;
    here.arm("wait-for-slot", "during");
    let id = here.submit("queued").await;
    here.parked("wait-for-slot", "during").await;
    here.ask("Deployments/cancel", &json!({ "deployment_id": id })).await.unwrap();
    here.wait(&id, DeploymentStatus::Cancelled).await;
    here.release("build-image", "during");
    here.ended(std::slice::from_ref(&builds)).await;
    here.release("wait-for-slot", "during");
    eventually("the wait and what it has asked for have ended", async || {
        let sql = "SELECT id FROM sys_invocation WHERE status NOT IN ('completed', 'scheduled')";
        here.query(sql).await?.is_empty().then_some(())
    })
    .await;
    assert_eq!(here.slot_holders().await, Vec::<String>::new());
}

/// Where an unwind is interrupted, and the step that has failed.
const UNWINDING: [(&str, Step); 6] = [
    ("begin-unwind", Step::PushImage),
    ("undo-build-image", Step::BuildImage),
    ("undo-release-command", Step::ReleaseCommand),
    ("undo-deploy-to-krane", Step::AwaitReady),
    ("undo-deploy-to-krane", Step::AssignDomains),
    ("settle-attempt", Step::AwaitReady),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_unwind_goes_on_whatever_is_killed_in_the_middle_of_it() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let projects: Vec<_> =
        (0..UNWINDING.len() * 2).map(|number| format!("shop-{number}")).collect();
    let before = live(&here, &projects).await;
    let everything = Process::APART;
    for killed in [&everything[..1], &everything[1..2], &everything[3..], &everything] {
        let mut unwinding = Vec::new();
        for (number, project) in projects.iter().enumerate() {
            let (run, step) = UNWINDING[number / 2];
            let kind = ["run", "ran"][number % 2];
            here.break_at(step.name(), "fail", ErrorCode::RuntimeRejected);
            here.arm(run, kind);
            unwinding.push((here.submit(project).await, step));
            here.run_parked(run, kind).await;
            here.release(step.name(), "fail");
        }
        killed.iter().for_each(|process| here.kill(*process));
        for (run, kind) in UNWINDING.iter().flat_map(|(run, _)| [(*run, "run"), (*run, "ran")]) {
            here.release_if_parked(run, kind);
        }
        here.start_all(killed).await;
        for ((id, step), predecessor) in unwinding.iter().zip(&before) {
            let shown = here.wait(id, DeploymentStatus::Failed).await;
            let failure = shown.failure.as_ref().unwrap();
            assert_eq!((failure.step, failure.code), (Some(*step), ErrorCode::RuntimeRejected));
            assert!(!shown.undone.iter().any(|undone| undone.failed), "{shown:#?}");
            assert_clean_slate(&here, id, predecessor).await;
        }
    }
}
