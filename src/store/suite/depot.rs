//! Depot's projects and builds.

use launchway_workflows::ids::{BuildId, WorkspaceId};

use super::on_both_databases;
use crate::store::{DepotClaim, Store};

on_both_databases! {
    one_of_many_creates_a_project_and_the_first_one_set_holds,
    a_build_is_remembered_until_depot_knows_its_end,
}

/// Checklist 79.
async fn one_of_many_creates_a_project_and_the_first_one_set_holds(store: &Store) {
    let workspace = WorkspaceId::local();
    store.ensure_workspace(&workspace).await.unwrap();
    let project = store.ensure_project(&workspace, "shop").await.unwrap().unwrap();
    assert_eq!(store.depot_project(&project).await.unwrap(), None);
    let claims = (0..8).map(|_| {
        let (store, project) = (store.clone(), project.clone());
        tokio::spawn(async move { store.claim_depot_project(&project).await.unwrap() })
    });
    let claims = futures::future::try_join_all(claims).await.unwrap();
    let yours = claims.iter().filter(|claim| **claim == DepotClaim::Yours).count();
    let taken = claims.iter().filter(|claim| **claim == DepotClaim::Taken).count();
    assert_eq!((yours, taken), (1, 7), "{claims:?}");
    assert_eq!(store.set_depot_project(&project, "first").await.unwrap(), "first");
    assert_eq!(store.set_depot_project(&project, "second").await.unwrap(), "first");
    assert_eq!(store.depot_project(&project).await.unwrap().as_deref(), Some("first"));
    let exists = DepotClaim::Exists("first".to_owned());
    assert_eq!(store.claim_depot_project(&project).await.unwrap(), exists);
}

async fn a_build_is_remembered_until_depot_knows_its_end(store: &Store) {
    let (build, other) = (BuildId::generate(), BuildId::generate());
    store.depot_build_opened(&build, "d1", "t1").await.unwrap();
    store.depot_build_opened(&build, "d1", "t1").await.unwrap();
    store.depot_build_opened(&other, "d2", "t2").await.unwrap();
    let row =
        |outcome: Option<&str>| ("d1".to_owned(), "t1".to_owned(), outcome.map(str::to_owned));
    assert_eq!(store.depot_builds(Some(&build)).await.unwrap(), [row(None)]);
    assert_eq!(store.depot_builds(None).await.unwrap(), []);
    store.depot_build_ended("d1", "success").await.unwrap();
    store.depot_build_ended("d1", "canceled").await.unwrap();
    assert_eq!(store.depot_builds(Some(&build)).await.unwrap(), []);
    assert_eq!(store.depot_builds(None).await.unwrap(), [row(Some("success"))]);
    store.depot_build_told("d1").await.unwrap();
    assert_eq!(store.depot_builds(None).await.unwrap(), []);
}
