//! What is neither dead nor alive: frozen processes, paused workflows, cancels
//! that nobody was told.

use std::process::Command;

use launchway_workflows::{
    engine::failpoint::Point, ports::Store as _, status::DeploymentStatus, step::Step,
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

fn signal(here: &Installation, process: Process, name: &str) {
    let pid = here.pid(process).to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
}

/// Restate gives up on the frozen worker and tries again; once it thaws, what
/// it was doing must have ended before it is done anew.
#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_the_worker_freezes_and_thaws() {
    let here = Installation::apart(&["build.concurrency=64"], &[]).await;
    Step::ALL.iter().for_each(|step| here.arm(step.name(), Point::During.name()));
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    let ids = here.submit_all(&projects).await;
    let parked = here.parked_at_all(Point::During).await;
    signal(&here, Process::Worker, "STOP");
    eventually("Restate has noticed", async || {
        let sql = "SELECT id FROM sys_invocation WHERE status = 'backing-off'";
        (here.query(sql).await?.len() >= parked.len()).then_some(())
    })
    .await;
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
