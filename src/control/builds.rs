//! `ctrl.v1.BuildService`.

use launchway_proto::ctrl::v1::{
    CreateBuildRequest, CreateBuildResponse, GenerateUploadUrlRequest, GenerateUploadUrlResponse,
    build_service_server::BuildService,
};
use tonic::{Request, Response, Status};

use super::Control;
use crate::storage::context_key;

#[tonic::async_trait]
impl BuildService for Control {
    async fn create_build(
        &self,
        _request: Request<CreateBuildRequest>,
    ) -> Result<Response<CreateBuildResponse>, Status> {
        Err(Status::unimplemented(
            "builds without a deployment are not offered yet: use CreateDeployment",
        ))
    }

    async fn generate_upload_url(
        &self,
        request: Request<GenerateUploadUrlRequest>,
    ) -> Result<Response<GenerateUploadUrlResponse>, Status> {
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
