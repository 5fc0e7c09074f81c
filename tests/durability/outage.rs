//! Processes killed again and again while many deployments are under way.

use std::{fs, process::Command};

use futures::future::try_join_all;
use serde_json::Value;

use crate::{
    effects::assert_single_effects,
    support::{Installation, LOOK, Process, eventually},
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

/// What deployments reach between two kills.
const REACHED_BETWEEN: usize = 90;
const KILLS: usize = 16;

/// Which processes, in which order: the same in every run.
struct Dice(u64);

impl Dice {
    fn process(&mut self) -> Process {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Process::APART[usize::try_from(self.0 % 4).unwrap()]
    }
}

/// The others are wherever they happen to be: interleavings that nobody has
/// thought of.
#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_any_process_is_killed_at_any_time() {
    let settings = ["build.concurrency=3", "run.keep_running=0", "run.retire_after=50ms"];
    let mut here = Installation::apart(&settings, &[]).await;
    let projects: Vec<_> = (0..DEPLOYMENTS).map(|number| format!("shop-{number}")).collect();
    let (mut dice, mut kills, mut next) = (Dice(0x5eed_1a0c), 0, 0);
    let mut latest = Vec::new();
    // More work as long as there is killing to do.
    while kills < KILLS {
        let submitted = projects.iter().map(|project| tokio::spawn(here.submission(project)));
        let submitted = tokio::spawn(try_join_all(submitted.collect::<Vec<_>>()));
        while !submitted.is_finished() || here.admin.unfinished().await.unwrap_or(1) > 0 {
            let reached = here.reached().len();
            if reached >= next && kills < KILLS {
                let process = dice.process();
                here.kill(process);
                here.start(process).await;
                (kills, next) = (kills + 1, reached + REACHED_BETWEEN);
            }
            tokio::time::sleep(LOOK).await;
        }
        latest = submitted.await.unwrap().unwrap();
        here.ended(&latest).await;
    }
    for id in &latest {
        assert_single_effects(&here, id).await;
    }
    here.assert_nothing_ran_twice_at_once();
    assert_eq!(here.outside.built_twice_at_once(), None);
    assert_eq!(here.slot_holders().await, Vec::<String>::new());
    eventually("only the latest deployments run", async || {
        (here.outside.deployed().len() == latest.len()).then_some(())
    })
    .await;
}
