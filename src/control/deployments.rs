//! `ctrl.v1.DeploymentService`.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use futures::Stream;
use launchway_proto::ctrl::v1::{
    self as proto, CancelDeploymentRequest, CancelDeploymentResponse, CreateDeploymentRequest,
    CreateDeploymentResponse, DeploymentEvent, ExplainDeploymentRequest, ExplainDeploymentResponse,
    GetDeploymentRequest, GetDeploymentResponse, GetJournalRequest, GetJournalResponse,
    GetOpenapiRequest, GetOpenapiResponse, ListDeploymentsRequest, ListDeploymentsResponse,
    PromoteRequest, PromoteResponse, RedeployRequest, RetryDeploymentRequest,
    RetryDeploymentResponse, RollbackRequest, RollbackResponse, StreamBuildLogsRequest,
    WatchDeploymentRequest, create_deployment_request::Source,
    deployment_service_server::DeploymentService,
};
use launchway_workflows::{
    ids::DeploymentId,
    model::{BuildContext, BuildOptions, GitCommit, Purpose},
    ports::StoreError,
    services::{
        build_slots,
        deployments::{CreateDeployment, CreatedDeployment},
    },
    status::DeploymentStatus,
    step::Step,
};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::{Control, actions, convert, explain, journal, secrets, watch};
use crate::{
    restate::RestateError,
    run_options,
    store::{DeploymentFilter, DeploymentView},
};

/// Deployments of one list, where no limit was given, and at most.
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;

/// Longest wait for a place in the queue: what was asked for is the deployment.
const POSITION_LIMIT: Duration = Duration::from_secs(1);

impl Control {
    /// Through the same handler as the ingress.
    pub(super) async fn submit(
        &self,
        mut request: CreateDeploymentRequest,
        purpose: Purpose,
    ) -> Result<CreatedDeployment, Status> {
        self.open_for(purpose.noun())?;
        let options = request.build_options.as_mut();
        let given = options.map(|options| std::mem::take(&mut options.secrets));
        let mut input = input_of(request)?;
        input.purpose = purpose;
        input.workspace_id = Some(self.workspace.clone());
        input.build_options.secrets =
            secrets::seal(&self.vault, &self.workspace, given.unwrap_or_default())?;
        let key = ingress_key(&input);
        self.ingress.call("Deployments/create", &key, &input).await.map_err(refusal)
    }

    pub(super) async fn find(&self, id: &str) -> Result<DeploymentView, Status> {
        let id: DeploymentId =
            id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let found = self.store.deployment(&self.workspace, &id).await.map_err(unavailable)?;
        let mut view = found.ok_or_else(|| {
            Status::not_found(format!("there is no deployment `{id}`: `launchway list` shows them"))
        })?;
        if view.status == DeploymentStatus::Queued {
            self.show_position(&mut view).await;
        }
        Ok(view)
    }

    /// The place in the queue changes while nothing happens to the deployment.
    /// Restate knows it; when it does not answer the first one is still shown.
    async fn show_position(&self, view: &mut DeploymentView) {
        let slots = self.admin.state("BuildSlots", self.workspace.as_str(), build_slots::STATE);
        let asked = tokio::time::timeout(POSITION_LIMIT, slots).await;
        let Ok(Ok(Some(state))) = asked else { return };
        let queue = build_slots::queue(state.as_bytes()).unwrap_or_default();
        let position = queue.iter().position(|id| *id == view.id);
        let step = view.steps.iter_mut().rfind(|step| step.name == Step::AcquireSlot.name());
        if let (Some(position), Some(step)) = (position, step) {
            let (place, waiting) = (position + 1, queue.len());
            step.message =
                format!("position {place} of {waiting} in the queue: every build slot is taken");
        }
    }
}

#[tonic::async_trait]
impl DeploymentService for Control {
    type WatchDeploymentStream =
        Pin<Box<dyn Stream<Item = Result<DeploymentEvent, Status>> + Send>>;
    type StreamBuildLogsStream =
        Pin<Box<dyn Stream<Item = Result<proto::BuildLogLine, Status>> + Send>>;

    async fn create_deployment(
        &self,
        request: Request<CreateDeploymentRequest>,
    ) -> Result<Response<CreateDeploymentResponse>, Status> {
        let created = self.submit(request.into_inner(), Purpose::Deploy).await?;
        Ok(Response::new(created_response(&created)))
    }

    async fn get_deployment(
        &self,
        request: Request<GetDeploymentRequest>,
    ) -> Result<Response<GetDeploymentResponse>, Status> {
        let view = self.find(&request.into_inner().deployment_id).await?;
        let deployment = Some(convert::deployment(view, &self.shown()));
        Ok(Response::new(GetDeploymentResponse { deployment }))
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<RollbackResponse>, Status> {
        let released = actions::rollback(self, request.into_inner()).await?;
        Ok(Response::new(RollbackResponse { released: Some(released) }))
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<PromoteResponse>, Status> {
        let released = actions::promote(self, &request.into_inner().target_deployment_id).await?;
        Ok(Response::new(PromoteResponse { released: Some(released) }))
    }

    async fn retry_deployment(
        &self,
        request: Request<RetryDeploymentRequest>,
    ) -> Result<Response<RetryDeploymentResponse>, Status> {
        Ok(Response::new(actions::retry(self, request.into_inner()).await?))
    }

    async fn cancel_deployment(
        &self,
        request: Request<CancelDeploymentRequest>,
    ) -> Result<Response<CancelDeploymentResponse>, Status> {
        let asked = actions::cancel(self, &request.into_inner().deployment_id).await?;
        Ok(Response::new(CancelDeploymentResponse { asked }))
    }

    async fn redeploy(
        &self,
        request: Request<RedeployRequest>,
    ) -> Result<Response<CreateDeploymentResponse>, Status> {
        let created = actions::redeploy(self, request.into_inner()).await?;
        Ok(Response::new(created_response(&created)))
    }

    async fn list_deployments(
        &self,
        request: Request<ListDeploymentsRequest>,
    ) -> Result<Response<ListDeploymentsResponse>, Status> {
        let request = request.into_inner();
        let state = Some(request.state.as_str()).filter(|state| !state.is_empty());
        let filter = DeploymentFilter {
            project: request.project_id,
            environment: request.environment_slug,
            branch: request.branch,
            status: state.map(str::parse).transpose().map_err(Status::invalid_argument)?,
            limit: if request.limit == 0 { DEFAULT_LIMIT } else { request.limit.min(MAX_LIMIT) },
        };
        let found = self.store.deployments(&self.workspace, &filter).await.map_err(unavailable)?;
        let deployments =
            found.into_iter().map(|view| convert::deployment(view, &self.shown())).collect();
        Ok(Response::new(ListDeploymentsResponse { deployments }))
    }

    async fn watch_deployment(
        &self,
        request: Request<WatchDeploymentRequest>,
    ) -> Result<Response<Self::WatchDeploymentStream>, Status> {
        let request = request.into_inner();
        let view = self.find(&request.deployment_id).await?;
        Ok(Response::new(watch::deployment(self.clone(), view.id, request.after_build_log)))
    }

    async fn stream_build_logs(
        &self,
        request: Request<StreamBuildLogsRequest>,
    ) -> Result<Response<Self::StreamBuildLogsStream>, Status> {
        let request = request.into_inner();
        let view = self.find(&request.deployment_id).await?;
        let attempt = Some(request.attempt).filter(|attempt| *attempt > 0);
        let stream =
            watch::build_log(self.clone(), view.id, attempt, request.after, request.follow);
        Ok(Response::new(stream))
    }

    async fn get_journal(
        &self,
        request: Request<GetJournalRequest>,
    ) -> Result<Response<GetJournalResponse>, Status> {
        Ok(Response::new(journal::get(self, request.into_inner()).await?))
    }

    async fn get_openapi(
        &self,
        request: Request<GetOpenapiRequest>,
    ) -> Result<Response<GetOpenapiResponse>, Status> {
        let id = self.find(&request.into_inner().deployment_id).await?.id;
        let description = self.store.openapi(&id).await.map_err(unavailable)?.unwrap_or_default();
        Ok(Response::new(GetOpenapiResponse { description }))
    }

    async fn explain_deployment(
        &self,
        request: Request<ExplainDeploymentRequest>,
    ) -> Result<Response<ExplainDeploymentResponse>, Status> {
        let id = request.into_inner().deployment_id;
        Ok(Response::new(explain::explain(self, &id).await?))
    }
}

fn created_response(created: &CreatedDeployment) -> CreateDeploymentResponse {
    CreateDeploymentResponse {
        deployment_id: created.deployment_id.to_string(),
        status: convert::status(created.status).into(),
        created: created.created,
    }
}

fn input_of(request: CreateDeploymentRequest) -> Result<CreateDeployment, Status> {
    let (build_context, docker_image) = match request.source {
        Some(Source::BuildContext(context)) => {
            let context = BuildContext {
                build_context_path: context.build_context_path,
                dockerfile_path: context.dockerfile_path.filter(|path| !path.is_empty()),
            };
            (Some(context), None)
        }
        Some(Source::DockerImage(image)) => (None, Some(image)),
        None => (None, None),
    };
    let build = request.build_options.unwrap_or_default();
    let run_options = run_options::from_proto(request.run_options.unwrap_or_default())
        .map_err(Status::invalid_argument)?;
    Ok(CreateDeployment {
        purpose: Purpose::Deploy,
        workspace_id: None,
        project_id: request.project_id,
        branch: request.branch,
        environment_slug: request.environment_slug,
        build_context,
        docker_image,
        git_commit: request.git_commit.map(|commit| GitCommit {
            commit_sha: commit.commit_sha,
            commit_message: commit.commit_message,
            author_handle: commit.author_handle,
            author_avatar_url: commit.author_avatar_url,
            timestamp: commit.timestamp,
            dirty: commit.dirty,
            source_url: commit.source_url,
        }),
        build_options: BuildOptions {
            target: build.target.filter(|target| !target.is_empty()),
            platform: build.platform.filter(|platform| !platform.is_empty()),
            build_args: build.build_args.into_iter().collect(),
            no_cache: build.no_cache,
            secrets: BTreeMap::new(),
        },
        run_options,
        queue_policy: request
            .queue_policy
            .filter(|policy| !policy.is_empty())
            .map(|policy| policy.parse())
            .transpose()
            .map_err(Status::invalid_argument)?,
        idempotency_key: request.idempotency_key.filter(|key| !key.is_empty()),
        content_hash: request.content_hash.filter(|hash| !hash.is_empty()),
    })
}

/// Restate's key. The content is part of it: Restate would answer the same key
/// with its first result, whatever is sent, and only the database can refuse.
fn ingress_key(input: &CreateDeployment) -> String {
    let Some(key) = &input.idempotency_key else { return uuid::Uuid::new_v4().to_string() };
    let workspace = input.workspace_id.as_ref().map(|id| id.as_str()).unwrap_or_default();
    hashed(&[
        workspace,
        key,
        input.purpose.as_str(),
        input.content_hash.as_deref().unwrap_or_default(),
    ])
}

/// A key of fixed length out of several texts.
pub(super) fn hashed(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.len().to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}

pub(super) fn refusal(error: RestateError) -> Status {
    match error {
        RestateError::Refused { status: 404, message } => Status::not_found(message),
        RestateError::Refused { status: 409, message } => Status::failed_precondition(message),
        RestateError::Refused { status: 400..=499, message } => Status::invalid_argument(message),
        RestateError::Refused { message, .. } => Status::internal(message),
        error @ RestateError::Unavailable { .. } => Status::unavailable(error.to_string()),
    }
}
