//! What is past its retention goes, whatever is killed meanwhile; what is live, or
//! can be served again, stays.

use launchway_workflows::{ids::DeploymentId, status::DeploymentStatus};
use serde_json::{Value, json};

use crate::{
    ages::age,
    effects::assert_single_effects,
    releases::release_to,
    support::{Installation, Process, eventually},
};

const SETTINGS: [&str; 4] = [
    "run.keep_running=0",
    "run.retire_after=10ms",
    "retention.restorable=1",
    "retention.records=60d",
];
pub const RUNS: [&str; 2] = ["find-garbage", "remove-garbage"];

async fn sweep(here: &Installation, dry_run: bool) -> Value {
    here.ask("Janitor/local/sweep", &json!({ "dry_run": dry_run })).await.unwrap()
}

/// Two retired ones, of which one stays restorable, and a live one.
async fn three(here: &Installation) -> [DeploymentId; 3] {
    let (first, second) = (here.deploy("shop").await, here.deploy("shop").await);
    here.wait(&first, DeploymentStatus::Retired).await;
    let third = here.deploy("shop").await;
    here.wait(&second, DeploymentStatus::Retired).await;
    [first, second, third]
}

async fn exists(here: &Installation, id: &DeploymentId) -> bool {
    here.store
        .deployment(&launchway_workflows::ids::WorkspaceId::local(), id)
        .await
        .unwrap()
        .is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_whose_every_run_runs_twice_removes_once_and_only_what_is_past() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let [first, second, third] = three(&here).await;
    assert_eq!(sweep(&here, true).await["amounts"], json!({}), "nothing is old yet");
    age(&here.data().join("launchway.db"), 100).await;
    let found = sweep(&here, true).await;
    let images = |found: &Value| found["amounts"]["image"]["count"].as_u64();
    assert_eq!(images(&found), Some(1), "{found:#}");
    assert_eq!(found["amounts"]["image"]["bytes"], 1000, "{found:#}");
    assert!(exists(&here, &first).await, "a dry run removes nothing");
    RUNS.iter().for_each(|run| here.arm(run, "twice"));
    let removed = sweep(&here, false).await;
    for run in RUNS {
        assert!(here.run_taken(run, "twice"), "{run} did not run twice");
    }
    assert_eq!(removed["amounts"]["record"]["count"], 1, "{removed:#}");
    assert!(!exists(&here, &first).await, "its record is still there");
    assert_eq!(sweep(&here, false).await["amounts"], json!({}), "there is more to remove");
    // What stays can be served again, and what is live serves on.
    assert_single_effects(&here, &third).await;
    let done = release_to(&here, "rollback", &second).await.unwrap();
    assert_eq!(done["verdict"], "done", "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_finds_nothing_journals_one_look() {
    let here = Installation::together(&SETTINGS, &[]).await;
    assert_eq!(sweep(&here, false).await["amounts"], json!({}));
    let runs = "SELECT j.name FROM sys_journal j JOIN sys_invocation i ON i.id = j.id \
                WHERE i.target_service_name = 'Janitor' AND j.entry_type = 'Command: Run'";
    let runs = here.query(runs).await.unwrap();
    assert!(!runs.is_empty());
    assert!(runs.iter().all(|run| run["name"] == "find-garbage"), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_goes_on_whoever_is_killed_in_it() {
    let mut here = Installation::apart(&SETTINGS, &[]).await;
    let [first, second, third] = three(&here).await;
    age(&here.data().join("launchway.db"), 100).await;
    for process in [Process::Worker, Process::Restate] {
        here.arm("remove-garbage", "ran");
        here.send("Janitor/local/sweep", &json!({ "dry_run": false })).await;
        eventually("the sweep has removed something", async || {
            here.run_taken("remove-garbage", "ran").then_some(())
        })
        .await;
        here.kill(process);
        here.release("remove-garbage", "ran");
        here.start(process).await;
    }
    eventually("its record is removed", async || (!exists(&here, &first).await).then_some(()))
        .await;
    assert!(exists(&here, &second).await);
    assert_single_effects(&here, &third).await;
}
