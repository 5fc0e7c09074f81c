//! Custom hostnames follow what is live.

use launchway_workflows::{
    ids::DeploymentId,
    model::DomainKind,
    ports::Store as _,
    services::release::{ReleaseKind, ReleaseRequest},
};

use super::{
    Store, WorkspaceId, create, live, on_both_databases,
    releases::{begun, done},
    submission,
};

on_both_databases!(
    a_custom_domain_follows_deployments_and_rollbacks_until_it_is_removed,
    a_custom_domain_has_one_environment_and_needs_something_live,
);

const NAME: &str = "www.example.com";

async fn target(store: &Store) -> Option<DeploymentId> {
    let rows = store.route_rows().await.unwrap();
    let mut found = rows.into_iter().filter(|row| row.host == NAME);
    let target = found.next().map(|row| row.deployment_id);
    assert!(found.next().is_none(), "two targets");
    target
}

async fn a_custom_domain_follows_deployments_and_rollbacks_until_it_is_removed(store: &Store) {
    let local = WorkspaceId::local();
    let (first, _) = live(store, "one").await;
    let (project, environment) = (&first.project_slug, &first.environment_slug);
    for _ in 0..2 {
        let added = store.add_domain(&local, project, environment, NAME).await.unwrap().unwrap();
        assert_eq!((added.kind, &added.deployment_id), (DomainKind::Live, &first.deployment_id));
    }
    let (second, routed) = live(store, "two").await;
    assert!(routed.domains.contains(&NAME.to_owned()), "{routed:?}");
    assert_eq!(target(store).await, Some(second.deployment_id));
    let back = ReleaseRequest {
        kind: ReleaseKind::Rollback,
        target_deployment_id: first.deployment_id.clone(),
        source_deployment_id: None,
    };
    done(store.swap_routes(&begun(store, &back).await).await.unwrap());
    assert_eq!(target(store).await, Some(first.deployment_id.clone()));
    // Pinned: what is deployed now does not get it.
    live(store, "three").await;
    assert_eq!(target(store).await, Some(first.deployment_id));
    let own = store.domains(&local, project, environment).await.unwrap();
    let name = own.iter().find(|domain| domain.kind == DomainKind::Environment).unwrap();
    assert!(!store.remove_domain(&local, &name.name).await.unwrap(), "not a custom one");
    assert!(store.remove_domain(&local, NAME).await.unwrap());
    assert!(!store.remove_domain(&local, NAME).await.unwrap());
    assert_eq!(target(store).await, None);
}

async fn a_custom_domain_has_one_environment_and_needs_something_live(store: &Store) {
    let local = WorkspaceId::local();
    let add = async |project: &str, environment: &str| {
        store.add_domain(&local, project, environment, NAME).await.unwrap()
    };
    let refused = add("nobody", "preview").await.unwrap_err();
    assert!(refused.contains("nothing is live") && refused.contains("nobody"), "{refused}");
    create(store, "one").await;
    let project = submission("one").project;
    assert!(add(&project, "preview").await.is_err(), "it is not live yet");
    let (first, _) = live(store, "two").await;
    add(&first.project_slug, &first.environment_slug).await.unwrap();
    let mut other = submission("other");
    other.project = "other".to_owned();
    let (plan, owner) = super::routing(store, other).await;
    let wanted = super::claims(&plan, "localhost");
    store.commit_routes(&plan.deployment_id, &owner, &wanted).await.unwrap().unwrap();
    let refused = add("other", &plan.environment_slug).await.unwrap_err();
    assert!(refused.contains("another environment") && refused.contains("remove"), "{refused}");
    assert_eq!(target(store).await, Some(first.deployment_id));
}
