//! Journals outlive Restate's own.

use launchway_workflows::{
    engine::retry::RestartPoint,
    error::{ErrorCode, StepFailure},
    ids::DeploymentId,
    ports::{AttemptEnd, Guarded, Store as _},
    status::DeploymentStatus,
    step::Step,
};

use super::{Store, create, invocation, on_both_databases, routing, submission};
use crate::store::JournalLine;

on_both_databases!(
    a_saved_journal_reads_back_in_order_and_is_not_looked_for_again,
    a_journal_that_has_gone_is_not_looked_for_again_and_keeps_what_was_saved,
    every_attempt_has_a_journal_of_its_own,
    only_ended_attempts_are_looked_for_and_each_once_in_a_pass,
);

fn line(position: u32, name: &str) -> JournalLine {
    JournalLine {
        position,
        entry: "Command: Run".to_owned(),
        name: name.to_owned(),
        status: "completed".to_owned(),
        started_at: Some(1_790_000_000_000),
        ended_at: None,
        error: String::new(),
    }
}

async fn failed(store: &Store, key: &str) -> DeploymentId {
    let id = create(store, key).await;
    fail(store, &id, &format!("inv-{id}")).await;
    id
}

async fn fail(store: &Store, id: &DeploymentId, owner: &str) {
    let owner = invocation(owner);
    store.begin_attempt(id, &owner).await.unwrap().unwrap();
    let failure = StepFailure::new(ErrorCode::NotReady, "no").at(Step::AwaitReady);
    let end = AttemptEnd { status: DeploymentStatus::Failed, failure, undone: Vec::new() };
    assert_eq!(store.finish_attempt(id, &owner, &end).await.unwrap(), Guarded::Applied);
}

async fn unsaved(store: &Store) -> Vec<(DeploymentId, u32)> {
    let found = store.unsaved_journals(None, 100).await.unwrap();
    found.into_iter().map(|unsaved| (unsaved.deployment_id, unsaved.attempt)).collect()
}

async fn a_saved_journal_reads_back_in_order_and_is_not_looked_for_again(store: &Store) {
    let id = failed(store, "one").await;
    assert_eq!(unsaved(store).await, [(id.clone(), 1)]);
    let long = JournalLine { error: "ä".repeat(10_000), ..line(7, "undo-deploy-to-krane") };
    for _ in 0..2 {
        let lines = [line(1, "load-deployment"), long.clone()];
        store.save_journal(&id, 1, &lines).await.unwrap();
    }
    let read = store.journal(&id, 1).await.unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read[0], line(1, "load-deployment"));
    assert_eq!((read[1].position, read[1].error.chars().count()), (7, 4096));
    assert!(unsaved(store).await.is_empty());
}

async fn a_journal_that_has_gone_is_not_looked_for_again_and_keeps_what_was_saved(store: &Store) {
    let id = failed(store, "one").await;
    store.save_journal(&id, 1, &[line(1, "load-deployment")]).await.unwrap();
    store.save_journal(&id, 1, &[]).await.unwrap();
    assert_eq!(store.journal(&id, 1).await.unwrap(), [line(1, "load-deployment")]);
    let gone = failed(store, "two").await;
    store.save_journal(&gone, 1, &[]).await.unwrap();
    assert!(unsaved(store).await.is_empty());
}

async fn every_attempt_has_a_journal_of_its_own(store: &Store) {
    let id = failed(store, "one").await;
    let first = invocation(&format!("inv-{id}"));
    let point = RestartPoint { step: Step::AwaitReady, why: "as requested".to_owned() };
    store.begin_retry(&id, &invocation("retry"), &first, &point).await.unwrap();
    assert_eq!(unsaved(store).await, [(id.clone(), 1)], "the second one has not ended");
    fail(store, &id, "inv-again").await;
    assert_eq!(unsaved(store).await, [(id.clone(), 1), (id.clone(), 2)]);
    store.save_journal(&id, 1, &[line(1, "load-deployment")]).await.unwrap();
    assert_eq!(unsaved(store).await, [(id.clone(), 2)]);
    store.save_journal(&id, 2, &[line(9, "await-ready")]).await.unwrap();
    assert!(unsaved(store).await.is_empty());
    assert_eq!(store.journal(&id, 1).await.unwrap()[0].name, "load-deployment");
    assert_eq!(store.journal(&id, 2).await.unwrap()[0].name, "await-ready");
}

async fn only_ended_attempts_are_looked_for_and_each_once_in_a_pass(store: &Store) {
    let (one, two) = (failed(store, "one").await, failed(store, "two").await);
    let (running, _) = routing(store, submission("three")).await;
    let mut wanted = vec![one, two];
    wanted.sort();
    let (mut after, mut seen) = (None, Vec::new());
    while let Some(found) = store.unsaved_journals(after.as_ref(), 1).await.unwrap().pop() {
        seen.push(found.deployment_id.clone());
        after = Some(found);
    }
    assert_eq!(seen, wanted);
    assert!(!seen.contains(&running.deployment_id));
}
