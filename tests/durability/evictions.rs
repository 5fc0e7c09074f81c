//! Deployments that nobody asks for: whatever dies while they are stopped or
//! started, they end as recorded, and what is recorded can be started.

use std::time::Duration;

use launchway::store::Silence;
use launchway_workflows::{
    ids::DeploymentId,
    ports::{EvictionState, Evictions as _, Idle},
    status::DeploymentStatus,
};
use serde_json::{Value, json};

use crate::{
    effects::{assert_single_effects, instances},
    releases::release_to,
    scales::scale_to,
    support::{Installation, Process, REPLICAS, eventually},
};

const SETTINGS: [&str; 3] =
    ["run.keep_running=0", "run.retire_after=10ms", "gateway.report_every=10ms"];
const FEW_TRIES: [(&str, &str); 1] = [("LAUNCHWAY_FAILPOINT_TRIES", "4")];
const UNFINISHED: &str = "SELECT id FROM sys_invocation WHERE target_service_name = 'Eviction' \
                          AND status <> 'completed'";

/// What its eviction is asked with.
async fn eviction(here: &Installation, id: &DeploymentId) -> (String, Value) {
    let silence =
        Silence { default: Duration::from_millis(1), slack: Duration::ZERO, watched_since: 0 };
    let idle = eventually(&format!("{id} is idle"), async || {
        let idle = here.store.idle(&silence, 100).await.unwrap();
        idle.into_iter().find(|idle| idle.deployment_id == *id)
    })
    .await;
    (format!("Eviction/{id}/evict"), json!(idle))
}

pub async fn evict(here: &Installation, id: &DeploymentId) -> Result<Value, String> {
    let (handler, idle) = eviction(here, id).await;
    here.ask(&handler, &idle).await
}

/// Starts it, as for a request, and gives the answer.
pub async fn start(here: &Installation, id: &DeploymentId) -> Result<Value, String> {
    here.ask(&format!("Eviction/{id}/start"), &json!({})).await
}

async fn state(here: &Installation, id: &DeploymentId) -> Option<EvictionState> {
    here.view(id).await.eviction.map(|eviction| eviction.state)
}

/// Nobody is at it any more, it is as expected, and so many run.
async fn settled(
    here: &Installation,
    id: &DeploymentId,
    expected: Option<EvictionState>,
    what: &str,
) {
    let recorded = if expected.is_some() { 0 } else { REPLICAS };
    eventually(&format!("{id} is {expected:?}, {what}"), async || {
        let ended = here.query(UNFINISHED).await?.is_empty();
        let found = (state(here, id).await, instances(here, id));
        (ended && found == (expected, recorded)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_at_whichever_run_of_an_eviction_or_a_start_is_completed() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let id = here.deploy("shop").await;
    let evicting = points(&["begin-eviction", "stop-evicted"]);
    let starting = points(&["begin-start", "start-evicted", "watch-instances", "finish-start"]);
    // Every point with every process, for a start; for an eviction, each several times.
    let killed = [Process::Worker, Process::Restate, Process::Krane];
    let rounds = killed.iter().flat_map(|killed| starting.iter().map(move |at| (*killed, *at)));
    for (number, (killed, starting)) in rounds.enumerate() {
        let evicting = evicting[number % evicting.len()];
        let (handler, idle) = eviction(&here, &id).await;
        interrupted(&mut here, evicting, killed, &handler, &idle).await;
        let what = format!("{evicting:?} {killed:?}");
        settled(&here, &id, Some(EvictionState::Evicted), &what).await;
        let handler = format!("Eviction/{id}/start");
        interrupted(&mut here, starting, killed, &handler, &json!({})).await;
        let what = format!("{starting:?} {killed:?}");
        settled(&here, &id, None, &what).await;
    }
    assert_single_effects(&here, &id).await;
}

/// And the same of a start that is undone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_while_a_start_is_undone_is_completed() {
    let mut here = Installation::apart(&SETTINGS, &FEW_TRIES).await;
    let id = here.deploy("shop").await;
    assert_eq!(evict(&here, &id).await.unwrap(), json!(true));
    let undoing = points(&["undo-start", "stop-evicted"]);
    for (number, at) in undoing.into_iter().enumerate() {
        let killed = [Process::Worker, Process::Restate, Process::Krane][number % 3];
        here.arm("watch-instances", "broken");
        let handler = format!("Eviction/{id}/start");
        interrupted(&mut here, at, killed, &handler, &json!({})).await;
        here.disarm("watch-instances", "broken");
        let what = format!("{at:?} {killed:?}");
        settled(&here, &id, Some(EvictionState::Evicted), &what).await;
    }
    assert_eq!(start(&here, &id).await.unwrap()["verdict"], "done");
    assert_single_effects(&here, &id).await;
}

fn points(runs: &[&'static str]) -> Vec<(&'static str, &'static str)> {
    runs.iter().flat_map(|run| [(*run, "run"), (*run, "ran")]).collect()
}

/// Kills the process while the run of the handler is held at its point.
async fn interrupted(
    here: &mut Installation,
    (run, kind): (&str, &str),
    killed: Process,
    handler: &str,
    input: &Value,
) {
    here.arm(run, kind);
    // Not waited for: its caller dies with the server.
    here.send(handler, input).await;
    here.run_parked(run, kind).await;
    here.kill(killed);
    here.release(run, kind);
    here.start(killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_while_it_is_stopped_starts_it_when_that_is_done() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let id = here.deploy("shop").await;
    here.arm("stop-evicted", "run");
    let (evicted, started) = tokio::join!(evict(&here, &id), async {
        here.run_parked("stop-evicted", "run").await;
        let (started, ()) = tokio::join!(start(&here, &id), async {
            eventually("the start waits behind the eviction", async || {
                (here.query(UNFINISHED).await?.len() == 2).then_some(())
            })
            .await;
            here.release("stop-evicted", "run");
        });
        started
    });
    assert_eq!((evicted.unwrap(), &started.unwrap()["verdict"]), (json!(true), &json!("done")));
    settled(&here, &id, None, "after both").await;
    let again = start(&here, &id).await.unwrap();
    assert_eq!(again["verdict"], "nothing", "it runs: {again}");
}

/// Somebody asks while requests under way end: nothing is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_before_it_is_stopped_goes_on() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let id = here.deploy("shop").await;
    let (handler, idle) = eviction(&here, &id).await;
    let seen: Idle = serde_json::from_value(idle.clone()).unwrap();
    here.arm("begin-eviction", "ran");
    let (evicted, ()) = tokio::join!(here.ask(&handler, &idle), async {
        here.run_parked("begin-eviction", "ran").await;
        assert_eq!(state(&here, &id).await, Some(EvictionState::Evicting));
        eventually("it is noted", async || {
            let moment = Duration::from_millis(1);
            here.store.note_active(std::slice::from_ref(&id), moment).await.unwrap();
            here.store.asked_since(&seen).await.unwrap().then_some(())
        })
        .await;
        here.release("begin-eviction", "ran");
    });
    assert_eq!(evicted.unwrap(), json!(false));
    settled(&here, &id, None, "asked for").await;
    assert_single_effects(&here, &id).await;
}

/// Requests must not wait for a runtime that cannot stop what runs.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stopped_goes_on() {
    let here = Installation::together(&SETTINGS, &FEW_TRIES).await;
    let id = here.deploy("shop").await;
    here.arm("stop-evicted", "broken");
    let answer = evict(&here, &id).await.unwrap();
    assert_eq!(answer, json!(false));
    settled(&here, &id, None, "set going again").await;
    assert_single_effects(&here, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_undone_with_its_reason_and_the_next_one_succeeds() {
    let here = Installation::together(&SETTINGS, &FEW_TRIES).await;
    let id = here.deploy("shop").await;
    evict(&here, &id).await.unwrap();
    for run in ["start-evicted", "watch-instances"] {
        here.arm(run, "broken");
        let answer = start(&here, &id).await;
        let failed = answer.as_ref().map_or(true, |answer| answer["verdict"] == "failed");
        assert!(failed, "{run}: {answer:?}");
        here.disarm(run, "broken");
        settled(&here, &id, Some(EvictionState::Evicted), run).await;
        let shown = here.view(&id).await;
        assert!(shown.eviction.unwrap().start_failure.is_some(), "{run}");
    }
    assert_eq!(start(&here, &id).await.unwrap()["verdict"], "done");
    assert_single_effects(&here, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promote_and_scale_start_what_is_evicted() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let id = here.deploy("shop").await;
    evict(&here, &id).await.unwrap();
    let promoted = release_to(&here, "promote", &id).await.unwrap();
    assert_eq!(
        (&promoted["verdict"], &promoted["value"]["started"]),
        (&json!("done"), &json!(true))
    );
    settled(&here, &id, None, "promoted").await;
    assert_single_effects(&here, &id).await;
    evict(&here, &id).await.unwrap();
    let scaled = scale_to(&here, &id, REPLICAS + 1).await.unwrap();
    assert_eq!(scaled["verdict"], "done", "{scaled}");
    assert_eq!((state(&here, &id).await, instances(&here, &id)), (None, REPLICAS + 1));
}

/// Its successor goes live, and it retires, while it is being started.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_leaves_nothing_of_a_deployment_that_is_retired_meanwhile() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let first = here.deploy("shop").await;
    evict(&here, &first).await.unwrap();
    here.arm("start-evicted", "run");
    let (answer, second) = tokio::join!(start(&here, &first), async {
        here.run_parked("start-evicted", "run").await;
        let second = here.deploy("shop").await;
        here.wait(&first, DeploymentStatus::Retired).await;
        here.release("start-evicted", "run");
        second
    });
    assert_eq!(answer.unwrap()["verdict"], "failed");
    assert_eq!((state(&here, &first).await, instances(&here, &first)), (None, 0));
    assert_eq!(here.view(&first).await.status, DeploymentStatus::Retired);
    assert_single_effects(&here, &second).await;
}

/// An operator kills what is at it: the next request starts it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_that_an_operator_kills_is_ended_by_the_next_start() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let id = here.deploy("shop").await;
    let (handler, idle) = eviction(&here, &id).await;
    here.arm("stop-evicted", "run");
    here.send(&handler, &idle).await;
    here.run_parked("stop-evicted", "run").await;
    for row in here.query(UNFINISHED).await.unwrap() {
        here.end_invocation(row["id"].as_str().unwrap(), "kill").await;
    }
    here.release("stop-evicted", "run");
    assert_eq!(start(&here, &id).await.unwrap()["verdict"], "done");
    settled(&here, &id, None, "started").await;
}
