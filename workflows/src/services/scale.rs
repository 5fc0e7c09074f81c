//! `Scale`, a virtual object per environment: changes how many instances of
//! which size the live deployment has, and the environment's default for the
//! next ones. What is recorded goes first: whoever starts instances of the
//! deployment meanwhile starts what is recorded.

use std::sync::Arc;

use futures::future::BoxFuture;
use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    eviction::start_evicted,
    waits::{ReadyRequest, WaitsClient},
};
use crate::{
    app,
    engine::{
        core::Core,
        readiness::ReadyVerdict,
        run::{bounded_run, uncancelled_run},
        running::{START_LIMIT, apply_while_wanted, drain, started_within},
    },
    error::{StepError, StepFailure},
    ids::{DeploymentId, EnvironmentId, InvocationId},
    ports::{Guarded, ScaleStart, ScaleTarget, ScaleUnderWay},
};

/// Input of `run`. Which workspace it is in was checked by the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// Must equal the object's key.
    pub environment_id: EnvironmentId,
    /// What must be live there; none: whatever is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<DeploymentId>,
    /// None: the one that gets requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// At least one.
    pub replicas: u32,
    /// Thousandths of a core; none: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u32>,
    /// MiB; none: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}

/// Output of `run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum Scaled {
    /// Every instance is ready.
    Done {
        /// Whose.
        deployment_id: DeploymentId,
        /// Of which process.
        process: String,
        /// As it was.
        from: app::Scale,
        /// As it is.
        to: app::Scale,
    },
    /// The rules forbid it; nothing was changed.
    Refused(String),
    /// The instances did not get ready; everything is as it was.
    Failed(StepFailure),
}

/// The scale of environments.
pub struct Scale {
    core: Arc<Core>,
}

impl Scale {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::object]
impl Scale {
    /// Records the scale, lets instances that are to go lose their requests,
    /// applies it and waits until every instance is ready. What cannot be done
    /// is taken back.
    #[handler]
    async fn run(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<ScaleRequest>,
    ) -> HandlerResult<Json<Scaled>> {
        let Json(request) = request;
        of_key(&ctx, &request.environment_id)?;
        let (target, pause) = loop {
            let (start, pause) = self.begin(&ctx, request.clone()).await?;
            match start {
                ScaleStart::Begun(target) => break (target, pause),
                ScaleStart::LeftBehind(target) => self.take_back(&ctx, &target).await?,
                ScaleStart::Refused(reason) => return Ok(Json(Scaled::Refused(reason))),
            }
        };
        match self.carry_out(&ctx, &target, pause).await {
            Ok(()) => Ok(Json(Scaled::Done {
                deployment_id: target.plan.deployment_id,
                process: target.process,
                from: target.from,
                to: target.to,
            })),
            Err(NotScaled::Failed(failure)) => {
                self.take_back(&ctx, &target).await?;
                Ok(Json(Scaled::Failed(failure)))
            }
            // Tries used up, or cancelled: what was recorded must not stay.
            Err(NotScaled::Ended(error)) => {
                self.take_back(&ctx, &target).await?;
                Err(error.into())
            }
        }
    }

    /// Takes back what an invocation of `run` has left that was killed: nobody
    /// else would. Sent by the reconciler.
    #[handler]
    async fn settle(&self, ctx: ObjectContext<'_>, left: Json<ScaleUnderWay>) -> HandlerResult<()> {
        let Json(left) = left;
        of_key(&ctx, &left.environment_id)?;
        let taken_over = self
            .record(&ctx, "take-over-scale", move |core, by| {
                let left = left.clone();
                Box::pin(async move { Ok(Json(core.store.take_over_scale(&left, &by).await?)) })
            })
            .await?;
        if let Json(Some(target)) = taken_over {
            self.take_back(&ctx, &target).await?;
        }
        Ok(())
    }
}

fn of_key(ctx: &ObjectContext<'_>, environment: &EnvironmentId) -> Result<(), TerminalError> {
    if environment.as_str() == ctx.key() {
        return Ok(());
    }
    let message = "the body's environment_id is not the object's key".to_owned();
    Err(TerminalError::new_with_code(400, message))
}

/// Why a scale is not what was asked for.
enum NotScaled {
    /// The instances cannot be made ready.
    Failed(StepFailure),
    /// What the SDK ended an await with.
    Ended(TerminalError),
}

impl From<TerminalError> for NotScaled {
    fn from(error: TerminalError) -> Self {
        Self::Ended(error)
    }
}

impl Scale {
    /// And the pause until instances that are to go may be stopped.
    async fn begin(
        &self,
        ctx: &ObjectContext<'_>,
        request: ScaleRequest,
    ) -> Result<(ScaleStart, u64), TerminalError> {
        let Json(begun) = self
            .record(ctx, "begin-scale", move |core, by| {
                let request = request.clone();
                Box::pin(async move {
                    let start = core.store.begin_scale(&request, &by).await?;
                    // Instances that are to be stopped get no more requests.
                    if matches!(&start, ScaleStart::Begun(target) if target.drains()) {
                        core.announcer.announce().await;
                    }
                    // Journaled: another configuration must not change a call.
                    Ok(Json((start, drain(&core.settings))))
                })
            })
            .await?;
        Ok(begun)
    }

    async fn carry_out(
        &self,
        ctx: &ObjectContext<'_>,
        target: &ScaleTarget,
        pause: u64,
    ) -> Result<(), NotScaled> {
        if target.evicted {
            // With the scale that is recorded now.
            if let Some(failure) = start_evicted(ctx, &target.plan.deployment_id).await? {
                return Err(NotScaled::Failed(failure));
            }
        } else if target.drains() {
            ctx.service_client::<WaitsClient>().pause(Json(pause)).call().await?;
        }
        self.apply(ctx, target).await?;
        let request = ReadyRequest {
            deployment_id: target.plan.deployment_id.clone(),
            namespace: target.plan.environment_id.to_string(),
        };
        match ctx.service_client::<WaitsClient>().ready(Json(request)).call().await?.0 {
            ReadyVerdict::Ready => {}
            ReadyVerdict::Failed(failure) => return Err(NotScaled::Failed(failure)),
        }
        let id = target.plan.deployment_id.clone();
        self.record(ctx, "finish-scale", move |core, by| {
            let id = id.clone();
            Box::pin(async move {
                core.store.finish_scale(&id, &by).await?;
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    async fn apply(&self, ctx: &ObjectContext<'_>, target: &ScaleTarget) -> Result<(), NotScaled> {
        let (core, target) = (Arc::clone(&self.core), target.clone());
        let Json(failed) = bounded_run!(ctx, "apply-scale", move || async move {
            let applying = apply_while_wanted(&core, &target.plan, &target.image);
            started_within(START_LIMIT, applying).await
        })
        .await?;
        failed.map_or(Ok(()), |failure| Err(NotScaled::Failed(failure)))
    }

    /// As it was, unless somebody has changed it since.
    async fn take_back(
        &self,
        ctx: &ObjectContext<'_>,
        target: &ScaleTarget,
    ) -> Result<(), TerminalError> {
        let target = target.clone();
        self.record(ctx, "undo-scale", move |core, by| {
            let target = target.clone();
            Box::pin(async move {
                if core.store.undo_scale(&target, &by).await? == Guarded::Lost {
                    return Ok(());
                }
                core.announcer.announce().await;
                let applied = apply_while_wanted(&core, &target.plan, &target.image).await;
                if let Err(StepError::Transient(failure)) = applied {
                    return Err(failure.to_string().into());
                }
                // What stands in the way for good was said as what has failed.
                core.store.finish_scale(&target.plan.deployment_id, &by).await?;
                Ok(())
            })
        })
        .await
    }

    /// A run that a cancel cannot skip.
    async fn record<T>(
        &self,
        ctx: &ObjectContext<'_>,
        name: &'static str,
        action: impl Fn(Arc<Core>, InvocationId) -> BoxFuture<'static, HandlerResult<T>>,
    ) -> Result<T, TerminalError>
    where
        T: restate_sdk::serde::Serialize + restate_sdk::serde::Deserialize + Send + 'static,
    {
        let by = || InvocationId(ctx.invocation_id().to_owned());
        uncancelled_run(ctx, name, || action(Arc::clone(&self.core), by())).await
    }
}
