//! Every case on SQLite and on a private Postgres.

mod archive;
mod attempts;
mod databases;
mod depot;
mod domains;
mod environments;
mod evictions;
mod interleavings;
mod journals;
mod releases;
mod routes;
mod submissions;

use std::collections::BTreeMap;

use launchway_workflows::{
    domains::claims,
    ids::{BuildId, DeploymentId, InvocationId, WorkspaceId},
    model::{
        BuildOptions, DeploymentPlan, NewDeployment, Purpose, Routed, RunOptions, Source,
        Submission,
    },
    ports::{StepRun, Store as _},
    status::DeploymentStatus,
    step::Step,
};

use super::{DeploymentFilter, Store};

/// One test per case and database.
macro_rules! on_both_databases {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::store::suite::databases::sqlite().await.store()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::store::suite::databases::postgres().await.store()).await;
            })+
        }
    };
}
use on_both_databases;

fn submission(key: &str) -> NewDeployment {
    NewDeployment {
        id: DeploymentId::generate(),
        build_id: BuildId::generate(),
        purpose: Purpose::Deploy,
        workspace_id: WorkspaceId::local(),
        project: "shop".to_owned(),
        environment: "preview".to_owned(),
        branch: "main".to_owned(),
        source: Source::DockerImage("shop:1".to_owned()),
        git_commit: None,
        build: BuildOptions { build_args: BTreeMap::new(), ..BuildOptions::default() },
        run: RunOptions::default(),
        queue_policy: None,
        submitted_by: invocation(&format!("submit-{key}-{}", DeploymentId::generate())),
        idempotency_key: key.to_owned(),
        content_hash: "aa".to_owned(),
    }
}

fn invocation(name: &str) -> InvocationId {
    InvocationId(name.to_owned())
}

async fn create(store: &Store, key: &str) -> DeploymentId {
    create_from(store, submission(key)).await
}

async fn create_from(store: &Store, new: NewDeployment) -> DeploymentId {
    match store.create_deployment(&new).await.unwrap() {
        Submission::Created { deployment_id } => deployment_id,
        other => panic!("{other:?}"),
    }
}

/// A deployment whose attempt is about to move the domains.
async fn routing(store: &Store, new: NewDeployment) -> (DeploymentPlan, InvocationId) {
    let id = create_from(store, new).await;
    let owner = invocation(&format!("inv-{id}"));
    let plan = store.begin_attempt(&id, &owner).await.unwrap().unwrap();
    for status in
        [DeploymentStatus::Deploying, DeploymentStatus::Checking, DeploymentStatus::Routing]
    {
        assert!(moved(store, &id, &owner, status).await);
    }
    (plan, owner)
}

fn all() -> DeploymentFilter {
    DeploymentFilter { limit: 1000, ..DeploymentFilter::default() }
}

/// Whether a step could move the deployment there.
async fn moved(
    store: &Store,
    id: &DeploymentId,
    owner: &InvocationId,
    status: DeploymentStatus,
) -> bool {
    let run =
        StepRun { deployment_id: id.clone(), owner: owner.clone(), step: Step::DeployToKrane };
    store.step_started(&run, Some(status), &[]).await.unwrap().is_some()
}

/// Submits, takes to the commit point and over it.
async fn live(store: &Store, key: &str) -> (DeploymentPlan, Routed) {
    let (plan, owner) = routing(store, submission(key)).await;
    let wanted = claims(&plan, "localhost");
    let routed = store.commit_routes(&plan.deployment_id, &owner, &wanted).await.unwrap();
    (plan, routed.unwrap())
}

async fn status(store: &Store, id: &DeploymentId) -> DeploymentStatus {
    store.deployment(&WorkspaceId::local(), id).await.unwrap().unwrap().status
}
