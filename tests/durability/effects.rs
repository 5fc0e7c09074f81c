//! What a deployment must have left outside, well ended or not.

use launchway::store::DeploymentView;
use launchway_workflows::{ids::DeploymentId, ports::Store as _, status::DeploymentStatus};

use crate::support::{Installation, REPLICAS, eventually};

/// How many run.
pub fn instances(here: &Installation, id: &DeploymentId) -> u32 {
    here.outside.instances(id)
}

/// Live, and everything outside is there once.
pub async fn assert_single_effects(here: &Installation, id: &DeploymentId) -> DeploymentView {
    let shown = here.view(id).await;
    assert_eq!(shown.status, DeploymentStatus::Live, "{shown:#?}");
    assert_eq!(here.outside.images(&shown), 1, "one image: {shown:#?}");
    assert_eq!(here.outside.built_twice_at_once(), None, "{shown:#?}");
    assert!(!here.outside.builds(&shown), "a build still runs: {shown:#?}");
    assert_eq!(instances(here, id), REPLICAS, "one set of instances: {shown:#?}");
    if let Some(releases) = here.outside.releases(id) {
        assert_eq!(releases, 1, "its release command has run {releases} times: {shown:#?}");
    }
    assert!(!here.outside.has_task(id), "its task is left: {shown:#?}");
    let routed = shown.routed.as_ref().expect("routed");
    let routes = here.store.route_rows().await.unwrap();
    assert_eq!(routed.domains.len(), 3, "commit, branch and environment: {shown:#?}");
    for domain in &routed.domains {
        let targets: Vec<_> = routes.iter().filter(|route| route.host == *domain).collect();
        assert_eq!(targets.len(), 1, "{domain}: {targets:?}");
        assert_eq!(targets[0].deployment_id, *id, "{domain}");
    }
    shown
}

/// Nothing of it runs, and what was there before serves as before.
pub async fn assert_clean_slate(here: &Installation, id: &DeploymentId, before: &DeploymentId) {
    let shown = here.view(id).await;
    assert_eq!(instances(here, id), 0, "instances: {shown:#?}");
    assert!(!here.outside.builds(&shown), "a build: {shown:#?}");
    assert!(!here.outside.has_task(id), "a task: {shown:#?}");
    eventually(&format!("the workflow of {id} ends"), async || {
        here.unfinished(id).await?.is_empty().then_some(())
    })
    .await;
    eventually(&format!("{id} holds no slot"), async || {
        (!here.slot_holders().await.iter().any(|holder| holder == id.as_str())).then_some(())
    })
    .await;
    eventually(&format!("nobody waits for the instances of {id}"), async || {
        let waits = here.store.readiness_waits().await.unwrap();
        (!waits.iter().any(|wait| wait.deployment_id == *id)).then_some(())
    })
    .await;
    let routes = here.store.route_rows().await.unwrap();
    assert!(!routes.iter().any(|route| route.deployment_id == *id), "half-made: {routes:?}");
    let before = assert_single_effects(here, before).await;
    assert_eq!(before.domains.len(), 3, "it has lost domains: {before:#?}");
}
