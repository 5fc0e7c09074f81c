//! `ctrl.v1.BuildService`.

use launchway_proto::ctrl::v1::{
    BuildContext, CreateBuildRequest, CreateBuildResponse, CreateDeploymentRequest,
    GenerateUploadUrlRequest, GenerateUploadUrlResponse, build_service_server::BuildService,
    create_deployment_request::Source,
};
use launchway_workflows::{model::Purpose, status::DeploymentStatus};
use tonic::{Request, Response, Status};

use super::{Control, deployments::unavailable, watch};
use crate::{storage::context_key, store::DeploymentView};

#[tonic::async_trait]
impl BuildService for Control {
    async fn create_build(
        &self,
        request: Request<CreateBuildRequest>,
    ) -> Result<Response<CreateBuildResponse>, Status> {
        let request = request.into_inner();
        let detach = request.detach;
        let created = self.submit(submission(request), Purpose::Build).await?;
        let view = match detach {
            true => self.find(created.deployment_id.as_str()).await?,
            false => watch::settled(self, &created.deployment_id).await?,
        };
        if view.status.has_failed() {
            return Err(failed(&view));
        }
        let project = view.project_id.parse().map_err(|_| Status::internal("a project's id"))?;
        let depot_project = self.store.depot_project(&project).await.map_err(unavailable)?;
        Ok(Response::new(built(&view, depot_project)))
    }

    async fn generate_upload_url(
        &self,
        request: Request<GenerateUploadUrlRequest>,
    ) -> Result<Response<GenerateUploadUrlResponse>, Status> {
        self.open_for("upload")?;
        let request = request.into_inner();
        if request.size == 0 {
            return Err(Status::invalid_argument(
                "size is 0: give the exact size of the packed context",
            ));
        }
        if request.size > self.max_context_bytes {
            return Err(Status::invalid_argument(format!(
                "the context has {} bytes, over the limit of {}: leave files out with .dockerignore, \
                 or raise storage.max_context_bytes",
                request.size, self.max_context_bytes
            )));
        }
        let project = self
            .store
            .ensure_project(&self.workspace, &request.unkey_project_id)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?
            .map_err(Status::invalid_argument)?;
        let key = context_key(&project, &request.sha256);
        let put = self
            .storage
            .presign_put(&key, request.size, &request.sha256)
            .await
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(GenerateUploadUrlResponse {
            upload_url: put.url.0,
            build_context_path: key,
            expires_in: i64::try_from(put.expires_in.as_secs()).unwrap_or(i64::MAX),
            headers: put.headers.into_iter().collect(),
        }))
    }
}

fn submission(request: CreateBuildRequest) -> CreateDeploymentRequest {
    let caller = Some(request.deployment_id).filter(|id| !id.is_empty());
    CreateDeploymentRequest {
        project_id: request.unkey_project_id,
        branch: request.branch,
        environment_slug: request.environment_slug,
        source: Some(Source::BuildContext(BuildContext {
            build_context_path: request.build_context_path,
            dockerfile_path: request.dockerfile_path,
        })),
        git_commit: request.git_commit,
        idempotency_key: request.idempotency_key.filter(|key| !key.is_empty()).or(caller),
        content_hash: request.content_hash,
        build_options: request.build_options,
        ..CreateDeploymentRequest::default()
    }
}

fn built(view: &DeploymentView, depot_project: Option<String>) -> CreateBuildResponse {
    let image = view.image().filter(|_| view.status == DeploymentStatus::Built);
    CreateBuildResponse {
        image_name: image.as_ref().map(|image| image.full_name()).unwrap_or_default(),
        image_digest: image.as_ref().map(|image| image.digest.clone()).unwrap_or_default(),
        local_only: image.is_some_and(|image| image.local_only),
        build_id: view.build_id.to_string(),
        depot_project_id: depot_project.unwrap_or_default(),
        deployment_id: view.id.to_string(),
    }
}

/// Who reads only this is told what `inspect` would say.
fn failed(view: &DeploymentView) -> Status {
    let cause = view.failure.as_ref().map(ToString::to_string).unwrap_or_default();
    let message = format!("{} is {}: {cause}", view.id, view.status);
    match view.status {
        DeploymentStatus::Failed => Status::failed_precondition(message),
        _ => Status::cancelled(message),
    }
}
