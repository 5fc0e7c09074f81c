//! kill -9 of the worker and of a krane on Kubernetes, with a deployment at each
//! point of each step that has to do with the runtime.

use launchway_workflows::step::Step;

use crate::{
    chaos::{SETTINGS, assert_only_the_latest_run, kill_at_all},
    outside::Outside,
    support::{Installation, Process, eventually},
};

const STEPS: [Step; 4] =
    [Step::ReleaseCommand, Step::DeployToKrane, Step::AwaitReady, Step::AssignDomains];

#[tokio::test(flavor = "multi_thread")]
async fn every_deployment_goes_live_when_worker_or_krane_is_killed_on_kubernetes() {
    let mut here = Installation::apart_on_kubernetes(&SETTINGS).await;
    let projects: Vec<_> = STEPS.iter().map(|step| format!("shop-{step}")).collect();
    for killed in [&[Process::Worker][..], &[Process::Krane], &[Process::Worker, Process::Krane]] {
        let names: Vec<&str> = killed.iter().map(|process| process.name()).collect();
        let label = format!("{}, Kubernetes", names.join(" and "));
        kill_at_all(&mut here, &label, &STEPS, &projects, killed).await;
    }
    here.assert_nothing_ran_twice_at_once();
    assert_only_the_latest_run(&here, &projects).await;
    let Outside::Kubernetes(_, pods) = &here.outside else { panic!("it runs on Kubernetes") };
    eventually("what has retired has left nothing in the cluster", async || {
        (pods.owned().len() == projects.len()).then_some(())
    })
    .await;
}
