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

/// Requests wait while instances are being stopped. When that does not succeed
/// soon the deployment is set going again.
const STOP_LIMIT: Duration = Duration::from_secs(30);

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
    /// time to end. False: it is not idle any more.
    #[handler]
    async fn evict(&self, ctx: ObjectContext<'_>, idle: Json<Idle>) -> HandlerResult<Json<bool>> {
        let Json(idle) = idle;
        let id = id_of(&ctx)?;
        if idle.deployment_id != id {
            let message = "the body's deployment_id is not the object's key".to_owned();
            return Err(TerminalError::new_with_code(400, message).into());
        }
        if !self.begin_eviction(&ctx, idle).await? {
            return Ok(Json(false));
        }
        match self.stop(&ctx, &id).await {
            Ok(()) => {
                tracing::info!(deployment = %id, "evicted: nobody has asked for it");
                Ok(Json(true))
            }
            // Tries used up, or cancelled: requests must not wait for that.
            Err(error) => {
                tracing::warn!(deployment = %id, %error, "cannot be evicted; it goes on");
                ctx.object_client::<EvictionClient>(ctx.key()).start().send();
                Ok(Json(false))
            }
        }
    }

    /// Starts the instances again. What does not get ready is stopped again.
    #[handler]
    async fn start(&self, ctx: ObjectContext<'_>) -> HandlerResult<Json<Started>> {
        let id = id_of(&ctx)?;
        let Some(target) = self.begin_start(&ctx, &id).await? else {
            return Ok(Json(Started::Nothing));
        };
        match self.make_ready(&ctx, &target).await {
            Ok(()) => {
                tracing::info!(deployment = %id, "started again");
                Ok(Json(Started::Done))
            }
            Err(NotStarted::Failed(failure)) => {
                self.undo_start(&ctx, &id, failure.clone()).await?;
                Ok(Json(Started::Failed(failure)))
            }
            // Tries used up, or cancelled.
            Err(NotStarted::Ended(error)) => {
                let failure = StepFailure::new(ErrorCode::Internal, error.message().to_owned());
                self.undo_start(&ctx, &id, failure).await?;
                Err(error.into())
            }
        }
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
    async fn begin_eviction(
        &self,
        ctx: &ObjectContext<'_>,
        idle: Idle,
    ) -> Result<bool, TerminalError> {
        self.record(ctx, "begin-eviction", move |core| {
            let idle = idle.clone();
            Box::pin(async move {
                let begun = core.evictions.begin_eviction(&idle).await? == Guarded::Applied;
                if begun {
                    core.announcer.announce().await;
                }
                Ok(begun)
            })
        })
        .await
    }

    async fn stop(&self, ctx: &ObjectContext<'_>, id: &DeploymentId) -> Result<(), TerminalError> {
        let pause = drain(&self.core.settings);
        ctx.service_client::<WaitsClient>().pause(Json(pause)).call().await?;
        let (core, id) = (Arc::clone(&self.core), id.clone());
        let soon = record_policy().max_duration(STOP_LIMIT);
        bounded_run!(ctx, "stop-evicted", soon, move || stop(core, id)).await
    }

    async fn begin_start(
        &self,
        ctx: &ObjectContext<'_>,
        id: &DeploymentId,
    ) -> Result<Option<StartTarget>, TerminalError> {
        let id = id.clone();
        let Json(target) = self
            .record(ctx, "begin-start", move |core| {
                let id = id.clone();
                Box::pin(async move { Ok(Json(core.evictions.begin_start(&id).await?)) })
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
        let id = id.clone();
        self.record(ctx, "undo-start", move |core| {
            let (id, failure) = (id.clone(), failure.clone());
            Box::pin(async move {
                if core.evictions.undo_start(&id, &failure).await? == Guarded::Lost {
                    return Ok(());
                }
                core.announcer.announce().await;
                stop(core, id).await
            })
        })
        .await
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

fn id_of(ctx: &ObjectContext<'_>) -> Result<DeploymentId, TerminalError> {
    DeploymentId::from_str(ctx.key())
        .map_err(|error| TerminalError::new_with_code(400, error.to_string()))
}

async fn stop(core: Arc<Core>, id: DeploymentId) -> HandlerResult<()> {
    if let Some(namespace) = core.store.run_target(&id).await? {
        let deleted = core.runtime.delete(&namespace, &id).await;
        deleted.map_err(|error: StepError| HandlerError::from(error.failure().to_string()))?;
    }
    core.evictions.finish_eviction(&id).await?;
    Ok(())
}
