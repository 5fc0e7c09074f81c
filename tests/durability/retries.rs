//! A retry is a workflow like any other: killed, it goes on or is taken back.

use launchway_workflows::{
    error::ErrorCode, ids::DeploymentId, status::DeploymentStatus, step::Step,
};
use serde_json::{Value, json};

use crate::{
    effects::{assert_clean_slate, assert_single_effects},
    support::{Installation, Process},
};

const SETTINGS: [&str; 3] = ["build.concurrency=64", "recovery.every=1s", "recovery.grace=1s"];
/// Steps that a first attempt fails at; what is before them is kept.
const FAIL_AT: [Step; 5] =
    [Step::BuildImage, Step::PushImage, Step::DeployToKrane, Step::AwaitReady, Step::AssignDomains];

async fn retry(here: &Installation, id: &DeploymentId) -> Result<Value, String> {
    here.ask("Deployments/retry", &json!({ "deployment_id": id })).await
}

/// Failed at the step by a fault that is gone by now.
async fn failed_at(here: &Installation, step: Step, project: &str) -> DeploymentId {
    here.break_at(step.name(), "fail", ErrorCode::RuntimeRejected);
    let id = here.submit(project).await;
    here.wait(&id, DeploymentStatus::Failed).await;
    here.release(step.name(), "fail");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_goes_live_from_every_step_whatever_is_killed() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let everything = Process::APART;
    for (round, killed) in [&everything[..1], &everything[3..], &everything].iter().enumerate() {
        let mut retried = Vec::new();
        for step in FAIL_AT {
            let id = failed_at(&here, step, &format!("shop-{step}-{round}")).await;
            here.arm(step.name(), "during");
            let answer = retry(&here, &id).await.unwrap();
            assert_eq!(here.parked(step.name(), "during").await, id, "{answer}");
            retried.push((step, id));
        }
        killed.iter().for_each(|process| here.kill(*process));
        here.start_all(killed).await;
        for (step, id) in &retried {
            here.ended(std::slice::from_ref(id)).await;
            let shown = assert_single_effects(&here, id).await;
            assert_eq!(shown.attempt, 2, "{step}: {shown:#?}");
            here.release(step.name(), "during");
        }
    }
    here.assert_nothing_ran_twice_at_once();
}

/// The new attempt has its row, and the one who was to start it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_was_killed_before_its_restart_can_be_retried() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    for step in FAIL_AT {
        let id = failed_at(&here, step, "shop").await;
        here.arm("restart-workflow", "run");
        let (answer, ()) = tokio::join!(retry(&here, &id), async {
            here.run_parked("restart-workflow", "run").await;
            let sql = "SELECT id FROM sys_invocation WHERE target_service_name = 'Deployments' \
                       AND target_handler_name = 'retry' AND status <> 'completed'";
            for row in here.query(sql).await.unwrap() {
                here.end_invocation(row["id"].as_str().unwrap(), "kill").await;
            }
        });
        assert!(answer.is_err(), "{answer:?}");
        here.release("restart-workflow", "run");
        let shown = here.wait(&id, DeploymentStatus::Failed).await;
        assert_eq!(shown.attempt, 2, "{step}: {shown:#?}");
        assert_clean_slate(&here, &id, &before).await;
        here.break_at("assign-domains", "fail", ErrorCode::RuntimeRejected);
        retry(&here, &id).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        let shown = here.wait(&id, DeploymentStatus::Failed).await;
        assert_eq!(shown.attempt, 3, "{step}: {shown:#?}");
        assert_clean_slate(&here, &id, &before).await;
        here.release("assign-domains", "fail");
    }
}
