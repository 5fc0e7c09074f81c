//! Release commands that may not run twice: started once, joined after every
//! crash, and given back to a person where nobody can know.

use launchway::store::DeploymentView;
use launchway_workflows::{
    error::ErrorCode, ids::DeploymentId, status::DeploymentStatus, step::Step,
};
use serde_json::json;

use crate::{
    effects::{assert_clean_slate, assert_single_effects, instances},
    support::{Installation, Process, eventually},
};

const SETTINGS: [&str; 2] = ["recovery.every=1s", "recovery.grace=1s"];
const MIGRATE: [&str; 2] = ["bin/migrate", "up"];

/// Its command was started and has not ended.
async fn started(here: &Installation) -> DeploymentId {
    here.arm("task", "during");
    let id = here.submit_releasing("shop", &MIGRATE).await;
    assert_eq!(here.parked("task", "during").await, id);
    id
}

async fn output(here: &Installation, id: &DeploymentId) -> Vec<String> {
    let log = here.store.build_log(id, None, 0, 1000).await.unwrap();
    let of_command = log.into_iter().filter(|line| line.vertex == Step::ReleaseCommand.name());
    of_command.filter(|line| line.kind == "stdout").map(|line| line.text).collect()
}

fn assert_failed(shown: &DeploymentView, code: ErrorCode) {
    let failure = shown.failure.as_ref().unwrap();
    assert_eq!((failure.step, failure.code), (Some(Step::ReleaseCommand), code), "{shown:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_started_is_joined_whatever_is_killed() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let everything = Process::APART;
    for killed in [&everything[..1], &everything[1..2], &everything[3..], &everything] {
        let id = started(&here).await;
        killed.iter().for_each(|process| here.kill(*process));
        here.release("task", "during");
        here.start_all(killed).await;
        here.ended(std::slice::from_ref(&id)).await;
        assert_single_effects(&here, &id).await;
        let said = output(&here, &id).await;
        assert_eq!(said, ["ran bin/migrate up", "done"], "once each, after {killed:?}");
    }
}

/// Somebody has removed its container while nobody looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_runtime_has_lost_runs_again_only_when_asked() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    let id = started(&here).await;
    here.kill(Process::Worker);
    here.release("task", "during");
    here.outside.lose_tasks(&id);
    here.start(Process::Worker).await;
    let shown = here.wait(&id, DeploymentStatus::Failed).await;
    assert_failed(&shown, ErrorCode::ReleaseInterrupted);
    assert_eq!(here.outside.count("task", &id), 1, "it was repeated unasked");
    assert_eq!(here.outside.count("apply", &id), 0, "instances were started");
    let remedy = ErrorCode::ReleaseInterrupted.remedy();
    assert!(remedy.contains("--from release-command") && remedy.contains("release_idempotent"));
    assert_clean_slate(&here, &id, &before).await;

    let body = json!({ "deployment_id": id, "from": "release-command" });
    let answer = here.ask("Deployments/retry", &body).await.unwrap();
    assert_eq!(answer["from"], "release-command", "{answer}");
    here.ended(std::slice::from_ref(&id)).await;
    assert_eq!(here.view(&id).await.status, DeploymentStatus::Live);
    assert_eq!(here.outside.count("task", &id), 2, "once for each attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_ends_the_deployment_before_any_instance_starts() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    let id = here.submit_releasing("shop", &["exit", "3"]).await;
    let shown = here.wait(&id, DeploymentStatus::Failed).await;
    assert_failed(&shown, ErrorCode::ReleaseFailed);
    let failure = shown.failure.as_ref().unwrap();
    assert!(failure.message.contains("`exit 3` ended with code 3"), "{failure}");
    assert_eq!(failure.log_tail, ["ran exit 3", "done"]);
    assert_eq!(here.outside.count("apply", &id), 0, "instances were started");
    assert_clean_slate(&here, &id, &before).await;
    // A new attempt is asked for: it runs again.
    here.ask("Deployments/retry", &json!({ "deployment_id": id })).await.unwrap();
    eventually("the second attempt has failed too", async || {
        let shown = here.view(&id).await;
        (shown.attempt == 2 && shown.status == DeploymentStatus::Failed).then_some(())
    })
    .await;
    assert_eq!(here.outside.count("task", &id), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_from_a_later_step_does_not_run_it_again() {
    let here = Installation::together(&SETTINGS, &[]).await;
    here.break_at("await-ready", "fail", ErrorCode::NotReady);
    let id = here.submit_releasing("shop", &MIGRATE).await;
    here.wait(&id, DeploymentStatus::Failed).await;
    here.release("await-ready", "fail");
    let body = json!({ "deployment_id": id });
    let answer = here.ask("Deployments/retry", &body).await.unwrap();
    assert_eq!(answer["from"], "deploy-to-krane", "{answer}");
    here.ended(std::slice::from_ref(&id)).await;
    assert_single_effects(&here, &id).await;
}

/// Nothing can have been started there: it is no reason to ask anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_away_before_the_command_starts_is_waited_for() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    here.arm("release-command", "before");
    let id = here.submit_releasing("shop", &MIGRATE).await;
    here.parked("release-command", "before").await;
    here.kill(Process::Krane);
    here.release("release-command", "before");
    eventually("it misses krane", async || {
        let shown = here.view(&id).await;
        let row = shown.steps.iter().find(|row| row.name == Step::ReleaseCommand.name())?;
        row.error_code.is_some().then_some(())
    })
    .await;
    here.start(Process::Krane).await;
    here.ended(std::slice::from_ref(&id)).await;
    assert_single_effects(&here, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_command_is_ended() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    let id = started(&here).await;
    here.ask("Deployments/cancel", &json!({ "deployment_id": id })).await.unwrap();
    here.wait(&id, DeploymentStatus::Cancelled).await;
    here.release("task", "during");
    assert_eq!(instances(&here, &id), 0);
    assert_clean_slate(&here, &id, &before).await;
}
