//! `Deployments`, the stateless front: what people and programs may ask for,
//! for gRPC, JSON and ingress alike. What must happen together (a row and its
//! workflow, a new attempt and its restart) is one durable handler.

mod submission;

use std::sync::Arc;

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use submission::{CreateDeployment, CreatedDeployment};

use super::deployment::{DeployRequest, DeploymentClient};
use crate::{
    engine::{
        cancel,
        core::Core,
        readiness::now_ms,
        retry::{self, Decision},
        run::bounded_run,
    },
    ids::{DeploymentId, InvocationId},
    model::Submission,
    ports::{CancelRequest, Restarted},
    status::DeploymentStatus,
    step::Step,
};

/// HTTP codes of refusals.
const BAD_REQUEST: u16 = 400;
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;

/// Input of `retry`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// A deployment that has failed or was cancelled.
    pub deployment_id: DeploymentId,
    /// Default: the step it failed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Step>,
}

/// Output of `retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetriedDeployment {
    /// Which one.
    pub deployment_id: DeploymentId,
    /// The attempt that has begun.
    pub attempt: u32,
    /// The first step that is executed; those before it are kept.
    pub from: Step,
    /// Why at that one, for people.
    pub why: String,
}

/// Input of `cancel` and `redeploy`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentRef {
    /// Which one.
    pub deployment_id: DeploymentId,
}

/// Output of `cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelledDeployment {
    /// Which one.
    pub deployment_id: DeploymentId,
    /// What the request found.
    #[serde(flatten)]
    pub request: CancelRequest,
}

/// The stateless front of deployments.
pub struct Deployments {
    core: Arc<Core>,
}

impl Deployments {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::service]
impl Deployments {
    /// Inserts the row and starts its workflow, as one durable action: a
    /// crash between the two is finished by Restate. The same idempotency key
    /// gives the same deployment; with other content it is refused (409).
    #[handler]
    async fn create(
        &self,
        ctx: Context<'_>,
        input: Json<CreateDeployment>,
    ) -> HandlerResult<Json<CreatedDeployment>> {
        let (core, by) = (Arc::clone(&self.core), invocation_of(&ctx));
        let Json(submission) = bounded_run!(ctx, "insert-deployment", move || async move {
            Ok(Json(submit(&core, input.0, &by).await?))
        })
        .await?;
        started(&ctx, submission)
    }

    /// Submits again what a deployment was made from. The deployment itself is
    /// left as it is.
    #[handler]
    async fn redeploy(
        &self,
        ctx: Context<'_>,
        request: Json<DeploymentRef>,
    ) -> HandlerResult<Json<CreatedDeployment>> {
        let (core, by) = (Arc::clone(&self.core), invocation_of(&ctx));
        let DeploymentRef { deployment_id } = request.0;
        let id = deployment_id.clone();
        let Json(submission) = bounded_run!(ctx, "insert-deployment", move || async move {
            Ok(Json(resubmit(&core, &id, &by).await?))
        })
        .await?;
        match submission {
            Some(submission) => started(&ctx, submission),
            None => Err(unknown(&deployment_id)),
        }
    }

    /// Begins a new attempt of a deployment that has failed or was cancelled,
    /// at the step where it ended or at an earlier one. What is before that
    /// step is kept and not executed again.
    #[handler]
    async fn retry(
        &self,
        ctx: Context<'_>,
        request: Json<RetryRequest>,
    ) -> HandlerResult<Json<RetriedDeployment>> {
        let RetryRequest { deployment_id: id, from } = request.0;
        let (core, by, key) = (Arc::clone(&self.core), invocation_of(&ctx), id.clone());
        let Json(decision) = bounded_run!(ctx, "begin-retry", move || async move {
            Ok(Json(retry::begin(&core, &key, from, &by).await?))
        })
        .await?;
        let begun = match decision {
            Decision::Unknown => return Err(unknown(&id)),
            Decision::Refused(reason) => return Err(refused(CONFLICT, reason)),
            Decision::Begun(begun) => begun,
        };
        let (core, by, key) = (Arc::clone(&self.core), invocation_of(&ctx), id.clone());
        let Json(restarted) = bounded_run!(ctx, "restart-workflow", move || async move {
            match retry::restart(&core, &key, &by).await? {
                Restarted::NotYet => {
                    Err("the ended attempt has not returned yet".to_owned().into())
                }
                restarted => Ok(Json(restarted)),
            }
        })
        .await?;
        if let Restarted::Refused(reason) = restarted {
            let (core, by, key) = (Arc::clone(&self.core), invocation_of(&ctx), id.clone());
            bounded_run!(ctx, "take-back-retry", move || async move {
                Ok(core.store.take_back_retry(&key, &by).await?)
            })
            .await?;
            return Err(refused(CONFLICT, retry::use_redeploy(&id, &reason)));
        }
        let (attempt, point) = (begun.attempt, begun.point);
        Ok(Json(RetriedDeployment { deployment_id: id, attempt, from: point.step, why: point.why }))
    }

    /// Asks a deployment to end. It ends as `cancelled` once everything that it
    /// had started is taken back.
    #[handler]
    async fn cancel(
        &self,
        ctx: Context<'_>,
        request: Json<DeploymentRef>,
    ) -> HandlerResult<Json<CancelledDeployment>> {
        let DeploymentRef { deployment_id } = request.0;
        let (core, id) = (Arc::clone(&self.core), deployment_id.clone());
        let Json(request) = bounded_run!(ctx, "request-cancel", move || async move {
            Ok(Json(cancel::cancel(&*core.store, &*core.invocations, &id).await?))
        })
        .await?;
        match request {
            None => Err(unknown(&deployment_id)),
            Some(CancelRequest::TooLate(status)) => {
                Err(refused(CONFLICT, cancel::too_late(&deployment_id, status)))
            }
            Some(request) => Ok(Json(CancelledDeployment { deployment_id, request })),
        }
    }
}

/// For closures only: it differs from one attempt of a handler to another.
fn invocation_of(ctx: &Context<'_>) -> InvocationId {
    InvocationId(ctx.invocation_id().to_owned())
}

async fn submit(
    core: &Core,
    input: CreateDeployment,
    by: &InvocationId,
) -> HandlerResult<Submission> {
    let header_key = match &input.idempotency_key {
        Some(_) => None,
        None => core.invocations.idempotency_key(by).await?,
    };
    Ok(match submission::validate(input, header_key, by, now_ms()) {
        Ok(new) => core.store.create_deployment(&new).await?,
        Err(reason) => Submission::Refused { reason, conflict: false },
    })
}

/// `None`: there is no such deployment.
async fn resubmit(
    core: &Core,
    id: &DeploymentId,
    by: &InvocationId,
) -> HandlerResult<Option<Submission>> {
    let Some(mut new) = core.store.resubmission(id).await? else { return Ok(None) };
    if let Some(gone) = retry::context_gone(core, &new.source).await? {
        let reason = format!("{gone}: deploy the directory again");
        return Ok(Some(Submission::Refused { reason, conflict: true }));
    }
    let key = core.invocations.idempotency_key(by).await?;
    new.idempotency_key = key.unwrap_or_else(|| by.0.clone());
    new.submitted_by = by.clone();
    Ok(Some(core.store.create_deployment(&new).await?))
}

/// Sends the workflow of a row that this invocation has inserted.
fn started(ctx: &Context<'_>, submission: Submission) -> HandlerResult<Json<CreatedDeployment>> {
    match submission {
        Submission::Created { deployment_id } => {
            let request = DeployRequest { deployment_id: deployment_id.clone(), key_auth_id: None };
            let deployment = ctx.object_client::<DeploymentClient>(deployment_id.as_str());
            deployment.deploy(Json(request)).send();
            let status = DeploymentStatus::Pending;
            Ok(Json(CreatedDeployment { deployment_id, status, created: true }))
        }
        Submission::Existing { deployment_id, status } => {
            Ok(Json(CreatedDeployment { deployment_id, status, created: false }))
        }
        Submission::Refused { reason, conflict } => {
            Err(refused(if conflict { CONFLICT } else { BAD_REQUEST }, reason))
        }
    }
}

fn refused(code: u16, reason: String) -> HandlerError {
    TerminalError::new_with_code(code, reason).into()
}

fn unknown(id: &DeploymentId) -> HandlerError {
    refused(NOT_FOUND, format!("there is no deployment `{id}`: `launchway list` shows them"))
}
