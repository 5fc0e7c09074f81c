//! Changes of scale that are interrupted, fail or meet a retirement: what is
//! recorded runs, and what is retired does not.

use launchway_workflows::{ids::DeploymentId, ports::Store as _, status::DeploymentStatus};
use serde_json::{Value, json};

use crate::{
    effects::{assert_single_effects, instances},
    support::{Installation, Process, REPLICAS, eventually},
};

const SETTINGS: [&str; 2] = ["run.keep_running=0", "run.retire_after=10ms"];
const FEW_TRIES: [(&str, &str); 1] = [("LAUNCHWAY_FAILPOINT_TRIES", "4")];

const LOOKS_OFTEN: [&str; 2] = ["recovery.every=1s", "recovery.grace=1s"];

async fn request(here: &Installation, id: &DeploymentId, replicas: u32) -> (String, Value) {
    let environment = here.view(id).await.environment_id;
    let body = json!({ "environment_id": environment, "deployment_id": id, "replicas": replicas });
    (format!("Scale/{environment}/run"), body)
}

/// The answer of a scale of what is live.
pub async fn scale_to(
    here: &Installation,
    id: &DeploymentId,
    replicas: u32,
) -> Result<Value, String> {
    let (handler, body) = request(here, id, replicas).await;
    here.ask(&handler, &body).await
}

async fn recorded(here: &Installation, id: &DeploymentId) -> u32 {
    here.view(id).await.run_options.replicas
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_is_completed_whatever_is_killed_at_whichever_of_its_runs() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let id = here.deploy("shop").await;
    let runs = ["begin-scale", "apply-scale", "watch-instances", "finish-scale"];
    let points = runs.iter().flat_map(|run| [(*run, "run"), (*run, "ran")]);
    for (number, (run, kind)) in points.enumerate() {
        let wanted = if number % 2 == 0 { REPLICAS + 3 } else { REPLICAS };
        here.arm(run, kind);
        let (handler, body) = request(&here, &id, wanted).await;
        // Not waited for: its caller dies with the server.
        here.send(&handler, &body).await;
        here.run_parked(run, kind).await;
        let killed = [Process::Worker, Process::Restate, Process::Krane][number % 3];
        here.kill(killed);
        here.release(run, kind);
        here.start(killed).await;
        eventually(&format!("{wanted} run, {run}.{kind}"), async || {
            let ended = here.unfinished_scales().await?.is_empty();
            (ended && instances(&here, &id) == wanted).then_some(())
        })
        .await;
        assert_eq!(recorded(&here, &id).await, wanted, "{run}.{kind}");
    }
}

/// An operator's kill, while the run is held.
pub async fn kill_at(here: &Installation, id: &DeploymentId, replicas: u32, run: &str, kind: &str) {
    here.arm(run, kind);
    let (handler, body) = request(here, id, replicas).await;
    here.send(&handler, &body).await;
    here.run_parked(run, kind).await;
    for invocation in here.unfinished_scales().await.unwrap() {
        here.end_invocation(&invocation, "kill").await;
    }
    here.release(run, kind);
}

/// What is recorded runs and is routed, and nothing is under way.
pub async fn assert_settled(here: &Installation, id: &DeploymentId, replicas: u32, what: &str) {
    eventually(&format!("{replicas} run, {what}"), async || {
        let quiet = here.unfinished_scales().await?.is_empty()
            && here.store.scales_under_way().await.unwrap().is_empty();
        (quiet && instances(here, id) == replicas).then_some(())
    })
    .await;
    assert_eq!(recorded(here, id).await, replicas, "{what}");
    let drained = here.store.route_rows_of(id).await.unwrap();
    assert!(drained.iter().all(|row| row.drained.is_none()), "{what}: {drained:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_that_an_operator_kills_is_taken_back_unless_it_was_done() {
    let here = Installation::together(&[&SETTINGS[..], &LOOKS_OFTEN].concat(), &[]).await;
    let id = here.deploy("shop").await;
    let taken_back = [
        ("begin-scale", "run"),
        ("begin-scale", "ran"),
        ("apply-scale", "run"),
        ("apply-scale", "ran"),
        ("watch-instances", "run"),
        ("finish-scale", "run"),
    ];
    let mut now = REPLICAS;
    for (number, (run, kind)) in taken_back.into_iter().enumerate() {
        let wanted = if number % 2 == 0 { now + 3 } else { now - 1 };
        kill_at(&here, &id, wanted, run, kind).await;
        assert_settled(&here, &id, now, &format!("{run}.{kind}")).await;
        now = REPLICAS + (now + 1 - REPLICAS) % 2;
        let next = scale_to(&here, &id, now).await.unwrap();
        assert_eq!(next["verdict"], "done", "{run}.{kind}: {next}");
    }
    kill_at(&here, &id, 5, "finish-scale", "ran").await;
    assert_settled(&here, &id, 5, "it was recorded as done").await;
}

/// Whoever takes it back is killed too; and no reconciler looks before the next
/// scale comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_scale_takes_back_what_a_killed_one_has_left() {
    let here = Installation::together(&[&SETTINGS[..], &["recovery.every=1h"]].concat(), &[]).await;
    let id = here.deploy("shop").await;
    kill_at(&here, &id, REPLICAS + 5, "apply-scale", "ran").await;
    kill_at(&here, &id, REPLICAS + 1, "undo-scale", "ran").await;
    let next = scale_to(&here, &id, REPLICAS + 2).await.unwrap();
    assert_eq!(next["verdict"], "done", "{next}");
    assert_eq!(next["value"]["from"]["replicas"], REPLICAS, "{next}");
    assert_settled(&here, &id, REPLICAS + 2, "the next one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_is_the_default_of_the_next_deployment_and_one_that_fails_is_not() {
    let here = Installation::together(&SETTINGS, &FEW_TRIES).await;
    let id = here.deploy("shop").await;
    for run in ["apply-scale", "watch-instances"] {
        here.arm(run, "broken");
        let answer = scale_to(&here, &id, REPLICAS + 4).await;
        assert!(answer.is_err(), "{run}: {answer:?}");
        here.disarm(run, "broken");
        assert_eq!(recorded(&here, &id).await, REPLICAS, "{run}");
        assert_eq!(instances(&here, &id), REPLICAS, "{run}");
    }
    let next = async || {
        let key = uuid::Uuid::new_v4().to_string();
        let body = json!({ "project_id": "shop", "docker_image": "shop:1" });
        let answer: Value = here.ingress.call("Deployments/create", &key, &body).await.unwrap();
        let id: DeploymentId = answer["deployment_id"].as_str().unwrap().parse().unwrap();
        here.ended(std::slice::from_ref(&id)).await;
        id
    };
    let second = next().await;
    assert_eq!(recorded(&here, &second).await, 1, "a scale that failed is no default");
    scale_to(&here, &second, 3).await.unwrap();
    let third = next().await;
    assert_eq!((recorded(&here, &third).await, instances(&here, &third)), (3, 3));
}

/// The next deployment goes live, and the one that is scaled is stopped, before
/// its scale is applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_scale_starts_nothing_of_a_deployment_that_is_retired_meanwhile() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let first = here.deploy("shop").await;
    here.arm("apply-scale", "run");
    let (answer, second) = tokio::join!(scale_to(&here, &first, REPLICAS + 3), async {
        here.run_parked("apply-scale", "run").await;
        let second = here.deploy("shop").await;
        here.wait(&first, DeploymentStatus::Retired).await;
        here.release("apply-scale", "run");
        second
    });
    let answer = answer.unwrap();
    assert_eq!(answer["verdict"], "failed", "{answer}");
    assert_eq!(instances(&here, &first), 0, "what is retired was started");
    assert_eq!(here.view(&first).await.status, DeploymentStatus::Retired);
    assert_single_effects(&here, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_scaled_is_refused_with_the_reason() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let (first, second) = (here.deploy("shop").await, here.deploy("shop").await);
    let refused = async |id: &DeploymentId, replicas| {
        let answer = scale_to(&here, id, replicas).await.unwrap();
        assert_eq!(answer["verdict"], "refused", "{answer}");
        answer["value"].as_str().unwrap().to_owned()
    };
    assert!(refused(&second, 0).await.contains("at least 1"));
    assert!(refused(&second, 101).await.contains("at most 100"));
    let not_live = refused(&first, 3).await;
    assert!(not_live.contains("launchway promote"), "{not_live}");
    let environment = here.view(&second).await.environment_id;
    let body = json!({ "environment_id": environment, "process": "clock", "replicas": 2 });
    let answer = here.ask(&format!("Scale/{environment}/run"), &body).await.unwrap();
    assert!(answer["value"].as_str().unwrap().contains("it has `web`"), "{answer}");
    assert_eq!(instances(&here, &second), REPLICAS);
}
