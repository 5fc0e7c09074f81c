//! `Eviction`, a virtual object per deployment: stops the instances of what
//! nobody asks for anything, and starts them for the first request. Its handlers
//! exclude each other, so that a deployment is never stopped and started at once;
//! keyed apart from `Deployment`, so that it never queues behind `deploy`.
//!
//! What is recorded goes first: requests wait from before the first instance is
//! stopped until one is ready.

use std::{str::FromStr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::waits::{ReadyRequest, WaitsClient};
use crate::{
    engine::{
        core::Core,
        readiness::ReadyVerdict,
        run::{bounded_run, record_policy, uncancelled_run},
        running::{START_LIMIT, apply_while_wanted, drain, started_within},
    },
    error::{ErrorCode, StepError, StepFailure},
    ids::DeploymentId,
    ports::{Guarded, Idle, StartTarget},
};

/// Requests wait while instances are being stopped. When that has not succeeded for
/// so long the deployment is set going again.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Input of `start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// How often its instances had been stopped when somebody wanted it: one that
    /// was started and stopped since is not started for that. None: it is in any
    /// case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stops: Option<i64>,
}

/// Output of `start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum Started {
    /// Every instance is ready.
    Done,
    /// It was not evicted, or is not to run.
    Nothing,
    /// The instances did not get ready; it is evicted as before.
    Failed(StepFailure),
}

/// Stops and starts what is idle.
pub struct Eviction {
    core: Arc<Core>,
}

impl Eviction {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::object]
impl Eviction {
    /// Lets requests wait, and stops the instances when those under way have had
    /// time to end. False: somebody asked for it meanwhile, and it runs.
    #[handler]
    async fn evict(&self, ctx: ObjectContext<'_>, idle: Json<Idle>) -> HandlerResult<Json<bool>> {
        let Json(idle) = idle;
        let id = id_of(&ctx)?;
        if idle.deployment_id != id {
            let message = "the body's deployment_id is not the object's key".to_owned();
            return Err(TerminalError::new_with_code(400, message).into());
        }
        let Some(pause) = self.begin_eviction(&ctx, &idle).await? else {
            return Ok(Json(false));
        };
        match self.stop(&ctx, &id, pause, Some(idle)).await {
            Ok(true) => {
                tracing::info!(deployment = %id, "evicted: nobody has asked for it");
                return Ok(Json(true));
            }
            Ok(false) => {}
            // Tries used up, or cancelled: requests must not wait for that.
            Err(error) => tracing::warn!(deployment = %id, %error, "cannot be evicted; it goes on"),
        }
        self.start_again(&ctx, &id, None).await?;
        Ok(Json(false))
    }

    /// Starts the instances again. What does not get ready is stopped again.
    #[handler]
    async fn start(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<StartRequest>,
    ) -> HandlerResult<Json<Started>> {
        let id = id_of(&ctx)?;
        Ok(Json(self.start_again(&ctx, &id, request.0.stops).await?))
    }
}

/// Why a deployment is not started.
enum NotStarted {
    /// The instances cannot be made ready.
    Failed(StepFailure),
    /// What the SDK ended an await with.
    Ended(TerminalError),
}

impl From<TerminalError> for NotStarted {
    fn from(error: TerminalError) -> Self {
        Self::Ended(error)
    }
}

impl Eviction {
    async fn start_again(
        &self,
        ctx: &ObjectContext<'_>,
        id: &DeploymentId,
        stops: Option<i64>,
    ) -> Result<Started, TerminalError> {
        let Some(target) = self.begin_start(ctx, id, stops).await? else {
            return Ok(Started::Nothing);
        };
        match self.make_ready(ctx, &target).await {
            Ok(()) => {
                tracing::info!(deployment = %id, "started again");
                Ok(Started::Done)
            }
            Err(NotStarted::Failed(failure)) => {
                self.undo_start(ctx, id, failure.clone()).await?;
                Ok(Started::Failed(failure))
            }
            // Tries used up, or cancelled.
            Err(NotStarted::Ended(error)) => {
                let failure = StepFailure::new(ErrorCode::Internal, error.message().to_owned());
                self.undo_start(ctx, id, failure).await?;
                Err(error)
            }
        }
    }

    /// The pause until the instances may be stopped, in milliseconds.
    async fn begin_eviction(
        &self,
        ctx: &ObjectContext<'_>,
        idle: &Idle,
    ) -> Result<Option<u64>, TerminalError> {
        let idle = idle.clone();
        let Json(pause) = self
            .record(ctx, "begin-eviction", move |core| {
                let idle = idle.clone();
                Box::pin(async move {
                    let begun = core.evictions.begin_eviction(&idle).await?;
                    Ok(Json(requests_wait(&core, begun).await))
                })
            })
            .await?;
        Ok(pause)
    }

    /// Lets requests under way end, and stops the instances; not when somebody has
    /// asked for an idle one meanwhile: false.
    async fn stop(
        &self,
        ctx: &ObjectContext<'_>,
        id: &DeploymentId,
        pause: u64,
        idle: Option<Idle>,
    ) -> Result<bool, TerminalError> {
        ctx.service_client::<WaitsClient>().pause(Json(pause)).call().await?;
        let (core, id) = (Arc::clone(&self.core), id.clone());
        let soon = record_policy().max_duration(STOP_LIMIT);
        bounded_run!(ctx, "stop-evicted", soon, move || stop(core, id, idle)).await
    }

    async fn begin_start(
        &self,
        ctx: &ObjectContext<'_>,
        id: &DeploymentId,
        stops: Option<i64>,
    ) -> Result<Option<StartTarget>, TerminalError> {
        let id = id.clone();
        let Json(target) = self
            .record(ctx, "begin-start", move |core| {
                let id = id.clone();
                Box::pin(async move { Ok(Json(core.evictions.begin_start(&id, stops).await?)) })
            })
            .await?;
        Ok(target)
    }

    async fn make_ready(
        &self,
        ctx: &ObjectContext<'_>,
        target: &StartTarget,
    ) -> Result<(), NotStarted> {
        let (core, wanted) = (Arc::clone(&self.core), target.clone());
        let Json(failed) = bounded_run!(ctx, "start-evicted", move || async move {
            let applying = apply_while_wanted(&core, &wanted.plan, &wanted.image);
            started_within(START_LIMIT, applying).await
        })
        .await?;
        if let Some(failure) = failed {
            return Err(NotStarted::Failed(failure));
        }
        let id = target.plan.deployment_id.clone();
        let request = ReadyRequest {
            deployment_id: id.clone(),
            namespace: target.plan.environment_id.to_string(),
        };
        match ctx.service_client::<WaitsClient>().ready(Json(request)).call().await?.0 {
            ReadyVerdict::Ready => {}
            ReadyVerdict::Failed(failure) => return Err(NotStarted::Failed(failure)),
        }
        self.record(ctx, "finish-start", move |core| {
            let id = id.clone();
            Box::pin(async move {
                core.evictions.finish_start(&id).await?;
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    async fn undo_start(
        &self,
        ctx: &ObjectContext<'_>,
        id: &DeploymentId,
        failure: StepFailure,
    ) -> Result<(), TerminalError> {
        let whose = id.clone();
        let Json(pause) = self
            .record(ctx, "undo-start", move |core| {
                let (id, failure) = (whose.clone(), failure.clone());
                Box::pin(async move {
                    let undone = core.evictions.undo_start(&id, &failure).await?;
                    Ok(Json(requests_wait(&core, undone).await))
                })
            })
            .await?;
        if let Some(pause) = pause {
            // Some of its instances may have been sent requests.
            self.stop(ctx, id, pause, None).await?;
        }
        Ok(())
    }

    /// A run that a cancel cannot skip.
    async fn record<T>(
        &self,
        ctx: &ObjectContext<'_>,
        name: &'static str,
        action: impl Fn(Arc<Core>) -> BoxFuture<'static, HandlerResult<T>>,
    ) -> Result<T, TerminalError>
    where
        T: restate_sdk::serde::Serialize + restate_sdk::serde::Deserialize + Send + 'static,
    {
        uncancelled_run(ctx, name, || action(Arc::clone(&self.core))).await
    }
}

/// For who needs its instances: started by the object that may be about to stop
/// them. Why they cannot be made ready, if so.
pub(super) async fn start_evicted(
    ctx: &ObjectContext<'_>,
    id: &DeploymentId,
) -> Result<Option<StepFailure>, TerminalError> {
    let eviction = ctx.object_client::<EvictionClient>(id.as_str());
    match eviction.start(Json(StartRequest::default())).call().await?.0 {
        Started::Done | Started::Nothing => Ok(None),
        Started::Failed(failure) => Ok(Some(failure)),
    }
}

fn id_of(ctx: &ObjectContext<'_>) -> Result<DeploymentId, TerminalError> {
    DeploymentId::from_str(ctx.key())
        .map_err(|error| TerminalError::new_with_code(400, error.to_string()))
}

/// What is recorded has reached the gateways: the pause until those who were sent
/// requests before may be stopped, in milliseconds. It lasts until gateways have told
/// what they sent meanwhile.
async fn requests_wait(core: &Core, recorded: Guarded) -> Option<u64> {
    if recorded == Guarded::Lost {
        return None;
    }
    core.announcer.announce().await;
    let told = core.settings.report_every * 2;
    Some(drain(&core.settings).max(u64::try_from(told.as_millis()).unwrap_or(u64::MAX)))
}

async fn stop(core: Arc<Core>, id: DeploymentId, idle: Option<Idle>) -> HandlerResult<bool> {
    if let Some(idle) = idle
        && core.evictions.asked_since(&idle).await?
    {
        return Ok(false);
    }
    if let Some(namespace) = core.store.run_target(&id).await? {
        let deleted = core.runtime.delete(&namespace, &id).await;
        deleted.map_err(|error: StepError| HandlerError::from(error.failure().to_string()))?;
    }
    core.evictions.finish_eviction(&id).await?;
    Ok(true)
}
