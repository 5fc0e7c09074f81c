//! The commit point: domains, live pointer and status change together or not
//! at all.

use launchway_workflows::{
    domains::claims,
    error::{ErrorCode, StepFailure},
    ids::DeploymentId,
    model::{DeploymentPlan, Routed},
    ports::{Guarded, Retirable, Store as _, UnwindStart},
    status::DeploymentStatus,
};

use super::{InvocationId, Store, all, live, on_both_databases, routing, status, submission};

on_both_databases!(
    the_commit_moves_domains_pointer_and_status_at_once,
    repeating_a_commit_returns_what_it_did,
    an_older_deployment_does_not_overtake_a_newer_one,
    a_pinned_environment_stays_where_it_is,
    concurrent_commits_leave_the_newest_live,
    an_unwinding_attempt_cannot_commit,
    a_name_belongs_to_its_first_owner,
    only_what_nothing_points_to_retires,
);

async fn commit(store: &Store, plan: &DeploymentPlan, owner: &InvocationId) -> Option<Routed> {
    let id = &plan.deployment_id;
    store.commit_routes(id, owner, &claims(plan, "localhost")).await.unwrap()
}

async fn target(store: &Store, host: &str) -> DeploymentId {
    let rows = store.route_rows().await.unwrap();
    let found: Vec<_> = rows.iter().filter(|row| row.host == host).collect();
    assert_eq!(found.len(), 1, "{host}: {rows:?}");
    found[0].deployment_id.clone()
}

async fn the_commit_moves_domains_pointer_and_status_at_once(store: &Store) {
    let (first, routed) = live(store, "one").await;
    assert_eq!((routed.status, routed.previous), (DeploymentStatus::Live, None));
    assert_eq!(routed.domains.len(), 3);
    assert_eq!(routed.primary, "shop-preview-local.localhost");
    let (second, routed) = live(store, "two").await;
    assert_eq!(routed.previous.as_ref(), Some(&first.deployment_id));
    assert_eq!(target(store, "shop-preview-local.localhost").await, second.deployment_id);
    assert_eq!(target(store, "shop-git-main-local.localhost").await, second.deployment_id);
    assert_eq!(status(store, &first.deployment_id).await, DeploymentStatus::Ready);
    assert_eq!(status(store, &second.deployment_id).await, DeploymentStatus::Live);
    // Each keeps its own name.
    assert_eq!(store.route_rows().await.unwrap().len(), 4);
}

async fn repeating_a_commit_returns_what_it_did(store: &Store) {
    let (plan, owner) = routing(store, submission("one")).await;
    let first = commit(store, &plan, &owner).await.unwrap();
    let rows = store.route_rows().await.unwrap();
    live(store, "two").await;
    // After a crash, and after somebody else has gone live.
    assert_eq!(commit(store, &plan, &owner).await, Some(first));
    assert_ne!(store.route_rows().await.unwrap(), rows, "the newer one is still live");
    assert_eq!(status(store, &plan.deployment_id).await, DeploymentStatus::Ready);
}

async fn an_older_deployment_does_not_overtake_a_newer_one(store: &Store) {
    let (older, owner) = routing(store, submission("one")).await;
    let (newer, _) = live(store, "two").await;
    let routed = commit(store, &older, &owner).await.unwrap();
    assert_eq!(routed.status, DeploymentStatus::Ready);
    let why = routed.withheld.unwrap();
    assert!(why.contains(newer.deployment_id.as_str()) && why.contains("promote"), "{why}");
    assert_eq!(target(store, "shop-preview-local.localhost").await, newer.deployment_id);
    assert_eq!(target(store, "shop-git-main-local.localhost").await, newer.deployment_id);
    // It is reachable at its own name alone.
    assert_eq!(routed.domains.len(), 1);
    assert_eq!(target(store, &routed.primary).await, older.deployment_id);
}

async fn a_pinned_environment_stays_where_it_is(store: &Store) {
    let (first, _) = live(store, "one").await;
    sqlx::query("UPDATE environments SET pinned_deployment_id = $1")
        .bind(first.deployment_id.as_str())
        .execute(&store.pool)
        .await
        .unwrap();
    let (_, routed) = live(store, "two").await;
    assert_eq!(routed.status, DeploymentStatus::Ready);
    assert!(routed.withheld.unwrap().contains("pinned"));
    assert_eq!(target(store, "shop-preview-local.localhost").await, first.deployment_id);
    assert_eq!(status(store, &first.deployment_id).await, DeploymentStatus::Live);
}

async fn concurrent_commits_leave_the_newest_live(store: &Store) {
    let mut waiting = Vec::new();
    for number in 0..8 {
        waiting.push(routing(store, submission(&format!("key-{number}"))).await);
    }
    let newest = waiting.last().unwrap().0.deployment_id.clone();
    let commits: Vec<_> = waiting
        .into_iter()
        .map(|(plan, owner)| {
            let store = store.clone();
            tokio::spawn(async move { commit(&store, &plan, &owner).await.unwrap() })
        })
        .collect();
    for committed in commits {
        committed.await.unwrap();
    }
    assert_eq!(target(store, "shop-preview-local.localhost").await, newest);
    assert_eq!(target(store, "shop-git-main-local.localhost").await, newest);
    let rows = store.deployments(&launchway_workflows::ids::WorkspaceId::local(), &all()).await;
    let live: Vec<_> = rows
        .unwrap()
        .into_iter()
        .filter(|row| row.status == DeploymentStatus::Live)
        .map(|row| row.id)
        .collect();
    assert_eq!(live, [newest]);
}

/// Whichever of commit and unwind is first decides; never half of each.
async fn an_unwinding_attempt_cannot_commit(store: &Store) {
    let (plan, owner) = routing(store, submission("one")).await;
    let cause = StepFailure::new(ErrorCode::NotReady, "not ready");
    let begun = store.begin_unwind(&plan.deployment_id, &owner, &cause).await.unwrap();
    assert_eq!(begun, UnwindStart::Begun);
    assert_eq!(commit(store, &plan, &owner).await, None);
    assert!(store.route_rows().await.unwrap().is_empty());

    let (plan, owner) = routing(store, submission("two")).await;
    let routed = commit(store, &plan, &owner).await.unwrap();
    let late = store.begin_unwind(&plan.deployment_id, &owner, &cause).await.unwrap();
    assert_eq!(late, UnwindStart::Committed(routed));

    let (plan, owner) = routing(store, submission("three")).await;
    let stranger = super::invocation("inv-stranger");
    assert_eq!(commit(store, &plan, &stranger).await, None);
    let foreign = store.begin_unwind(&plan.deployment_id, &stranger, &cause).await.unwrap();
    assert_eq!(foreign, UnwindStart::NotOurs);
    assert!(commit(store, &plan, &owner).await.is_some());
}

/// `a-b` + `c` and `a` + `b-c` give the same hostname.
async fn a_name_belongs_to_its_first_owner(store: &Store) {
    let mut first = submission("one");
    (first.project, first.environment) = ("a-b".to_owned(), "c".to_owned());
    let (first, owner) = routing(store, first).await;
    commit(store, &first, &owner).await.unwrap();
    let mut second = submission("two");
    (second.project, second.environment) = ("a".to_owned(), "b-c".to_owned());
    let (second, owner) = routing(store, second).await;
    let routed = commit(store, &second, &owner).await.unwrap();
    assert_eq!(target(store, "a-b-c-local.localhost").await, first.deployment_id);
    assert!(routed.primary.starts_with("a-b-c-local-"), "{}", routed.primary);
    assert_eq!(target(store, &routed.primary).await, second.deployment_id);
}

async fn only_what_nothing_points_to_retires(store: &Store) {
    let (first, _) = live(store, "one").await;
    let id = &first.deployment_id;
    let candidate = Retirable { deployment_id: id.clone(), generation: 0 };
    assert_eq!(store.begin_retirement(&candidate).await.unwrap(), Guarded::Lost, "it is live");
    let mut branch = submission("two");
    branch.branch = "feature".to_owned();
    let (second, owner) = routing(store, branch).await;
    commit(store, &second, &owner).await.unwrap();
    let lost = store.begin_retirement(&candidate).await.unwrap();
    assert_eq!(lost, Guarded::Lost, "its branch's domain points to it");
    let (third, _) = live(store, "three").await;
    let candidates = store.retirement_candidates(&third.deployment_id, 1).await.unwrap();
    assert_eq!(candidates, std::slice::from_ref(&candidate), "the newest previous one is kept");
    let stale = Retirable { generation: -1, ..candidate.clone() };
    let lost = store.begin_retirement(&stale).await.unwrap();
    assert_eq!(lost, Guarded::Lost, "it was wanted again meanwhile");
    for _ in 0..2 {
        assert_eq!(store.begin_retirement(&candidate).await.unwrap(), Guarded::Applied);
        assert_eq!(status(store, id).await, DeploymentStatus::Retiring);
    }
    let begun = store.retirement_candidates(&third.deployment_id, 5).await.unwrap();
    assert_eq!(begun, std::slice::from_ref(&candidate), "what was begun has to be finished");
    assert_eq!(store.finish_retirement(id).await.unwrap(), Guarded::Applied);
    assert_eq!(status(store, id).await, DeploymentStatus::Retired);
    assert_eq!(store.begin_retirement(&candidate).await.unwrap(), Guarded::Lost);
}
