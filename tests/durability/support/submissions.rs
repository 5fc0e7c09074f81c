//! What is deployed, and what becomes of it.

use std::time::Instant;

use launchway::store::DeploymentView;
use launchway_workflows::{
    ids::{DeploymentId, WorkspaceId},
    status::DeploymentStatus,
};
use serde_json::{Value, json};

use super::{Installation, LOOK, PATIENCE, REPLICAS, eventually};
use crate::outside::{self, Outside};

impl Installation {
    /// Submits a deployment of a build context of the project.
    pub async fn submit(&self, project: &str) -> DeploymentId {
        self.submission(project).await
    }

    /// The same with a release command that may not run twice.
    pub async fn submit_releasing(&self, project: &str, command: &[&str]) -> DeploymentId {
        self.submission_of(project, run_options(command, false), outside::A_MOMENT).await
    }

    /// The same of a project whose build takes so many seconds on a Docker engine.
    pub async fn submit_building_for(&self, project: &str, seconds: &'static str) -> DeploymentId {
        let options = run_options(&["/bin/busybox", "true"], true);
        self.submission_of(project, options, seconds).await
    }

    /// The same, on its own. It is repeated until it is answered, as a caller
    /// with a key may.
    pub fn submission(
        &self,
        project: &str,
    ) -> impl Future<Output = DeploymentId> + 'static + use<> {
        let options = run_options(&["/bin/busybox", "true"], true);
        self.submission_of(project, options, outside::A_MOMENT)
    }

    fn submission_of(
        &self,
        project: &str,
        run_options: Value,
        seconds: &'static str,
    ) -> impl Future<Output = DeploymentId> + 'static + use<> {
        let (store, ingress) = (self.store.clone(), self.ingress.clone());
        let upload = match &self.outside {
            Outside::Instant(_) | Outside::Kubernetes(..) => None,
            Outside::Docker(engine) => Some((self.objects(), engine.watch())),
        };
        let key = format!("{project}-{}", uuid::Uuid::new_v4());
        let project = project.to_owned();
        async move {
            let project = store.ensure_project(&WorkspaceId::local(), &project).await;
            let project = project.unwrap().unwrap();
            let context = format!("contexts/{project}/{key}.tar.gz");
            if let Some((objects, _)) = &upload {
                objects.ensure_bucket().await.unwrap();
                objects.put(&context, outside::context(&key, seconds).into()).await.unwrap();
            }
            let body = json!({
                "project_id": project,
                "build_context": { "build_context_path": context },
                "run_options": run_options,
            });
            // Not `eventually`: its closures cannot be sent to another thread.
            let begun = Instant::now();
            loop {
                let answer: Result<Value, _> =
                    ingress.call("Deployments/create", &key, &body).await;
                let id =
                    answer.ok().and_then(|answer| answer["deployment_id"].as_str()?.parse().ok());
                if let Some(id) = id {
                    if let Some((_, builds)) = &upload {
                        builds.note(&id, &key);
                    }
                    return id;
                }
                assert!(begun.elapsed() < PATIENCE, "no submission is answered");
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// One deployment for each of the projects, submitted at once.
    pub async fn submit_all(&self, projects: &[String]) -> Vec<DeploymentId> {
        futures::future::join_all(projects.iter().map(|project| self.submit(project))).await
    }

    pub async fn view(&self, id: &DeploymentId) -> DeploymentView {
        let view = self.store.deployment(&WorkspaceId::local(), id).await;
        view.unwrap().unwrap_or_else(|| panic!("{id} has no row"))
    }

    /// The deployment once it is what is wanted.
    pub async fn wait(&self, id: &DeploymentId, status: DeploymentStatus) -> DeploymentView {
        eventually(&format!("{id} is {status}"), async || {
            let view = self.view(id).await;
            (view.status == status).then_some(view)
        })
        .await
    }

    /// Submits and returns when its workflow has run to its end.
    pub async fn deploy(&self, project: &str) -> DeploymentId {
        let id = self.submit(project).await;
        self.ended(std::slice::from_ref(&id)).await;
        id
    }
}

/// A crash may leave open whether a release command was started: where every
/// deployment has to go live, it may run again then.
fn run_options(release: &[&str], idempotent: bool) -> Value {
    json!({ "replicas": REPLICAS, "release": { "command": release, "idempotent": idempotent } })
}
