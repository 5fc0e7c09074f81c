//! `ctrl.v1.ProjectService`.

use launchway_proto::ctrl::v1::{
    Environment, ListProjectsRequest, ListProjectsResponse, Project,
    project_service_server::ProjectService,
};
use tonic::{Request, Response, Status};

use super::{Control, deployments::unavailable};
use crate::store::{EnvironmentView, ProjectView};

#[tonic::async_trait]
impl ProjectService for Control {
    async fn list_projects(
        &self,
        _request: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsResponse>, Status> {
        let found = self.store.projects(&self.workspace).await.map_err(unavailable)?;
        let projects = found.into_iter().map(|view| self.project(view)).collect();
        Ok(Response::new(ListProjectsResponse { projects }))
    }
}

impl Control {
    fn project(&self, view: ProjectView) -> Project {
        let environment = |view: EnvironmentView| Environment {
            slug: view.slug,
            live_deployment_id: view.live.map(|id| id.to_string()).unwrap_or_default(),
            pinned: view.pinned,
            url: view.domain.map(|domain| self.gateway.url_of(&domain)).unwrap_or_default(),
        };
        Project {
            id: view.id,
            slug: view.slug,
            created_at: view.created_at,
            environments: view.environments.into_iter().map(environment).collect(),
        }
    }
}
