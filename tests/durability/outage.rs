//! Restate restarted again and again while a queue of deployments waits.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    effects::assert_single_effects,
    support::{Installation, eventually},
};

const DEPLOYMENTS: usize = 20;
const RESTARTS: usize = 10;
/// Where the one that has the slot is when the server dies, by turns: in the
/// middle of its build, and about to give the slot back.
const HELD: [(&str, &str); 2] = [("build-image", "during"), ("release-slot", "before")];

/// Pid of the server that `up` supervises.
fn restate(here: &Installation) -> u64 {
    let record = fs::read(here.data().join("run/restate-server.json")).unwrap_or_default();
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    record["process"]["pid"].as_u64().unwrap_or(0)
}

/// One slot for all of them: while one builds, the others wait in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn every_queued_deployment_goes_live_when_restate_is_killed_ten_times() {
    let here = Installation::together(&["build.concurrency=1"], &[]).await;
    here.arm(HELD[0].0, HELD[0].1);
    let projects: Vec<_> = (0..DEPLOYMENTS).map(|number| format!("shop-{number}")).collect();
    let ids = here.submit_all(&projects).await;
    for restart in 0..RESTARTS {
        let (held, next) = (HELD[restart % 2], HELD[(restart + 1) % 2]);
        here.parked(held.0, held.1).await;
        if restart + 1 < RESTARTS {
            here.arm(next.0, next.1);
        }
        let server = restate(&here);
        let killed = Command::new("kill").args(["-9", &server.to_string()]).status().unwrap();
        assert!(killed.success());
        eventually("Restate runs again", async || {
            let again = restate(&here);
            (again != server && again != 0 && here.admin.unfinished().await.is_ok()).then_some(())
        })
        .await;
        here.release(held.0, held.1);
    }
    here.ended(&ids).await;
    for id in &ids {
        assert_single_effects(&here, id).await;
    }
    here.assert_nothing_ran_twice_at_once();
    assert_eq!(here.slot_holders().await, Vec::<String>::new());
}
