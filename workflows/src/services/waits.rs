//! `Waits`: the only home of awakeables, timers and races. A completed race
//! inside `deploy` could not be restarted from a later step; inside a service
//! that it calls, it can.

use std::{sync::Arc, time::Duration};

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::build_slots::{AcquireRequest, Acquired, BuildSlotsClient, SlotGrant, SlotHolder};
use crate::{
    engine::{
        core::Core,
        readiness::{ReadyVerdict, now_ms},
        run::bounded_run,
        steps::record_passed,
    },
    error::{ErrorCode, StepFailure},
    ids::{DeploymentId, WorkspaceId},
    ports::{ReadinessWait, StepRun},
    status::DeploymentStatus,
    step::Step,
};

/// From the watcher's own deadline until the timer ends the wait without it.
const TIMER_MARGIN: Duration = Duration::from_secs(10);
/// From the end of the longest build until its slot is taken back.
const LEASE_MARGIN: Duration = Duration::from_secs(300);

/// Input of `slot`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SlotRequest {
    /// Whose slots.
    pub workspace_id: WorkspaceId,
    /// Who wants one.
    pub deployment_id: DeploymentId,
    /// Production goes first.
    pub production: bool,
    /// Steps to record as done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Step>,
}

/// Output of `slot`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum SlotVerdict {
    /// The slot is held.
    Granted(SlotGrant),
    /// None became free in time.
    Failed(StepFailure),
}

impl SlotVerdict {
    pub(crate) fn into_result(self) -> Result<SlotGrant, StepFailure> {
        match self {
            SlotVerdict::Granted(grant) => Ok(grant),
            SlotVerdict::Failed(failure) => Err(failure.at(Step::AcquireSlot)),
        }
    }
}

/// Input of `ready`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ReadyRequest {
    /// Whose instances.
    pub deployment_id: DeploymentId,
    /// The runtime's namespace.
    pub namespace: String,
}

/// Durable waits on behalf of a deployment's workflow.
pub struct Waits {
    core: Arc<Core>,
}

impl Waits {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::service]
impl Waits {
    /// Waits for a build slot of the workspace.
    #[handler]
    async fn slot(
        &self,
        ctx: Context<'_>,
        request: Json<SlotRequest>,
    ) -> HandlerResult<Json<SlotVerdict>> {
        let Json(request) = request;
        let settings = &self.core.settings;
        let (awakeable_id, granted) = ctx.awakeable::<Json<SlotGrant>>();
        let acquire = AcquireRequest {
            deployment_id: request.deployment_id.clone(),
            awakeable_id,
            production: request.production,
            limit: settings.build_concurrency,
            lease_ms: millis(settings.build_time_limit + LEASE_MARGIN),
        };
        let slots = || ctx.object_client::<BuildSlotsClient>(request.workspace_id.as_str());
        if let Json(Acquired::Granted(grant)) = slots().acquire(Json(acquire)).call().await? {
            return Ok(Json(SlotVerdict::Granted(grant)));
        }
        self.record_queued(&ctx, &request).await?;
        let leave = || {
            let holder = SlotHolder { deployment_id: request.deployment_id.clone() };
            slots().release(Json(holder)).send();
        };
        restate_sdk::select! {
            grant = granted => Ok(Json(SlotVerdict::Granted(grant?.0))),
            _ = ctx.sleep(settings.queue_time_limit) => {
                leave();
                let limit = settings.queue_time_limit.as_secs();
                let message = format!("no build slot became free within {limit} s");
                Ok(Json(SlotVerdict::Failed(StepFailure::new(ErrorCode::BuilderUnavailable, message))))
            },
            on_cancel => {
                leave();
                Err(TerminalError::new_with_code(409, "cancelled").into())
            },
        }
    }

    /// Waits until every instance of the deployment is ready, or one ends, or
    /// time is up.
    #[handler]
    async fn ready(
        &self,
        ctx: Context<'_>,
        request: Json<ReadyRequest>,
    ) -> HandlerResult<Json<ReadyVerdict>> {
        let Json(request) = request;
        let (awakeable_id, decided) = ctx.awakeable::<Json<ReadyVerdict>>();
        let core = Arc::clone(&self.core);
        let (id, timeout) = (request.deployment_id.clone(), core.settings.ready_timeout);
        bounded_run!(ctx, "watch-instances", move || park(core, awakeable_id, request, timeout))
            .await?;
        restate_sdk::select! {
            verdict = decided => Ok(verdict?),
            _ = ctx.sleep(timeout + TIMER_MARGIN) => {
                let message = format!("deployment `{id}` was not ready within {} s", timeout.as_secs());
                Ok(Json(ReadyVerdict::Failed(StepFailure::new(ErrorCode::NotReady, message))))
            },
        }
    }
}

impl Waits {
    /// Only a deployment that really waits pays for a record of it.
    async fn record_queued(
        &self,
        ctx: &Context<'_>,
        request: &SlotRequest,
    ) -> Result<(), TerminalError> {
        let core = Arc::clone(&self.core);
        let (id, passed) = (request.deployment_id.clone(), request.passed.clone());
        bounded_run!(ctx, "record-queued", move || async move {
            let Some(owner) = core.store.owner_of(&id).await? else { return Ok(()) };
            let run = StepRun { deployment_id: id, owner, step: Step::AcquireSlot };
            record_passed(&core, &run, &passed).await?;
            core.store.step_started(&run, Some(DeploymentStatus::Queued)).await?;
            Ok(())
        })
        .await
    }
}

/// Parks the wait in the database and starts to watch. Repeated after a crash
/// it parks the same wait and keeps its deadline.
async fn park(
    core: Arc<Core>,
    awakeable_id: String,
    request: ReadyRequest,
    timeout: Duration,
) -> HandlerResult<()> {
    let id = request.deployment_id;
    let inputs = core.store.run_inputs(&id).await?;
    if let Some(owner) = core.store.owner_of(&id).await? {
        let run = StepRun { deployment_id: id.clone(), owner, step: Step::AwaitReady };
        core.store.step_started(&run, Some(DeploymentStatus::Checking)).await?;
    }
    let wait = ReadinessWait {
        awakeable_id,
        deployment_id: id,
        namespace: request.namespace,
        replicas: inputs.options.replicas,
        deadline: now_ms() + i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 2),
    };
    core.store.open_readiness_wait(&wait).await?;
    core.readiness.watch(wait);
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
