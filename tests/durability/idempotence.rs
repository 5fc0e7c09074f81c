//! Every run of every service, executed twice: the same result, one effect.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

use launchway_workflows::{error::ErrorCode, status::DeploymentStatus, step::Step};
use serde_json::json;

use crate::{
    builds, cleanup,
    effects::{assert_clean_slate, assert_single_effects, instances},
    evictions::{evict, start},
    releases::release_to,
    scales::{assert_settled, kill_at, scale_to},
    support::{Installation, REPLICAS, eventually},
};

const SETTINGS: [&str; 6] = [
    "gateway.report_every=10ms",
    "build.concurrency=1",
    "run.keep_running=0",
    "run.retire_after=10ms",
    "recovery.every=1s",
    "recovery.grace=1s",
];

/// The tests below arm these, together every run that there is.
const OF_A_DEPLOYMENT: [&str; 3] = ["insert-deployment", "watch-instances", "commit-routes"];
const OF_A_RETIREMENT: [&str; 2] = ["begin-retirement", "stop-instances"];
const OF_AN_UNWIND: [&str; 5] = [
    "begin-unwind",
    "undo-deploy-to-krane",
    "undo-release-command",
    "undo-build-image",
    "settle-attempt",
];
const OF_A_TAKE_OVER: [&str; 1] = ["take-over"];
const OF_A_RETRY: [&str; 3] = ["begin-retry", "restart-workflow", "take-back-retry"];
const OF_A_RELEASE: [&str; 5] =
    ["begin-release", "start-instances", "swap-routes", "find-retirable", "undo-start-instances"];
const OF_A_SCALE: [&str; 3] = ["begin-scale", "apply-scale", "finish-scale"];
const OF_A_SCALE_TAKEN_BACK: [&str; 1] = ["undo-scale"];
const OF_AN_EVICTION: [&str; 2] = ["begin-eviction", "stop-evicted"];
const OF_A_START: [&str; 3] = ["begin-start", "start-evicted", "finish-start"];
const OF_A_START_TAKEN_BACK: [&str; 1] = ["undo-start"];
const OF_A_SCALE_LEFT_BEHIND: [&str; 1] = ["take-over-scale"];
const OF_A_CANCEL: [&str; 2] = ["note-position", "request-cancel"];
const OF_A_WARNING: [&str; 1] = ["note-warning"];
const OF_A_QUESTION: [&str; 1] = ["read-state"];

#[test]
fn every_run_that_there_is_has_its_test() {
    let mut known: BTreeSet<&str> = Step::ALL.into_iter().map(Step::name).collect();
    for runs in [
        &OF_A_DEPLOYMENT[..],
        &OF_A_RETIREMENT,
        &OF_AN_UNWIND,
        &OF_A_TAKE_OVER,
        &OF_A_RETRY,
        &OF_A_RELEASE,
        &OF_A_SCALE,
        &OF_A_SCALE_TAKEN_BACK,
        &OF_AN_EVICTION,
        &OF_A_START,
        &OF_A_START_TAKEN_BACK,
        &OF_A_SCALE_LEFT_BEHIND,
        &OF_A_CANCEL,
        &OF_A_WARNING,
        &OF_A_QUESTION,
        &builds::RUNS,
        &cleanup::RUNS,
    ] {
        known.extend(runs);
    }
    // The slot's undo is a message; its place is kept by the name.
    known.insert("undo-acquire-slot");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/src");
    let found = names_in(&sources);
    assert!(found.len() > 20, "the sources were not understood: {found:?}");
    let missing: Vec<_> = found.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no test runs these twice: {missing:?}");
}

/// Names of runs and undos in the sources.
fn names_in(dir: &Path) -> BTreeSet<String> {
    let run = regex::Regex::new(
        r#"(?:bounded_run!|record|self\.run)\(\s*&?[a-z_.()]+,\s*"([a-z-]+)"|"(undo-[a-z-]+)""#,
    );
    let run = run.unwrap();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            names.extend(names_in(&entry.path()));
            continue;
        }
        let source = fs::read_to_string(entry.path()).unwrap();
        let found = run.captures_iter(&source).filter_map(|found| found.get(1).or(found.get(2)));
        names.extend(found.map(|name| name.as_str().to_owned()));
    }
    names
}

impl Installation {
    fn run_twice(&self, runs: &[&str]) {
        runs.iter().for_each(|run| self.arm(run, "twice"));
    }

    fn assert_ran_twice(&self, runs: &[&str]) {
        for run in runs {
            assert!(self.run_taken(run, "twice"), "{run} did not run twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_whose_every_run_runs_twice_has_one_effect() {
    // The wait for it runs twice too, and must find something to wait for.
    let later = ("LAUNCHWAY_INSTANT_READY_AFTER", "3000");
    let here = Installation::together(&SETTINGS, &[later]).await;
    let first = here.deploy("shop").await;
    let steps = Step::ALL.map(Step::name);
    let runs = [&steps[..], &OF_A_DEPLOYMENT, &OF_A_RETIREMENT].concat();
    here.run_twice(&runs);
    let id = here.deploy("shop").await;
    let shown = assert_single_effects(&here, &id).await;
    assert_eq!(shown.steps.len(), steps.len(), "{shown:#?}");
    for row in &shown.steps {
        assert_eq!(row.tries, 2, "{shown:#?}");
        assert!(matches!(row.status.as_str(), "done" | "skipped"), "{shown:#?}");
    }
    here.wait(&first, DeploymentStatus::Retired).await;
    assert_eq!(instances(&here, &first), 0, "the predecessor was not stopped");
    assert_eq!(here.outside.deployed(), HashSet::from([id.to_string()]));
    here.assert_ran_twice(&runs);
    assert_eq!(here.slot_holders().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_taken_back_twice_is_taken_back_once() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    here.run_twice(&OF_AN_UNWIND);
    for (step, name) in [
        (Step::BuildImage, "undo-build-image"),
        (Step::ReleaseCommand, "undo-release-command"),
        (Step::AwaitReady, "undo-deploy-to-krane"),
    ] {
        here.break_at(step.name(), "fail", ErrorCode::RuntimeRejected);
        let id = here.submit("shop").await;
        let shown = here.wait(&id, DeploymentStatus::Failed).await;
        let failure = shown.failure.as_ref().unwrap();
        assert_eq!((failure.step, failure.code), (Some(step), ErrorCode::RuntimeRejected));
        assert!(!shown.undone.iter().any(|undone| undone.failed), "{shown:#?}");
        here.assert_ran_twice(&[name]);
        assert_clean_slate(&here, &id, &before).await;
        here.release(step.name(), "fail");
    }
    here.assert_ran_twice(&OF_AN_UNWIND);
}

/// All undos have run, the row is not settled, and the workflow is killed: the
/// reconciler's unwind runs each of them again, as often as that is killed too.
#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_is_killed_after_its_undos_is_unwound_again() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let before = here.deploy("shop").await;
    for step in [Step::BuildImage, Step::AwaitReady] {
        here.run_twice(&OF_A_TAKE_OVER);
        here.break_at(step.name(), "fail", ErrorCode::RuntimeRejected);
        here.arm("settle-attempt", "before");
        let id = here.submit("shop").await;
        for kills in 0..3 {
            here.parked("settle-attempt", "before").await;
            if kills < 2 {
                here.arm("settle-attempt", "before");
            }
            for workflow in here.unfinished(&id).await.unwrap() {
                here.end_invocation(&workflow, "kill").await;
            }
        }
        let shown = here.wait(&id, DeploymentStatus::Failed).await;
        let failure = shown.failure.as_ref().unwrap();
        assert_eq!((failure.step, failure.code), (Some(step), ErrorCode::RuntimeRejected));
        assert!(!shown.undone.iter().any(|undone| undone.failed), "{shown:#?}");
        here.assert_ran_twice(&OF_A_TAKE_OVER);
        assert_clean_slate(&here, &id, &before).await;
        here.release(step.name(), "fail");
        here.release("settle-attempt", "before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_whose_every_run_runs_twice_is_one_attempt() {
    let here = Installation::together(&SETTINGS, &[]).await;
    here.break_at("await-ready", "fail", ErrorCode::NotReady);
    let id = here.submit("shop").await;
    here.wait(&id, DeploymentStatus::Failed).await;
    here.release("await-ready", "fail");
    here.run_twice(&OF_A_RETRY);
    // Refused by Restate, whose journal is gone: as if it had not been asked.
    here.arm("restart-workflow", "run");
    let body = json!({ "deployment_id": id });
    let (answer, ()) = tokio::join!(here.ask("Deployments/retry", &body), async {
        eventually("the retry is about to restart", async || {
            here.run_taken("restart-workflow", "run").then_some(())
        })
        .await;
        let workflow = here.view(&id).await.attempts[0].invocation_id.clone().unwrap();
        here.end_invocation(&workflow.0, "purge").await;
        here.release("restart-workflow", "run");
    });
    let refusal = answer.unwrap_err();
    assert!(refusal.contains("launchway redeploy"), "{refusal}");
    let shown = here.view(&id).await;
    assert_eq!((shown.status, shown.attempt), (DeploymentStatus::Failed, 1), "{shown:#?}");
    here.assert_ran_twice(&OF_A_RETRY);

    here.break_at("await-ready", "fail", ErrorCode::NotReady);
    let id = here.submit("shop").await;
    here.wait(&id, DeploymentStatus::Failed).await;
    here.release("await-ready", "fail");
    here.run_twice(&OF_A_RETRY[..2]);
    let answer = here.ask("Deployments/retry", &json!({ "deployment_id": id })).await.unwrap();
    assert_eq!(answer["attempt"], 2, "{answer}");
    here.ended(std::slice::from_ref(&id)).await;
    let shown = assert_single_effects(&here, &id).await;
    assert_eq!((shown.attempt, shown.attempts.len()), (2, 1), "{shown:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_whose_every_run_runs_twice_starts_and_moves_once() {
    let here = Installation::together(&SETTINGS, &[("LAUNCHWAY_FAILPOINT_TRIES", "4")]).await;
    let (first, second) = (here.deploy("shop").await, here.deploy("shop").await);
    here.wait(&first, DeploymentStatus::Retired).await;
    here.run_twice(&OF_A_RELEASE);
    // It cannot be made ready: what was started is stopped again.
    here.break_at("watch-instances", "exhaust", ErrorCode::RuntimeUnavailable);
    let failed = release_to(&here, "rollback", &first).await;
    assert!(failed.is_err() || failed.as_ref().unwrap()["verdict"] == "failed", "{failed:?}");
    eventually("what was started for nothing is stopped again", async || {
        (instances(&here, &first) == 0).then_some(())
    })
    .await;
    assert_single_effects(&here, &second).await;
    here.release("watch-instances", "exhaust");
    let done = release_to(&here, "rollback", &first).await.unwrap();
    assert_eq!(done["verdict"], "done", "{done}");
    assert_eq!(done["value"]["previous"], second.as_str(), "{done}");
    here.assert_ran_twice(&OF_A_RELEASE);
    assert_eq!(instances(&here, &first), REPLICAS);
    let shown = here.wait(&first, DeploymentStatus::Live).await;
    assert_eq!(shown.domains.len(), 2, "its own and the environment's: {shown:#?}");
    here.wait(&second, DeploymentStatus::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_whose_every_run_runs_twice_changes_once() {
    let here = Installation::together(&SETTINGS, &[("LAUNCHWAY_FAILPOINT_TRIES", "4")]).await;
    let id = here.deploy("shop").await;
    here.run_twice(&OF_A_SCALE);
    let done = scale_to(&here, &id, REPLICAS + 3).await.unwrap();
    assert_eq!(done["verdict"], "done", "{done}");
    assert_eq!(done["value"]["from"]["replicas"], REPLICAS, "{done}");
    here.assert_ran_twice(&OF_A_SCALE);
    assert_eq!(instances(&here, &id), REPLICAS + 3);
    here.run_twice(&OF_A_SCALE_TAKEN_BACK);
    here.break_at("watch-instances", "exhaust", ErrorCode::RuntimeUnavailable);
    let failed = scale_to(&here, &id, REPLICAS + 5).await;
    assert!(failed.is_err() || failed.as_ref().unwrap()["verdict"] == "failed", "{failed:?}");
    here.release("watch-instances", "exhaust");
    here.assert_ran_twice(&OF_A_SCALE_TAKEN_BACK);
    assert_eq!(instances(&here, &id), REPLICAS + 3);
    assert_eq!(here.view(&id).await.run_options.replicas, REPLICAS + 3);
    here.run_twice(&OF_A_SCALE_LEFT_BEHIND);
    here.run_twice(&OF_A_SCALE_TAKEN_BACK);
    kill_at(&here, &id, REPLICAS, "apply-scale", "ran").await;
    assert_settled(&here, &id, REPLICAS + 3, "settled twice").await;
    here.assert_ran_twice(&OF_A_SCALE_LEFT_BEHIND);
    here.assert_ran_twice(&OF_A_SCALE_TAKEN_BACK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_and_a_start_whose_every_run_runs_twice_stop_and_start_once() {
    let here = Installation::together(&SETTINGS, &[("LAUNCHWAY_FAILPOINT_TRIES", "4")]).await;
    let id = here.deploy("shop").await;
    here.run_twice(&OF_AN_EVICTION);
    assert_eq!(evict(&here, &id).await.unwrap(), json!(true));
    here.assert_ran_twice(&OF_AN_EVICTION);
    assert_eq!(instances(&here, &id), 0);
    here.run_twice(&OF_A_START_TAKEN_BACK);
    here.break_at("watch-instances", "exhaust", ErrorCode::RuntimeUnavailable);
    let failed = start(&here, &id).await;
    assert!(failed.is_err() || failed.as_ref().unwrap()["verdict"] == "failed", "{failed:?}");
    here.release("watch-instances", "exhaust");
    here.assert_ran_twice(&OF_A_START_TAKEN_BACK);
    assert_eq!(instances(&here, &id), 0);
    here.run_twice(&OF_A_START);
    assert_eq!(start(&here, &id).await.unwrap()["verdict"], "done");
    here.assert_ran_twice(&OF_A_START);
    assert!(here.view(&id).await.eviction.is_none());
    assert_single_effects(&here, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_and_a_warning_that_run_twice_count_once() {
    let here = Installation::together(&SETTINGS, &[]).await;
    here.arm("build-image", "during");
    let builds = here.submit("shop").await;
    here.parked("build-image", "during").await;
    here.run_twice(&OF_A_CANCEL);
    let waits = here.submit("other").await;
    eventually("its place in the queue is noted", async || {
        here.run_taken("note-position", "twice").then_some(())
    })
    .await;
    let body = json!({ "deployment_id": waits });
    let answer = here.ask("Deployments/cancel", &body).await.unwrap();
    // The second time it may be done already.
    assert!(answer["found"] == "asked" || answer["found"] == "already", "{answer}");
    here.wait(&waits, DeploymentStatus::Cancelled).await;
    here.assert_ran_twice(&OF_A_CANCEL);
    assert_eq!(here.slot_holders().await, [builds.as_str()], "it left the queue");

    here.run_twice(&OF_A_WARNING);
    here.break_at("scrape-openapi", "fail", ErrorCode::Internal);
    here.release("build-image", "during");
    here.ended(std::slice::from_ref(&builds)).await;
    let shown = assert_single_effects(&here, &builds).await;
    assert_eq!(shown.warnings.len(), 1, "{shown:#?}");
    here.assert_ran_twice(&OF_A_WARNING);

    here.run_twice(&OF_A_QUESTION);
    let state = here.state(&waits).await;
    assert_eq!((&state["status"], &state["attempt"]), (&"cancelled".into(), &1.into()), "{state}");
    here.assert_ran_twice(&OF_A_QUESTION);
}
