//! What changes a deployment that exists: the same handlers that the ingress
//! offers, for deployments of the caller's workspace.

use std::time::Duration;

use launchway_proto::ctrl::v1::{
    RedeployRequest, ReleasedDeployment, RetryDeploymentRequest, RetryDeploymentResponse,
    RollbackRequest,
};
use launchway_workflows::{
    engine::cancel,
    error::StepFailure,
    ids::DeploymentId,
    ports::CancelRequest,
    services::{
        deployments::{CreatedDeployment, DeploymentRef, RetriedDeployment, RetryRequest},
        release::{ReleaseKind, ReleaseRequest, Released},
    },
};
use tonic::Status;
use uuid::Uuid;

use super::{
    Control,
    deployments::{hashed, refusal, unavailable},
};

/// The exit code of instances that do not get ready.
const UNHEALTHY: u8 = 4;
/// A target may have to be pulled, started and probed.
const RELEASE_LIMIT: Duration = Duration::from_secs(900);

pub(super) async fn retry(
    control: &Control,
    request: RetryDeploymentRequest,
) -> Result<RetryDeploymentResponse, Status> {
    control.open_for("retry")?;
    let deployment_id = control.find(&request.deployment_id).await?.id;
    let from = Some(request.from.as_str()).filter(|step| !step.is_empty());
    let from = from.map(str::parse).transpose().map_err(Status::invalid_argument)?;
    let input = RetryRequest { deployment_id, from };
    let key = Uuid::new_v4().to_string();
    let retried: RetriedDeployment =
        control.ingress.call("Deployments/retry", &key, &input).await.map_err(refusal)?;
    Ok(RetryDeploymentResponse {
        attempt: retried.attempt,
        from: retried.from.to_string(),
        why: retried.why,
    })
}

/// Not through a handler: it must work while no worker does.
pub(super) async fn cancel(control: &Control, id: &str) -> Result<bool, Status> {
    let id = control.find(id).await?.id;
    let asked = cancel::cancel(&control.store, &control.workflows, &id).await;
    match asked.map_err(|error| Status::unavailable(error.to_string()))? {
        Some(CancelRequest::Asked | CancelRequest::Unstarted) => Ok(true),
        Some(CancelRequest::Already) => Ok(false),
        Some(CancelRequest::TooLate(status)) => {
            Err(Status::failed_precondition(cancel::too_late(&id, status)))
        }
        None => Err(Status::not_found(format!("there is no deployment `{id}`"))),
    }
}

pub(super) async fn redeploy(
    control: &Control,
    request: RedeployRequest,
) -> Result<CreatedDeployment, Status> {
    control.open_for("redeploy")?;
    let deployment_id = control.find(&request.deployment_id).await?.id;
    let key = match request.idempotency_key.filter(|key| !key.is_empty()) {
        Some(key) => hashed(&[control.workspace.as_str(), deployment_id.as_str(), &key]),
        None => Uuid::new_v4().to_string(),
    };
    let input = DeploymentRef { deployment_id };
    control.ingress.call("Deployments/redeploy", &key, &input).await.map_err(refusal)
}

pub(super) async fn rollback(
    control: &Control,
    request: RollbackRequest,
) -> Result<ReleasedDeployment, Status> {
    let target = match request.target_deployment_id.as_str() {
        "" => previous(control, &request).await?,
        id => control.find(id).await?.id,
    };
    let source = match request.source_deployment_id.as_str() {
        "" => None,
        id => Some(control.find(id).await?.id),
    };
    release(control, ReleaseKind::Rollback, target, source).await
}

pub(super) async fn promote(control: &Control, id: &str) -> Result<ReleasedDeployment, Status> {
    let target = control.find(id).await?.id;
    release(control, ReleaseKind::Promote, target, None).await
}

async fn previous(control: &Control, request: &RollbackRequest) -> Result<DeploymentId, Status> {
    let (project, environment) = (&request.project_id, &request.environment_slug);
    if project.is_empty() || environment.is_empty() {
        let message = "give target_deployment_id, or project_id and environment_slug";
        return Err(Status::invalid_argument(message));
    }
    let found = control.store.previous_live(&control.workspace, project, environment).await;
    found.map_err(unavailable)?.ok_or_else(|| {
        Status::failed_precondition(format!(
            "environment `{environment}` of project `{project}` has served nothing else that could be \
             live again: `launchway list --project {project}` shows its deployments"
        ))
    })
}

/// The message with the last lines of the instance, where there are any.
pub(super) fn told(failure: &StepFailure) -> String {
    let mut text = failure.to_string();
    for line in &failure.log_tail {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    text
}

/// Instances that do not get ready have an exit code of their own.
pub(super) fn failed(failure: &StepFailure, text: String) -> Status {
    match failure.code.exit_code() {
        UNHEALTHY => Status::aborted(text),
        _ => Status::failed_precondition(text),
    }
}

async fn release(
    control: &Control,
    kind: ReleaseKind,
    target_deployment_id: DeploymentId,
    source_deployment_id: Option<DeploymentId>,
) -> Result<ReleasedDeployment, Status> {
    let request = ReleaseRequest { kind, target_deployment_id, source_deployment_id };
    let key = Uuid::new_v4().to_string();
    let handler = format!("Release/{key}/run");
    let call = control.ingress.call_within(&handler, &key, &request, RELEASE_LIMIT);
    match call.await.map_err(refusal)? {
        Released::Done { domain, previous, started } => Ok(ReleasedDeployment {
            deployment_id: request.target_deployment_id.to_string(),
            url: control.gateway.url_of(&domain),
            previous_deployment_id: previous.map(|id| id.to_string()).unwrap_or_default(),
            started,
        }),
        Released::Refused(reason) => Err(Status::failed_precondition(reason)),
        Released::Failed(failure) if failure.code.exit_code() == UNHEALTHY => {
            Err(failed(&failure, format!("{}; nothing was changed", told(&failure))))
        }
        Released::Failed(failure) => {
            let id = &request.target_deployment_id;
            let text = format!("`{id}` does not run and cannot be started: {}", told(&failure));
            Err(failed(&failure, text))
        }
    }
}
