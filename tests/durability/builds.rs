//! Builds by themselves: the same steps up to the image, and nothing after it.

use launchway::store::StepView;
use launchway_workflows::{
    error::ErrorCode,
    ids::{DeploymentId, WorkspaceId},
    status::DeploymentStatus,
    step::Step,
};
use serde_json::json;

use crate::{
    effects::{assert_single_effects, instances},
    releases::release_to,
    support::{Installation, Process, eventually},
};

const STEPS: [Step; 6] = [
    Step::LoadDeployment,
    Step::AcquireSlot,
    Step::PresignContext,
    Step::BuildImage,
    Step::ReleaseSlot,
    Step::PushImage,
];
pub const RUNS: [&str; 1] = ["finish-build"];

async fn submit_build(here: &Installation, project: &str) -> DeploymentId {
    let project = here.store.ensure_project(&WorkspaceId::local(), project).await;
    let project = project.unwrap().unwrap();
    let context = format!("contexts/{project}/{}.tar.gz", uuid::Uuid::new_v4());
    let body = json!({
        "purpose": "build",
        "project_id": project,
        "build_context": { "build_context_path": context },
    });
    let created = here.ask("Deployments/create", &body).await.unwrap();
    created["deployment_id"].as_str().unwrap().parse().unwrap()
}

async fn assert_built(here: &Installation, id: &DeploymentId, live: &DeploymentId) {
    let shown = here.wait(id, DeploymentStatus::Built).await;
    let last = shown.steps.iter().filter(|row| row.attempt == shown.attempt);
    let ended = |row: &StepView| matches!(row.status.as_str(), "done" | "skipped");
    assert!(last.clone().count() > 0 && last.clone().all(ended), "{shown:#?}");
    assert!(shown.image().is_some() && shown.domains.is_empty(), "{shown:#?}");
    assert_eq!(instances(here, id), 0, "something of it runs");
    assert_single_effects(here, live).await;
    eventually("its workflow has ended", async || {
        here.unfinished(id).await?.is_empty().then_some(())
    })
    .await;
    eventually("its slot is free", async || here.slot_holders().await.is_empty().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_every_run_runs_twice_leaves_one_image_and_moves_nothing() {
    let here = Installation::together(&[], &[]).await;
    let live = here.deploy("shop").await;
    let steps = STEPS.map(Step::name);
    for run in steps.iter().chain(&RUNS) {
        here.arm(run, "twice");
    }
    let id = submit_build(&here, "shop").await;
    assert_built(&here, &id, &live).await;
    for run in steps.iter().chain(&RUNS) {
        assert!(here.run_taken(run, "twice"), "{run} did not run twice");
    }
    let shown = here.view(&id).await;
    let ran: Vec<_> = shown.steps.iter().map(|row| row.name.clone()).collect();
    assert_eq!(ran, steps);
    let too_late = here.ask("Deployments/cancel", &json!({ "deployment_id": id })).await;
    assert!(too_late.unwrap_err().contains("built"));
    let refused = release_to(&here, "promote", &id).await.unwrap();
    assert_eq!(refused["verdict"], "refused", "{refused}");
    let refused = here.ask("Deployments/retry", &json!({ "deployment_id": id })).await;
    assert!(refused.unwrap_err().contains("nothing to retry"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_done_whoever_is_killed_at_its_end() {
    let mut here = Installation::apart(&[], &[]).await;
    let live = here.deploy("shop").await;
    for point in ["run", "ran"] {
        for process in [Process::Worker, Process::Restate] {
            here.arm("finish-build", point);
            let id = submit_build(&here, "shop").await;
            eventually("the build is about to end", async || {
                here.run_taken("finish-build", point).then_some(())
            })
            .await;
            here.kill(process);
            here.release("finish-build", point);
            here.start(process).await;
            assert_built(&here, &id, &live).await;
        }
    }
    here.assert_nothing_ran_twice_at_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_failed_is_retried_to_its_image() {
    let here = Installation::together(&[], &[]).await;
    let live = here.deploy("shop").await;
    here.break_at("push-image", "fail", ErrorCode::RegistryUnavailable);
    let id = submit_build(&here, "shop").await;
    let shown = here.wait(&id, DeploymentStatus::Failed).await;
    assert_eq!(shown.failure.unwrap().step, Some(Step::PushImage));
    here.release("push-image", "fail");
    let answer = here.ask("Deployments/retry", &json!({ "deployment_id": id })).await.unwrap();
    assert_eq!(answer["from"], "push-image", "{answer}");
    assert_built(&here, &id, &live).await;
    let again = here.ask("Deployments/redeploy", &json!({ "deployment_id": id })).await.unwrap();
    let again = again["deployment_id"].as_str().unwrap().parse().unwrap();
    assert_built(&here, &again, &live).await;
}
