//! Rollbacks and retirements that are interrupted, fail or meet each other:
//! what serves has its instances, what does not has none.

use launchway_workflows::{ids::DeploymentId, status::DeploymentStatus};
use serde_json::{Value, json};

use crate::{
    effects::{assert_single_effects, instances},
    support::{Installation, Process, REPLICAS, eventually},
};

const SETTINGS: [&str; 2] = ["run.keep_running=0", "run.retire_after=10ms"];
const FEW_TRIES: [(&str, &str); 1] = [("LAUNCHWAY_FAILPOINT_TRIES", "4")];

/// `rollback` or `promote`, and its answer.
pub async fn release_to(
    here: &Installation,
    kind: &str,
    id: &DeploymentId,
) -> Result<Value, String> {
    let handler = format!("Release/{}/run", uuid::Uuid::new_v4());
    here.ask(&handler, &json!({ "kind": kind, "target_deployment_id": id })).await
}

/// The first is retired, the second is live.
async fn two_deployments(here: &Installation) -> (DeploymentId, DeploymentId) {
    let (first, second) = (here.deploy("shop").await, here.deploy("shop").await);
    here.wait(&first, DeploymentStatus::Retired).await;
    (first, second)
}

async fn stopped(here: &Installation, id: &DeploymentId) {
    eventually(&format!("the instances of {id} are stopped"), async || {
        (instances(here, id) == 0).then_some(())
    })
    .await;
}

/// Its workflow was ended by force between the commit and what follows it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_workflow_has_not_retired_is_retired() {
    let settings = [&SETTINGS[..], &["recovery.every=200ms", "recovery.grace=1s"]].concat();
    let here = Installation::together(&settings, &[]).await;
    let first = here.deploy("shop").await;
    here.arm("assign-domains", "journaled");
    let second = here.submit("shop").await;
    here.parked("assign-domains", "journaled").await;
    for workflow in here.unfinished(&second).await.unwrap() {
        here.end_invocation(&workflow, "kill").await;
    }
    here.release("assign-domains", "journaled");
    here.wait(&first, DeploymentStatus::Retired).await;
    stopped(&here, &first).await;
    assert_single_effects(&here, &second).await;
}

/// The swap of a rollback that was cancelled comes when its target has been
/// stopped again.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_comes_after_its_cancelled_rollback_moves_nothing() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let (first, second) = two_deployments(&here).await;
    here.arm("swap-routes", "run");
    let request = json!({ "kind": "rollback", "target_deployment_id": first });
    here.send("Release/given-up/run", &request).await;
    here.run_parked("swap-routes", "run").await;
    let sql = "SELECT id FROM sys_invocation WHERE target_service_name = 'Release'";
    for row in here.query(sql).await.unwrap() {
        here.end_invocation(row["id"].as_str().unwrap(), "cancel").await;
    }
    stopped(&here, &first).await;
    here.wait(&first, DeploymentStatus::Retired).await;
    here.release("swap-routes", "run");
    eventually("everything has ended", async || {
        let sql = "SELECT id FROM sys_invocation WHERE status NOT IN ('completed', 'scheduled')";
        here.query(sql).await?.is_empty().then_some(())
    })
    .await;
    assert_eq!(here.view(&first).await.status, DeploymentStatus::Retired);
    assert_single_effects(&here, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_fails_stops_what_it_had_started() {
    let here = Installation::together(&SETTINGS, &FEW_TRIES).await;
    let (first, second) = two_deployments(&here).await;
    for run in ["start-instances", "watch-instances", "swap-routes"] {
        here.arm(run, "broken");
        let answer = release_to(&here, "rollback", &first).await;
        assert!(answer.is_err(), "{run}: {answer:?}");
        stopped(&here, &first).await;
        assert_eq!(here.view(&first).await.status, DeploymentStatus::Retired);
        assert_single_effects(&here, &second).await;
        here.disarm(run, "broken");
    }
}

/// The second finds the first's work done and is refused: what it had "started"
/// serves by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_comes_second_does_not_stop_what_a_promote_made_live() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let (first, _) = two_deployments(&here).await;
    here.arm("swap-routes", "run");
    let (one, two) = tokio::join!(release_to(&here, "promote", &first), async {
        here.run_parked("swap-routes", "run").await;
        let (two, ()) = tokio::join!(release_to(&here, "rollback", &first), async {
            eventually("the second waits behind the first", async || {
                let sql = "SELECT id FROM sys_invocation WHERE target_service_name = 'Routing' \
                           AND target_handler_name = 'swap' AND status <> 'completed'";
                (here.query(sql).await?.len() == 2).then_some(())
            })
            .await;
            here.release("swap-routes", "run");
        });
        two
    });
    assert_eq!(one.unwrap()["verdict"], "done");
    assert_eq!(two.unwrap()["verdict"], "refused", "it is live already");
    assert_eq!(here.view(&first).await.status, DeploymentStatus::Live);
    assert_eq!(instances(&here, &first), REPLICAS, "what is live was stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_stopped_although_krane_was_away_for_longer_than_every_try() {
    let mut here = Installation::apart(&SETTINGS, &FEW_TRIES).await;
    let first = here.deploy("shop").await;
    here.arm("stop-instances", "run");
    here.deploy("shop").await;
    here.run_parked("stop-instances", "run").await;
    let retiring = here.unfinished_of("Retirement", &first).await.unwrap();
    here.kill(Process::Krane);
    here.release("stop-instances", "run");
    eventually("every try is used up", async || {
        let now = here.unfinished_of("Retirement", &first).await?;
        retiring.iter().all(|known| !now.contains(known)).then_some(())
    })
    .await;
    assert_eq!(instances(&here, &first), REPLICAS, "krane is away");
    here.start(Process::Krane).await;
    stopped(&here, &first).await;
    here.wait(&first, DeploymentStatus::Retired).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_that_was_killed_is_taken_up_by_the_next_deployment() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let first = here.deploy("shop").await;
    here.arm("stop-instances", "run");
    here.deploy("shop").await;
    here.run_parked("stop-instances", "run").await;
    for retirement in here.unfinished_of("Retirement", &first).await.unwrap() {
        here.end_invocation(&retirement, "kill").await;
    }
    here.release("stop-instances", "run");
    assert_eq!(here.view(&first).await.status, DeploymentStatus::Retiring);
    here.deploy("shop").await;
    here.wait(&first, DeploymentStatus::Retired).await;
    stopped(&here, &first).await;
}

/// To a retired deployment and back again: the newer one runs on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_completed_whatever_is_killed_at_whichever_of_its_runs() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let (first, second) = two_deployments(&here).await;
    let runs =
        ["begin-release", "start-instances", "watch-instances", "swap-routes", "find-retirable"];
    let points = runs.iter().flat_map(|run| [(*run, "run"), (*run, "ran")]);
    for (number, (run, kind)) in points.enumerate() {
        let context = format!("{run}.{kind}");
        here.arm(run, kind);
        let handler = format!("Release/{}/run", uuid::Uuid::new_v4());
        let body = json!({ "kind": "promote", "target_deployment_id": first });
        // Not waited for: its caller dies with the server.
        here.send(&handler, &body).await;
        here.run_parked(run, kind).await;
        let killed = [Process::Worker, Process::Restate, Process::Krane][number % 3];
        here.kill(killed);
        here.release(run, kind);
        here.start(killed).await;
        let shown = here.wait(&first, DeploymentStatus::Live).await;
        assert_eq!(shown.domains.len(), 2, "its own and the environment's, {context}: {shown:#?}");
        assert_eq!(instances(&here, &first), REPLICAS, "{context}");
        let back = release_to(&here, "promote", &second).await.unwrap();
        assert_eq!(back["verdict"], "done", "{context}: {back}");
        here.wait(&first, DeploymentStatus::Retired).await;
        stopped(&here, &first).await;
        assert_single_effects(&here, &second).await;
    }
}
