//! What nobody asks for: found when its time is over, stopped and started by
//! guarded steps, and never what is wanted.

use std::time::Duration;

use launchway_workflows::{
    app::Process,
    error::{ErrorCode, StepFailure},
    ids::EnvironmentId,
    model::NewDeployment,
    ports::{EvictionState, Evictions as _, Guarded, Idle, ReleaseStart, ScaleStart, Store as _},
    services::{
        release::{ReleaseKind, ReleaseRequest},
        scale::ScaleRequest,
    },
};

use super::{
    DeploymentId, Store, WorkspaceId, claims, invocation, live, on_both_databases, routing,
    submission,
};
use crate::store::{Silence, now_ms};

on_both_databases!(
    what_has_no_requests_for_longer_than_its_timeout_is_idle,
    an_eviction_and_a_start_follow_each_other_and_are_repeatable,
    what_is_asked_for_meanwhile_is_not_evicted,
    a_start_that_fails_leaves_it_evicted_with_the_reason,
    what_is_evicted_can_be_promoted_and_scaled_and_retires_like_any_other,
);

const MOMENT: Duration = Duration::from_millis(1);

/// As if gateways had always told.
fn silence(default: Duration) -> Silence {
    Silence { default, slack: Duration::ZERO, watched_since: 0 }
}

async fn idle(store: &Store, default: Duration) -> Vec<Idle> {
    store.idle(&silence(default), 100).await.unwrap()
}

/// The deployment, once its timeout of a millisecond is over.
async fn idle_one(store: &Store, id: &DeploymentId) -> Idle {
    loop {
        let found = idle(store, MOMENT).await;
        if let Some(idle) = found.into_iter().find(|idle| idle.deployment_id == *id) {
            return idle;
        }
        tokio::task::yield_now().await;
    }
}

/// Somebody asks for it, longer after the last time than is noted as one.
async fn noted(store: &Store, id: &DeploymentId) {
    let before = idle_one(store, id).await;
    while !store.asked_since(&before).await.unwrap() {
        store.note_active(std::slice::from_ref(id), MOMENT).await.unwrap();
        tokio::task::yield_now().await;
    }
}

async fn live_with(
    store: &Store,
    key: &str,
    adjust: impl FnOnce(&mut NewDeployment),
) -> DeploymentId {
    let mut new = submission(key);
    adjust(&mut new);
    let (plan, owner) = routing(store, new).await;
    let wanted = claims(&plan, "localhost");
    store.commit_routes(&plan.deployment_id, &owner, &wanted).await.unwrap().unwrap();
    plan.deployment_id
}

async fn state(store: &Store, id: &DeploymentId) -> Option<EvictionState> {
    let shown = store.deployment(&WorkspaceId::local(), id).await.unwrap().unwrap();
    let routes = store.route_rows_of(id).await.unwrap();
    let state = shown.eviction.map(|eviction| eviction.state);
    assert!(routes.iter().all(|route| route.eviction == state), "{routes:?}");
    state
}

async fn evicted(store: &Store, id: &DeploymentId) {
    let idle = idle_one(store, id).await;
    assert_eq!(store.begin_eviction(&idle).await.unwrap(), Guarded::Applied);
    assert_eq!(store.finish_eviction(id).await.unwrap(), Guarded::Applied);
}

async fn what_has_no_requests_for_longer_than_its_timeout_is_idle(store: &Store) {
    let quiet = live_with(store, "quiet", |_| {}).await;
    let production = live_with(store, "production", |new| {
        new.environment = "production".to_owned();
    });
    let production = production.await;
    let asks = live_with(store, "asks", |new| {
        new.environment = "asks".to_owned();
        new.run.idle_timeout_ms = Some(1);
    });
    let asks = asks.await;
    let never = live_with(store, "never", |new| {
        new.environment = "never".to_owned();
        new.run.idle_timeout_ms = Some(0);
    });
    let never = never.await;
    // It works without requests.
    let works = live_with(store, "works", |new| {
        new.environment = "works".to_owned();
        for name in ["web", "worker"] {
            new.run.processes.insert(name.to_owned(), Process::default());
        }
    });
    let works = works.await;
    idle_one(store, &quiet).await;
    let ids =
        |found: Vec<Idle>| -> Vec<_> { found.into_iter().map(|idle| idle.deployment_id).collect() };
    idle_one(store, &asks).await;
    let found = ids(idle(store, MOMENT).await);
    assert_eq!(found, [quiet.clone(), asks.clone()], "{production} {never} {works}");
    // Switched off, only what asks for it itself is.
    assert_eq!(ids(idle(store, Duration::ZERO).await), std::slice::from_ref(&asks));
    assert_eq!(ids(idle(store, Duration::from_secs(60)).await), std::slice::from_ref(&asks));
    let later = Silence { slack: Duration::from_secs(60), ..silence(MOMENT) };
    assert_eq!(store.idle(&later, 100).await.unwrap(), []);
    let blind = Silence { watched_since: now_ms() + 1, ..silence(MOMENT) };
    assert_eq!(store.idle(&blind, 100).await.unwrap(), [], "nobody would have told");
    let before = idle_one(store, &asks).await;
    noted(store, &asks).await;
    let after = idle_one(store, &asks).await;
    assert!(after.active_at > before.active_at, "{before:?} {after:?}");
    assert!(store.asked_since(&before).await.unwrap() && !store.asked_since(&after).await.unwrap());
}

async fn an_eviction_and_a_start_follow_each_other_and_are_repeatable(store: &Store) {
    let (plan, _) = live(store, "one").await;
    let id = plan.deployment_id;
    assert!(store.begin_start(&id, None).await.unwrap().is_none(), "it runs");
    assert_eq!(store.finish_eviction(&id).await.unwrap(), Guarded::Lost);
    let idle_now = idle_one(store, &id).await;
    for _ in 0..2 {
        assert_eq!(store.begin_eviction(&idle_now).await.unwrap(), Guarded::Applied);
        assert_eq!(state(store, &id).await, Some(EvictionState::Evicting));
        assert!(store.is_evicted(&id).await.unwrap());
    }
    for _ in 0..2 {
        assert_eq!(store.finish_eviction(&id).await.unwrap(), Guarded::Applied);
        assert_eq!(state(store, &id).await, Some(EvictionState::Evicted));
    }
    assert_eq!(store.begin_eviction(&idle_now).await.unwrap(), Guarded::Lost, "done already");
    assert!(idle(store, MOMENT).await.is_empty(), "what is evicted is not evicted again");
    for _ in 0..2 {
        let target = store.begin_start(&id, None).await.unwrap().unwrap();
        assert_eq!((target.plan.deployment_id, target.image.as_str()), (id.clone(), "shop:1"));
        assert_eq!(state(store, &id).await, Some(EvictionState::Starting));
        assert!(!store.is_evicted(&id).await.unwrap());
    }
    assert_eq!(store.finish_start(&id).await.unwrap(), Guarded::Applied);
    assert_eq!(state(store, &id).await, None);
    assert_eq!(store.finish_start(&id).await.unwrap(), Guarded::Lost);
    // Its instances were stopped once: what has seen them run before knows that.
    let again = idle_one(store, &id).await;
    assert_eq!(again.stops, idle_now.stops + 1);
    assert_eq!(store.begin_eviction(&idle_now).await.unwrap(), Guarded::Lost, "an old message");
}

async fn what_is_asked_for_meanwhile_is_not_evicted(store: &Store) {
    let (plan, _) = live(store, "one").await;
    let id = plan.deployment_id;
    let seen = idle_one(store, &id).await;
    noted(store, &id).await;
    assert_eq!(store.begin_eviction(&seen).await.unwrap(), Guarded::Lost);
    let seen = idle_one(store, &id).await;
    let begun = store.begin_scale(&scale(&plan.environment_id), &invocation("scale-1")).await;
    assert!(matches!(begun.unwrap(), ScaleStart::Begun(target) if !target.evicted));
    assert_eq!(store.begin_eviction(&seen).await.unwrap(), Guarded::Lost, "it is being scaled");
    assert!(idle(store, MOMENT).await.is_empty());
    assert_eq!(state(store, &id).await, None);
}

fn scale(environment: &EnvironmentId) -> ScaleRequest {
    ScaleRequest {
        environment_id: environment.clone(),
        deployment_id: None,
        process: None,
        replicas: 3,
        cpu_millicores: None,
        memory_mib: None,
    }
}

async fn a_start_that_fails_leaves_it_evicted_with_the_reason(store: &Store) {
    let (plan, _) = live(store, "one").await;
    let id = plan.deployment_id;
    evicted(store, &id).await;
    let failure = StepFailure::new(ErrorCode::NotReady, "it answers 500");
    assert_eq!(store.undo_start(&id, &failure).await.unwrap(), Guarded::Lost, "nobody starts it");
    store.begin_start(&id, None).await.unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(store.undo_start(&id, &failure).await.unwrap(), Guarded::Applied);
    }
    store.finish_eviction(&id).await.unwrap();
    let shown = store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap();
    let eviction = shown.eviction.unwrap();
    assert_eq!((eviction.state, eviction.start_failure), (EvictionState::Evicted, Some(failure)));
    // One that waited behind it is none any more; the next one is.
    let (_, stops) = store.eviction_of(&id).await.unwrap().unwrap();
    assert!(store.begin_start(&id, Some(stops - 1)).await.unwrap().is_none());
    store.begin_start(&id, Some(stops)).await.unwrap().unwrap();
    let shown = store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap();
    assert_eq!(shown.eviction.unwrap().start_failure, None, "it is tried again");
    store.begin_start(&id, None).await.unwrap().unwrap();
    store.finish_start(&id).await.unwrap();
    assert_eq!(state(store, &id).await, None);
}

async fn what_is_evicted_can_be_promoted_and_scaled_and_retires_like_any_other(store: &Store) {
    let (plan, _) = live(store, "one").await;
    let id = plan.deployment_id;
    let promote = |id: &DeploymentId| ReleaseRequest {
        kind: ReleaseKind::Promote,
        target_deployment_id: id.clone(),
        source_deployment_id: None,
    };
    let refused = store.begin_release(&promote(&id)).await.unwrap();
    assert!(matches!(refused, ReleaseStart::Refused(why) if why.contains("is live already")));
    evicted(store, &id).await;
    let begun = store.begin_release(&promote(&id)).await.unwrap();
    assert!(matches!(begun, ReleaseStart::Begun(target) if target.evicted && !target.retired));
    let begun = store.begin_scale(&scale(&plan.environment_id), &invocation("scale-1")).await;
    assert!(matches!(begun.unwrap(), ScaleStart::Begun(target) if target.evicted));
    let (newer, _) = live(store, "two").await;
    let retirable = store.retirement_candidates(&newer.deployment_id, 0).await.unwrap();
    assert_eq!(store.begin_retirement(&retirable[0]).await.unwrap(), Guarded::Applied);
    assert!(store.begin_start(&id, None).await.unwrap().is_none(), "what retires is not started");
    store.finish_retirement(&id).await.unwrap();
    assert_eq!(state(store, &id).await, None, "retired says it all");
}
