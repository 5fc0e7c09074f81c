//! Attempts after attempts, and environments that move: no order of events
//! leaves a domain without a target that was ready.

use launchway_workflows::{
    engine::retry::RestartPoint,
    ports::{CancelRequest, Guarded, ReleaseStart, StepRun, Store as _},
    services::{
        release::{ReleaseKind, ReleaseRequest},
        routing::{SwapRequest, Swapped},
    },
    status::DeploymentStatus,
    step::Step,
};

use super::{
    DeploymentId, NewDeployment, Store, WorkspaceId, claims, create, invocation, live,
    on_both_databases, routing, status, submission,
};
use crate::store::suite::attempts::failed;
use launchway_workflows::error::ErrorCode;

on_both_databases!(
    a_retry_keeps_the_ended_attempt_and_begins_once,
    a_refused_retry_leaves_everything_as_it_was,
    rollback_moves_and_pins_in_one_go,
    a_target_that_retires_meanwhile_is_tried_again,
    a_retirement_is_overdue_when_its_time_has_passed_and_nothing_keeps_it,
    only_what_was_healthy_can_be_live_again,
    what_has_moved_on_is_not_marked_as_stalled,
);

fn point() -> RestartPoint {
    RestartPoint { step: Step::PushImage, why: "as requested".to_owned() }
}

async fn failed_one(store: &Store) -> DeploymentId {
    let id = create(store, "one").await;
    let owner = invocation("inv-1");
    store.begin_attempt(&id, &owner).await.unwrap().unwrap();
    store.finish_attempt(&id, &owner, &failed(ErrorCode::BuildFailed)).await.unwrap();
    id
}

async fn a_retry_keeps_the_ended_attempt_and_begins_once(store: &Store) {
    let id = failed_one(store).await;
    let (first, second) = (invocation("retry-1"), invocation("retry-2"));
    let ended = invocation("inv-1");
    assert_eq!(store.begin_retry(&id, &first, &ended, &point()).await.unwrap(), Guarded::Applied);
    assert_eq!(store.begin_retry(&id, &second, &ended, &point()).await.unwrap(), Guarded::Lost);
    let begun = store.ended_attempt(&id).await.unwrap().unwrap();
    let retried = begun.retried.unwrap();
    assert_eq!((retried.by, retried.ended, retried.point), (first, ended.clone(), point()));
    // The ended workflow has lost the row, the restarted one takes it.
    let run = |owner: &str| StepRun {
        deployment_id: id.clone(),
        owner: invocation(owner),
        step: Step::PushImage,
    };
    let taken =
        store.step_started(&run("inv-2"), Some(DeploymentStatus::Pushing), &[]).await.unwrap();
    assert_eq!(taken, Some(1));
    assert_eq!(store.step_started(&run("inv-1"), None, &[]).await.unwrap(), None);
    let shown = store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap();
    assert_eq!((shown.attempt, shown.attempts.len()), (2, 1));
    assert_eq!(shown.attempts[0].invocation_id, Some(ended));
    assert_eq!(shown.attempts[0].failure.as_ref().unwrap().code, ErrorCode::BuildFailed);
    assert_eq!(shown.attempts[0].undone.len(), 1);
    assert!(shown.failure.is_none());
}

async fn a_refused_retry_leaves_everything_as_it_was(store: &Store) {
    let id = failed_one(store).await;
    let (by, other) = (invocation("retry-1"), invocation("retry-2"));
    store.begin_retry(&id, &by, &invocation("inv-1"), &point()).await.unwrap();
    store.take_back_retry(&id, &other).await.unwrap();
    assert_eq!(status(store, &id).await, DeploymentStatus::Retrying, "somebody else's");
    for _ in 0..2 {
        store.take_back_retry(&id, &by).await.unwrap();
        let shown = store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap();
        assert_eq!((shown.status, shown.attempt), (DeploymentStatus::Failed, 1));
        assert_eq!(shown.failure.unwrap().code, ErrorCode::BuildFailed);
        assert_eq!((shown.undone.len(), shown.attempts.len()), (1, 0));
    }
}

fn release(kind: ReleaseKind, target: &DeploymentId) -> ReleaseRequest {
    ReleaseRequest { kind, target_deployment_id: target.clone(), source_deployment_id: None }
}

/// Begins the release, and what its swap asks for then.
pub(super) async fn begun(store: &Store, release: &ReleaseRequest) -> SwapRequest {
    match store.begin_release(release).await.unwrap() {
        ReleaseStart::Begun(target) => {
            SwapRequest { release: release.clone(), stops: target.stops }
        }
        ReleaseStart::Refused(reason) => panic!("{reason}"),
    }
}

pub(super) fn done(swapped: Swapped) -> (String, Option<DeploymentId>) {
    match swapped {
        Swapped::Done { domain, previous } => (domain, previous),
        other => panic!("{other:?}"),
    }
}

async fn rollback_moves_and_pins_in_one_go(store: &Store) {
    let (first, _) = live(store, "one").await;
    let (second, routed) = live(store, "two").await;
    let (first, second) = (first.deployment_id, second.deployment_id);
    let swap = begun(store, &release(ReleaseKind::Rollback, &first)).await;
    let moved = done(store.swap_routes(&swap).await.unwrap());
    assert_eq!(moved, (routed.primary, Some(second.clone())));
    // Its answer was lost: the same again.
    assert_eq!(done(store.swap_routes(&swap).await.unwrap()), moved);
    assert_eq!(status(store, &first).await, DeploymentStatus::Live);
    assert_eq!(status(store, &second).await, DeploymentStatus::Ready);
    let (third, routed) = live(store, "three").await;
    assert_eq!(routed.status, DeploymentStatus::Ready, "{routed:?}");
    let promote = begun(store, &release(ReleaseKind::Promote, &third.deployment_id)).await;
    done(store.swap_routes(&promote).await.unwrap());
    assert_eq!(live(store, "four").await.1.status, DeploymentStatus::Live);
}

async fn a_target_that_retires_meanwhile_is_tried_again(store: &Store) {
    let (first, _) = live(store, "one").await;
    let (second, _) = live(store, "two").await;
    let candidates = store.retirement_candidates(&second.deployment_id, 0).await.unwrap();
    let request = release(ReleaseKind::Rollback, &first.deployment_id);
    // The retirement that began first is waited for; one that was only
    // scheduled is called off.
    let early = begun(store, &request).await;
    assert_eq!(store.begin_retirement(&candidates[0]).await.unwrap(), Guarded::Lost);
    let candidates = store.retirement_candidates(&second.deployment_id, 0).await.unwrap();
    assert_eq!(store.begin_retirement(&candidates[0]).await.unwrap(), Guarded::Applied);
    assert!(store.begin_release(&request).await.is_err(), "it must be asked again");
    assert_eq!(store.swap_routes(&early).await.unwrap(), Swapped::Again);
    store.finish_retirement(&first.deployment_id).await.unwrap();
    // What it had made ready is gone, though nothing retires any more.
    assert_eq!(store.swap_routes(&early).await.unwrap(), Swapped::Again);
    let again = begun(store, &request).await;
    // Given up, and stopped again: a swap that comes late moves nothing.
    assert_eq!(store.retire_again(&first.deployment_id).await.unwrap(), Guarded::Applied);
    assert_eq!(store.swap_routes(&again).await.unwrap(), Swapped::Again);
    store.finish_retirement(&first.deployment_id).await.unwrap();
    store.finish_retirement(&first.deployment_id).await.unwrap();
    assert_eq!(store.swap_routes(&again).await.unwrap(), Swapped::Again);
    done(store.swap_routes(&begun(store, &request).await).await.unwrap());
    assert_eq!(store.retire_again(&first.deployment_id).await.unwrap(), Guarded::Lost);
    assert_eq!(status(store, &first.deployment_id).await, DeploymentStatus::Live);
}

/// Nobody has sent the retirement, or whoever ran it was killed.
async fn a_retirement_is_overdue_when_its_time_has_passed_and_nothing_keeps_it(store: &Store) {
    let (first, _) = live(store, "one").await;
    let (second, _) = live(store, "two").await;
    let (third, _) = live(store, "three").await;
    let overdue = async |keep, before| -> Vec<DeploymentId> {
        let found = store.overdue_retirements(keep, before).await.unwrap();
        found.into_iter().map(|found| found.deployment_id).collect()
    };
    let (first, second) = (first.deployment_id, second.deployment_id);
    assert_eq!(overdue(0, i64::MAX).await, [second.clone(), first.clone()]);
    assert_eq!(overdue(1, i64::MAX).await, std::slice::from_ref(&first));
    assert!(overdue(0, 0).await.is_empty(), "they have just lost their domains");
    let candidates = store.retirement_candidates(&third.deployment_id, 1).await.unwrap();
    store.begin_retirement(&candidates[0]).await.unwrap();
    assert_eq!(
        overdue(1, i64::MAX).await,
        std::slice::from_ref(&first),
        "it has begun and not ended"
    );
    store.finish_retirement(&first).await.unwrap();
    assert!(overdue(1, i64::MAX).await.is_empty());
    let feature = NewDeployment { branch: "feature".to_owned(), ..submission("four") };
    let (feature, owner) = routing(store, feature).await;
    let wanted = claims(&feature, "localhost");
    store.commit_routes(&feature.deployment_id, &owner, &wanted).await.unwrap().unwrap();
    live(store, "five").await;
    let late = overdue(0, i64::MAX).await;
    assert_eq!(late, [third.deployment_id, second], "its branch's domain keeps the feature");
}

async fn only_what_was_healthy_can_be_live_again(store: &Store) {
    let (first, _) = live(store, "one").await;
    let unhealthy = create(store, "two").await;
    let refused = |request: ReleaseRequest| async move {
        match store.begin_release(&request).await.unwrap() {
            ReleaseStart::Refused(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    let reason = refused(release(ReleaseKind::Promote, &unhealthy)).await;
    assert!(reason.contains("pending"), "{reason}");
    let reason = refused(release(ReleaseKind::Rollback, &first.deployment_id)).await;
    assert!(reason.contains("live already"), "{reason}");
    let (second, _) = live(store, "three").await;
    let from_elsewhere = ReleaseRequest {
        source_deployment_id: Some(unhealthy),
        ..release(ReleaseKind::Rollback, &first.deployment_id)
    };
    let reason = refused(from_elsewhere).await;
    assert!(reason.contains("is not live") && reason.contains(second.deployment_id.as_str()));
    let asked = store.request_cancel(&second.deployment_id).await.unwrap();
    assert_eq!(asked, CancelRequest::TooLate(DeploymentStatus::Live));
}

/// Between the look and the mark it may have gone on.
async fn what_has_moved_on_is_not_marked_as_stalled(store: &Store) {
    let id = create(store, "one").await;
    let seen = store.in_flight().await.unwrap()[0].updated_at;
    let shown =
        || async { store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap().stalled };
    store.mark_stalled(&id, seen - 1, "too late").await.unwrap();
    assert_eq!(shown().await, None);
    store.mark_stalled(&id, seen, "nothing moves").await.unwrap();
    assert_eq!(shown().await, Some((seen, "nothing moves".to_owned())));
}
