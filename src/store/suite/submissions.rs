//! One key, one deployment.

use launchway_workflows::{
    ids::{ProjectId, WorkspaceId},
    model::{NewDeployment, QueuePolicy, Submission},
    ports::Store as _,
    status::DeploymentStatus,
};

use super::{
    DeploymentFilter, Store, all, create, create_from, invocation, on_both_databases, submission,
};

on_both_databases!(
    concurrent_submissions_with_one_key_insert_one_row,
    two_hundred_concurrent_writers_all_succeed,
    a_repeated_insert_is_its_own_creation,
    a_key_with_other_content_is_a_conflict,
    refused_input_leaves_nothing_behind,
    a_project_keeps_the_queue_policy_that_it_was_given_last,
);

async fn count(store: &Store) -> usize {
    store.deployments(&WorkspaceId::local(), &all()).await.unwrap().len()
}

async fn concurrent_submissions_with_one_key_insert_one_row(store: &Store) {
    let calls = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.create_deployment(&submission("one")).await.unwrap() })
    });
    let mut created = Vec::new();
    let mut existing = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Submission::Created { deployment_id } => created.push(deployment_id),
            Submission::Existing { deployment_id, status } => {
                assert_eq!(status, DeploymentStatus::Pending);
                existing.push(deployment_id);
            }
            refused @ Submission::Refused { .. } => panic!("{refused:?}"),
        }
    }
    assert_eq!((created.len(), existing.len()), (1, 15));
    assert!(existing.iter().all(|id| *id == created[0]));
    assert_eq!(count(store).await, 1);
}

async fn two_hundred_concurrent_writers_all_succeed(store: &Store) {
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { create(&store, &format!("key-{number}")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let filter =
        DeploymentFilter { project: "shop".to_owned(), environment: "preview".to_owned(), ..all() };
    let rows = store.deployments(&WorkspaceId::local(), &filter).await.unwrap();
    assert_eq!(rows.len(), 200);
}

/// A crash between the insert and its journal entry runs the insert again.
async fn a_repeated_insert_is_its_own_creation(store: &Store) {
    let new = submission("one");
    for _ in 0..2 {
        let outcome = store.create_deployment(&new).await.unwrap();
        assert_eq!(outcome, Submission::Created { deployment_id: new.id.clone() });
    }
    assert_eq!(count(store).await, 1);
}

async fn a_key_with_other_content_is_a_conflict(store: &Store) {
    let first = create(store, "one").await;
    let mut other = submission("one");
    other.content_hash = "bb".to_owned();
    let Submission::Refused { reason, conflict: true } =
        store.create_deployment(&other).await.unwrap()
    else {
        panic!("accepted");
    };
    assert!(reason.contains("`one`") && reason.contains(first.as_str()), "{reason}");
    // Who does not say what the content is gets the first one.
    other.content_hash = String::new();
    assert!(matches!(
        store.create_deployment(&other).await.unwrap(),
        Submission::Existing { deployment_id, .. } if deployment_id == first
    ));
}

async fn refused_input_leaves_nothing_behind(store: &Store) {
    let unknown = ProjectId::generate().to_string();
    for (project, environment) in
        [("Not_Valid", "preview"), (unknown.as_str(), "preview"), ("shop", "-x"), ("prj_x", "a")]
    {
        let mut new = submission("one");
        (new.project, new.environment) = (project.to_owned(), environment.to_owned());
        let outcome = store.create_deployment(&new).await.unwrap();
        let Submission::Refused { reason, conflict: false } = outcome else {
            panic!("{outcome:?}");
        };
        assert!(reason.contains(project) || reason.contains(environment), "{reason}");
    }
    assert_eq!(count(store).await, 0);
    // Not even the project that was fine: the transaction was given up.
    let shop = sqlx::query("SELECT id FROM projects").fetch_all(&store.pool).await.unwrap();
    assert!(shop.is_empty());
}

async fn a_project_keeps_the_queue_policy_that_it_was_given_last(store: &Store) {
    let superseding = |key: &'static str, queue_policy| async move {
        let id = create_from(store, NewDeployment { queue_policy, ..submission(key) }).await;
        let plan = store.begin_attempt(&id, &invocation(key)).await.unwrap().unwrap();
        plan.supersede_queued
    };
    assert!(superseding("one", None).await, "the default");
    assert!(!superseding("two", Some(QueuePolicy::Queue)).await);
    assert!(!superseding("three", None).await);
    assert!(superseding("four", Some(QueuePolicy::SupersedeQueued)).await);
}
