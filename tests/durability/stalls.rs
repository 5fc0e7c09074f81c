//! What is neither dead nor alive: frozen processes, paused workflows, cancels
//! that nobody was told, rows without a workflow.

use std::{collections::BTreeSet, process::Command};

use launchway::store::DeploymentFilter;
use launchway_workflows::{
    engine::failpoint::Point, error::ErrorCode, ids::WorkspaceId, ports::Store as _,
    status::DeploymentStatus, step::Step,
};

use crate::{
    effects::{assert_clean_slate, assert_single_effects},
    support::{Installation, Process, eventually},
};

const SETTINGS: [&str; 5] = [
    "build.concurrency=64",
    "recovery.every=500ms",
    "recovery.grace=1s",
    "recovery.stalled_after=1s",
    "recovery.resume_after=2s",
];

pub fn signal(here: &Installation, process: Process, name: &str) {
    let pid = here.pid(process).to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
}

/// Restate gives up on the frozen worker within ten seconds and tries again; once
/// it thaws, what it was doing must have ended before it is done anew.
#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_the_worker_freezes_and_thaws() {
    let settings = ["build.concurrency=64", "recovery.every=1s", "recovery.stalled_after=4s"];
    let here = Installation::apart(&settings, &[]).await;
    Step::ALL.iter().for_each(|step| here.arm(step.name(), Point::During.name()));
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    let ids = here.submit_all(&projects).await;
    let parked = here.parked_at_all(&Step::ALL, Point::During).await;
    signal(&here, Process::Worker, "STOP");
    // What waits for a slot or for readiness is suspended, as it would be anyway.
    for (step, id) in parked.iter().filter(|(step, _)| step.is_held()) {
        let what = format!("{step} is shown as stalled");
        let (_, why) = eventually(&what, async || here.view(id).await.stalled).await;
        assert!(why.contains("worker"), "{step}: {why}");
    }
    signal(&here, Process::Worker, "CONT");
    here.ended(&ids).await;
    for (_, id) in parked {
        assert_single_effects(&here, &id).await;
    }
    here.assert_nothing_ran_twice_at_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_somebody_has_paused_is_resumed() {
    let here = Installation::together(&SETTINGS, &[]).await;
    here.arm("presign-context", "journaled");
    let id = here.submit("shop").await;
    here.parked("presign-context", "journaled").await;
    for workflow in here.unfinished(&id).await.unwrap() {
        here.end_invocation(&workflow, "pause").await;
    }
    eventually("it is shown as stalled", async || here.view(&id).await.stalled.map(drop)).await;
    // A pause takes hold when the handler comes to its next await.
    here.release("presign-context", "journaled");
    here.ended(std::slice::from_ref(&id)).await;
    assert_single_effects(&here, &id).await;
}

/// The request is in the database, its messenger died: the reconciler tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_the_workflow_was_not_told_is_told() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    here.arm("await-ready", "during");
    let id = here.submit("shop").await;
    here.parked("await-ready", "during").await;
    here.store.request_cancel(&id).await.unwrap();
    here.wait(&id, DeploymentStatus::Cancelled).await;
    here.release("await-ready", "during");
    assert_clean_slate(&here, &id, &before).await;
}

/// The object's message to itself, that takes back slots nobody gives back.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_of_slots_that_was_ended_by_hand_is_sent_by_who_waits_next() {
    let here = Installation::together(&["build.concurrency=1"], &[]).await;
    here.arm("build-image", "during");
    let builds = here.submit("shop").await;
    here.parked("build-image", "during").await;
    let sweeps = async || {
        let sql = "SELECT id FROM sys_invocation WHERE target_service_name = 'BuildSlots' \
                   AND target_handler_name = 'sweep' AND status <> 'completed'";
        let ids: Vec<_> = here.query(sql).await?.iter().map(|row| row["id"].clone()).collect();
        Some(ids)
    };
    let lost = sweeps().await.unwrap();
    assert_eq!(lost.len(), 1, "one is on its way: {lost:?}");
    here.end_invocation(lost[0].as_str().unwrap(), "cancel").await;
    eventually("none is on its way", async || sweeps().await?.is_empty().then_some(())).await;
    let waits = here.submit("other").await;
    eventually("another one is", async || (sweeps().await?.len() == 1).then_some(())).await;
    here.release("build-image", "during");
    here.ended(&[builds.clone(), waits.clone()]).await;
    assert_single_effects(&here, &builds).await;
    assert_single_effects(&here, &waits).await;
}

/// The row is there, the workflow was never sent, and nobody will send it.
#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_was_killed_between_row_and_workflow_ends_as_failed() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    here.arm("insert-deployment", "ran");
    let submitting = tokio::spawn(here.submission("shop"));
    here.run_parked("insert-deployment", "ran").await;
    let filter = DeploymentFilter { limit: 1, ..DeploymentFilter::default() };
    let rows = here.store.deployments(&WorkspaceId::local(), &filter).await.unwrap();
    let id = &rows[0].id;
    assert_ne!(*id, before);
    let sql = "SELECT id FROM sys_invocation WHERE target_service_name = 'Deployments' \
               AND status <> 'completed'";
    for row in here.query(sql).await.unwrap() {
        here.end_invocation(row["id"].as_str().unwrap(), "kill").await;
    }
    submitting.abort();
    here.release("insert-deployment", "ran");
    let shown = here.wait(id, DeploymentStatus::Failed).await;
    assert_eq!(shown.failure.unwrap().code, ErrorCode::Interrupted);
    assert_clean_slate(&here, id, &before).await;
    let next = here.deploy("shop").await;
    assert_single_effects(&here, &next).await;
}

/// The database is away until every try of the unwind is used up, and the
/// workflow has ended: the reconciler begins again until it is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_unwind_that_used_up_its_tries_is_begun_again() {
    let tries = [("LAUNCHWAY_FAILPOINT_TRIES", "2")];
    let here = Installation::together(&SETTINGS, &tries).await;
    let before = here.deploy("shop").await;
    for runs in [&["settle-attempt"][..], &["settle-attempt", "take-over"]] {
        runs.iter().for_each(|run| here.arm(run, "broken"));
        here.break_at("await-ready", "fail", ErrorCode::NotReady);
        let id = here.submit("shop").await;
        let mut workflows = BTreeSet::new();
        eventually("the reconciler has tried as well", async || {
            workflows.extend(here.unfinished(&id).await?);
            (workflows.len() >= 3).then_some(())
        })
        .await;
        assert!(!here.view(&id).await.status.is_settled());
        runs.iter().for_each(|run| here.disarm(run, "broken"));
        let shown = here.wait(&id, DeploymentStatus::Failed).await;
        let failure = shown.failure.unwrap();
        assert_eq!((failure.step, failure.code), (Some(Step::AwaitReady), ErrorCode::NotReady));
        assert_clean_slate(&here, &id, &before).await;
        here.release("await-ready", "fail");
    }
}
