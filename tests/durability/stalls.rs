//! What makes no progress is shown, and goes on by itself.

use launchway_workflows::status::DeploymentStatus;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    effects::assert_single_effects,
    support::{Installation, Process, eventually},
};

/// Restate notices within ten seconds that a worker says nothing any more.
const SETTINGS: [&str; 3] =
    ["recovery.every=1s", "recovery.stalled_after=4s", "recovery.resume_after=8s"];

fn signal(here: &Installation, process: Process, signal: Signal) {
    let pid = i32::try_from(here.pid(process)).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_is_shown_as_a_stall_and_does_nothing_twice_when_it_thaws() {
    let here = Installation::apart(&SETTINGS, &[]).await;
    here.arm("deploy-to-krane", "during");
    let id = here.submit("shop").await;
    here.parked("deploy-to-krane", "during").await;
    signal(&here, Process::Worker, Signal::STOP);
    let stalled = eventually("the stall is shown", async || here.view(&id).await.stalled).await;
    assert!(stalled.1.contains("worker"), "{stalled:?}");
    here.release("deploy-to-krane", "during");
    signal(&here, Process::Worker, Signal::CONT);
    let shown = here.wait(&id, DeploymentStatus::Live).await;
    assert!(shown.stalled.is_none(), "{shown:#?}");
    here.ended(std::slice::from_ref(&id)).await;
    here.assert_nothing_ran_twice_at_once();
    assert_single_effects(&here, &id).await;
}
