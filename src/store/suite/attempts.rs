//! One owner at a time, states only along the machine, steps and logs as they
//! were.

use launchway_workflows::{
    engine::undo::Undone,
    error::{ErrorCode, StepFailure},
    ids::WorkspaceId,
    ports::{
        AttemptEnd, BuildEvent, BuildEventKind, Guarded, OutputStream, ReadinessWait, StepEnd,
        StepRun, Store as _,
    },
    status::DeploymentStatus,
    step::Step,
};

use super::{Store, create, invocation, moved, on_both_databases, status};
use launchway_workflows::ports::CancelRequest;

on_both_databases!(
    the_first_invocation_owns_the_row,
    a_settled_deployment_is_never_overwritten,
    a_step_counts_its_tries_and_keeps_its_failure,
    build_logs_resume_from_a_cursor,
    parked_waits_survive_and_repeat,
    keys_are_found_by_their_secret_only,
    a_killed_attempt_is_taken_over_with_what_it_had_started,
    cancel_is_asked_once_and_not_too_late,
);

fn undone() -> Undone {
    Undone { step: Step::DeployToKrane, note: "stopped the instances".to_owned(), failed: false }
}

pub(super) fn failed(code: ErrorCode) -> AttemptEnd {
    AttemptEnd {
        status: DeploymentStatus::Failed,
        failure: StepFailure::new(code, "what happened").at(Step::BuildImage),
        undone: vec![undone()],
    }
}

async fn the_first_invocation_owns_the_row(store: &Store) {
    let id = create(store, "one").await;
    let (first, second) = (invocation("inv-1"), invocation("inv-2"));
    assert!(store.begin_attempt(&id, &first).await.unwrap().is_some());
    // Its own again after a crash; nobody else's.
    assert!(store.begin_attempt(&id, &first).await.unwrap().is_some());
    assert!(store.begin_attempt(&id, &second).await.unwrap().is_none());
    assert!(!moved(store, &id, &second, DeploymentStatus::Deploying).await);
    let run = StepRun { deployment_id: id.clone(), owner: second.clone(), step: Step::BuildImage };
    let building = Some(DeploymentStatus::Building);
    assert_eq!(store.step_started(&run, building, &[]).await.unwrap(), None);
    assert_eq!(
        store.finish_attempt(&id, &second, &failed(ErrorCode::Internal)).await.unwrap(),
        Guarded::Lost
    );
    let shown = store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap();
    assert_eq!((shown.status, shown.steps.len()), (DeploymentStatus::Pending, 0));
    assert_eq!(store.owner_of(&id).await.unwrap(), Some(first));
}

/// No write of a status without a guard.
async fn a_settled_deployment_is_never_overwritten(store: &Store) {
    let id = create(store, "one").await;
    let owner = invocation("inv-1");
    store.begin_attempt(&id, &owner).await.unwrap().unwrap();
    assert!(moved(store, &id, &owner, DeploymentStatus::Building).await);
    let end = failed(ErrorCode::BuildFailed);
    for _ in 0..2 {
        let ended = store.finish_attempt(&id, &owner, &end).await.unwrap();
        assert_eq!(ended, Guarded::Applied, "repeating is fine");
    }
    for late in DeploymentStatus::ALL {
        assert!(!moved(store, &id, &owner, late).await, "{late}");
    }
    let shown = store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap();
    assert_eq!(shown.status, DeploymentStatus::Failed);
    assert_eq!(shown.failure.unwrap().code, ErrorCode::BuildFailed);
    assert_eq!(shown.undone, [undone()]);
}

async fn a_step_counts_its_tries_and_keeps_its_failure(store: &Store) {
    let id = create(store, "one").await;
    let owner = invocation("inv-1");
    store.begin_attempt(&id, &owner).await.unwrap().unwrap();
    let run = StepRun { deployment_id: id.clone(), owner: owner.clone(), step: Step::BuildImage };
    let building = Some(DeploymentStatus::Building);
    assert_eq!(store.step_started(&run, building, &[]).await.unwrap(), Some(1));
    let lost = StepFailure::new(ErrorCode::BuilderUnavailable, "gone");
    store.step_ended(&run, &StepEnd::WillRetry(lost)).await.unwrap();
    assert_eq!(store.step_started(&run, building, &[]).await.unwrap(), Some(2));
    assert_eq!(status(store, &id).await, DeploymentStatus::Building);
    // The attempt ends while the step runs: the step has the failure.
    store.finish_attempt(&id, &owner, &failed(ErrorCode::BuildFailed)).await.unwrap();
    let shown = store.deployment(&WorkspaceId::local(), &id).await.unwrap().unwrap();
    let [step] = shown.steps.as_slice() else { panic!("{:?}", shown.steps) };
    assert_eq!((step.status.as_str(), step.tries, step.attempt), ("failed", 2, 1));
    assert_eq!(step.error_code.as_deref(), Some("build-failed"));
    assert!(step.ended_at.is_some());
}

async fn build_logs_resume_from_a_cursor(store: &Store) {
    let id = create(store, "one").await;
    let line = |text: String| BuildEvent {
        at: 1,
        vertex: "RUN make".to_owned(),
        kind: BuildEventKind::Output { stream: OutputStream::Stdout, text, ends: true },
    };
    let long = "x".repeat(1 << 20);
    let batches: Vec<_> = (0..10)
        .map(|batch| {
            let (store, id) = (store.clone(), id.clone());
            let events: Vec<_> =
                (0..50).map(|number| line(format!("{batch}-{number} \u{1b}[1m\0"))).collect();
            tokio::spawn(async move { store.append_build_log(&id, &events).await.unwrap() })
        })
        .collect();
    for batch in batches {
        batch.await.unwrap();
    }
    store.append_build_log(&id, &[line(long.clone())]).await.unwrap();
    let (mut cursor, mut read) = (0, Vec::new());
    loop {
        let page = store.build_log(&id, None, cursor, 64).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        read.extend(page);
    }
    assert_eq!(read.len(), 501);
    assert!(read.windows(2).all(|pair| pair[0].cursor < pair[1].cursor));
    assert_eq!(read[500].text, long);
    assert!(read[0].text.contains("\u{1b}[1m"), "colours are kept");
    assert!(store.build_log(&id, Some(2), 0, 64).await.unwrap().is_empty());
}

async fn parked_waits_survive_and_repeat(store: &Store) {
    let id = create(store, "one").await;
    let wait = ReadinessWait {
        awakeable_id: "sign_1".to_owned(),
        deployment_id: id,
        namespace: "env".to_owned(),
        replicas: 3,
        deadline: 1_790_000_000_000,
    };
    store.open_readiness_wait(&wait).await.unwrap();
    store.open_readiness_wait(&wait).await.unwrap();
    assert_eq!(store.readiness_waits().await.unwrap(), std::slice::from_ref(&wait));
    store.close_readiness_wait(&wait.awakeable_id).await.unwrap();
    store.close_readiness_wait(&wait.awakeable_id).await.unwrap();
    assert!(store.readiness_waits().await.unwrap().is_empty());
}

async fn keys_are_found_by_their_secret_only(store: &Store) {
    let workspace = WorkspaceId::local();
    for _ in 0..2 {
        store.add_api_key(&workspace, crate::store::Role::Deploy, "lwk_secret").await.unwrap();
    }
    let key = store.api_key("lwk_secret").await.unwrap().unwrap();
    assert_eq!((key.role, key.workspace_id), (crate::store::Role::Deploy, workspace));
    assert!(store.api_key("lwk_secre").await.unwrap().is_none());
    // Stored hashed.
    let rows = sqlx::query("SELECT secret_sha256 FROM api_keys WHERE secret_sha256 LIKE '%lwk_%'");
    assert!(rows.fetch_all(&store.pool).await.unwrap().is_empty());
}

async fn a_killed_attempt_is_taken_over_with_what_it_had_started(store: &Store) {
    let id = create(store, "one").await;
    let (killed, unwinder) = (invocation("inv-1"), invocation("inv-2"));
    store.begin_attempt(&id, &killed).await.unwrap().unwrap();
    let step = |step| StepRun { deployment_id: id.clone(), owner: killed.clone(), step };
    let deploying = Some(DeploymentStatus::Deploying);
    store.step_started(&step(Step::LoadDeployment), None, &[]).await.unwrap();
    store.step_ended(&step(Step::LoadDeployment), &StepEnd::Done).await.unwrap();
    store.step_started(&step(Step::DeployToKrane), deploying, &[]).await.unwrap();
    let left = store.take_over(&id, &unwinder).await.unwrap().unwrap();
    let started: Vec<_> = left.started.iter().map(|known| (known.step, known.ended)).collect();
    assert_eq!(started, [(Step::LoadDeployment, true), (Step::DeployToKrane, false)]);
    assert_eq!((left.failure, left.cancelling), (None, false));
    // The killed one comes back to nothing.
    let again = store.step_started(&step(Step::DeployToKrane), deploying, &[]).await.unwrap();
    assert_eq!(again, None);
    let end = failed(ErrorCode::Interrupted);
    assert_eq!(store.finish_attempt(&id, &unwinder, &end).await.unwrap(), Guarded::Applied);
    assert!(store.take_over(&id, &unwinder).await.unwrap().is_none(), "it is settled");
}

async fn cancel_is_asked_once_and_not_too_late(store: &Store) {
    let unstarted = create(store, "one").await;
    assert_eq!(store.request_cancel(&unstarted).await.unwrap(), CancelRequest::Unstarted);
    assert_eq!(store.request_cancel(&unstarted).await.unwrap(), CancelRequest::Already);
    assert_eq!(status(store, &unstarted).await, DeploymentStatus::Cancelled);
    let late = store.begin_attempt(&unstarted, &invocation("inv-1")).await.unwrap();
    assert!(late.is_none(), "its workflow finds nothing to run");

    let running = create(store, "two").await;
    let owner = invocation("inv-2");
    store.begin_attempt(&running, &owner).await.unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(store.request_cancel(&running).await.unwrap(), CancelRequest::Asked);
    }
    assert!(store.cancel_requested(&running).await.unwrap());
    let end = failed(ErrorCode::BuildFailed);
    store.finish_attempt(&running, &owner, &end).await.unwrap();
    let late = store.request_cancel(&running).await.unwrap();
    assert_eq!(late, CancelRequest::TooLate(DeploymentStatus::Failed));
}
