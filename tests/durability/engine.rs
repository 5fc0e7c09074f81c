//! kill -9 of the Docker engine itself: one of the test's own, beside whatever
//! engine the machine has.

use launchway::krane::KraneClient;
use launchway_workflows::{
    engine::failpoint::Point, ids::DeploymentId, ports::Runtime as _, step::Step,
};

use crate::{
    chaos::{SETTINGS, assert_only_the_latest_run, release_all},
    effects::{assert_single_effects, instances},
    support::{Installation, Process, REPLICAS, eventually},
};

/// What was being built or started is built or started again; what served is
/// served again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "an engine of its own and minutes of real builds: ./dev chaos"]
async fn every_deployment_goes_live_when_the_docker_engine_is_killed() {
    let mut here = Installation::apart_on_its_own_engine(&SETTINGS).await;
    let krane = KraneClient::new(&format!("http://{}", here.address("krane.bind"))).unwrap();
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    let mut latest = Vec::new();
    for point in Point::ALL {
        Step::ALL.iter().for_each(|step| here.arm(step.name(), point.name()));
        let ids = here.submit_all(&projects).await;
        let parked = here.parked_at_all(&Step::ALL, point).await;
        here.kill(Process::Engine);
        release_all(&here, &Step::ALL, point);
        missed(&here, &parked, point).await;
        here.start(Process::Engine).await;
        here.ended(&ids).await;
        for id in &ids {
            eventually(&format!("{id} runs again"), async || {
                (instances(&here, id) == REPLICAS).then_some(())
            })
            .await;
            assert_single_effects(&here, id).await;
            assert_ready(&here, &krane, id).await;
        }
        latest.clone_from(&ids);
        println!("| Docker engine | {} | {} of {} live |", point.name(), ids.len(), ids.len());
    }
    // In good order too: they end well then, and are to run again all the same.
    here.stop(Process::Engine);
    here.start(Process::Engine).await;
    for id in &latest {
        assert_ready(&here, &krane, id).await;
    }
    here.assert_nothing_ran_twice_at_once();
    assert_only_the_latest_run(&here, &projects).await;
}

/// Whoever has work for the engine has tried it in vain.
async fn missed(here: &Installation, parked: &[(Step, DeploymentId)], point: Point) {
    let needs = |step: Step| {
        step < Step::BuildImage || (step == Step::BuildImage && point == Point::Before)
    };
    for (step, id) in parked.iter().filter(|(step, _)| needs(*step)) {
        eventually(&format!("{id}, which was at {step}, misses the engine"), async || {
            here.view(id).await.steps.iter().any(|row| row.error_code.is_some()).then_some(())
        })
        .await;
    }
}

/// krane, which has not been restarted, knows all of it as ready again.
async fn assert_ready(here: &Installation, krane: &KraneClient, id: &DeploymentId) {
    let namespace = here.view(id).await.environment_id.to_string();
    eventually(&format!("{id} is ready again"), async || {
        let instances = krane.instances(&namespace, id).await.ok()?;
        let ready = instances.iter().filter(|instance| instance.ready).count();
        (ready == REPLICAS as usize).then_some(())
    })
    .await;
}
