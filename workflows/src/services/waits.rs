//! `Waits`: the only home of awakeables, timers and races. A completed race
//! inside `deploy` could not be restarted from a later step; inside a service
//! that it calls, it can.

use std::{sync::Arc, time::Duration};

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::build_slots::{
    AcquireRequest, Acquired, BuildSlotsClient, BuildStream, SlotClaim, SlotDecision, SlotGrant,
    SlotHolder,
};
use crate::{
    engine::{
        core::Core,
        failpoint::{self, Point},
        readiness::{ReadyVerdict, now_ms},
        run::bounded_run,
        steps::handler_error,
    },
    error::{ErrorCode, StepError, StepFailure},
    ids::{DeploymentId, WorkspaceId},
    ports::ReadinessWait,
    step::Step,
};

/// A wait that ends within it is not worth being parked.
const MOMENT: Duration = Duration::from_millis(50);
/// From the watcher's own deadline until the timer ends the wait without it.
const TIMER_MARGIN: Duration = Duration::from_secs(10);
/// Input of `slot`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SlotRequest {
    /// Whose slots.
    pub workspace_id: WorkspaceId,
    /// Who wants what.
    #[serde(flatten)]
    pub claim: SlotClaim,
    /// Which others in the queue it may take the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<BuildStream>,
}

/// Output of `slot`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum SlotVerdict {
    /// The slot is held.
    Granted(SlotGrant),
    /// This newer deployment took the place.
    Superseded(DeploymentId),
    /// None became free in time.
    Failed(StepFailure),
}

/// Input of `ready`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ReadyRequest {
    /// Whose instances.
    pub deployment_id: DeploymentId,
    /// The runtime's namespace.
    pub namespace: String,
}

/// What a first look at the instances came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "looked", content = "value", rename_all = "snake_case")]
enum Looked {
    /// It is decided.
    Decided(ReadyVerdict),
    /// It is waited for, for so many milliseconds.
    Parked(u64),
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
    /// Waits for a build slot of the workspace. However the wait ends but well,
    /// the slot or the place in the queue is given back: it may have been taken
    /// although nobody heard of it.
    #[handler]
    async fn slot(
        &self,
        ctx: Context<'_>,
        request: Json<SlotRequest>,
    ) -> HandlerResult<Json<SlotVerdict>> {
        let Json(request) = request;
        let (awakeable_id, decided) = ctx.awakeable::<Json<SlotDecision>>();
        let slots = || ctx.object_client::<BuildSlotsClient>(request.workspace_id.as_str());
        let acquire = AcquireRequest {
            claim: request.claim.clone(),
            awakeable_id: awakeable_id.clone(),
            stream: request.stream.clone(),
        };
        let acquiring = slots().acquire(Json(acquire)).call();
        let id = &request.claim.deployment_id;
        failpoint::reach_at(id, "wait-for-slot", Point::During.name()).await;
        let limit = self.core.settings.queue_time_limit;
        let verdict = match acquiring.await {
            Ok(Json(Acquired::Granted(grant))) => Ok(SlotVerdict::Granted(grant)),
            Ok(Json(Acquired::Queued(position))) => {
                match self.note_position(&ctx, id, position).await {
                    Ok(()) => restate_sdk::select! {
                        decision = decided => decision.map(|Json(decision)| decision.into()),
                        _ = ctx.sleep(limit) => Ok(SlotVerdict::Failed(none_in_time(limit))),
                        on_cancel => Err(TerminalError::new_with_code(409, "cancelled")),
                    },
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        if !matches!(verdict, Ok(SlotVerdict::Granted(_) | SlotVerdict::Superseded(_))) {
            let holder = SlotHolder { deployment_id: id.clone(), awakeable_id: Some(awakeable_id) };
            slots().release(Json(holder)).send();
        }
        failpoint::reach_at(id, "wait-for-slot", Point::Done.name()).await;
        Ok(Json(verdict?))
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
        let id = request.deployment_id.clone();
        let parked = awakeable_id.clone();
        let watching = bounded_run!(ctx, "watch-instances", move || async move {
            let looked = look_or_park(core, parked, request).await;
            looked.map(Json).map_err(handler_error)
        });
        let timeout = match watching.await? {
            Json(Looked::Parked(millis)) => Duration::from_millis(millis),
            Json(Looked::Decided(verdict)) => {
                failpoint::reach(&id, Step::AwaitReady, Point::Done).await;
                return Ok(Json(verdict));
            }
        };
        let heard = restate_sdk::select! {
            verdict = decided => verdict,
            _ = ctx.sleep(timeout + TIMER_MARGIN) => {
                let message = format!("deployment `{id}` was not ready within {} s", timeout.as_secs());
                Ok(Json(ReadyVerdict::Failed(StepFailure::new(ErrorCode::NotReady, message))))
            },
        };
        // Not journaled: closing is idempotent, and what is left open is found
        // by the watcher.
        if let Err(error) = self.core.store.close_readiness_wait(&awakeable_id).await {
            tracing::warn!(deployment = %id, %error, "cannot close the readiness wait");
        }
        failpoint::reach(&id, Step::AwaitReady, Point::Done).await;
        Ok(heard?)
    }

    /// Lets requests that are under way end.
    #[handler]
    async fn pause(&self, ctx: Context<'_>, millis: Json<u64>) -> HandlerResult<()> {
        ctx.sleep(Duration::from_millis(millis.0)).await?;
        Ok(())
    }
}

impl Waits {
    /// Only a deployment that really waits pays for a record of it.
    async fn note_position(
        &self,
        ctx: &Context<'_>,
        id: &DeploymentId,
        position: u32,
    ) -> Result<(), TerminalError> {
        let (core, id) = (Arc::clone(&self.core), id.clone());
        let limit = core.settings.build_concurrency;
        bounded_run!(ctx, "note-position", move || async move {
            let message =
                format!("position {position} in the queue: {limit} of {limit} builds run");
            Ok(core.store.note_step(&id, Step::AcquireSlot, &message).await?)
        })
        .await
    }
}

impl From<SlotDecision> for SlotVerdict {
    fn from(decision: SlotDecision) -> Self {
        match decision {
            SlotDecision::Granted(grant) => SlotVerdict::Granted(grant),
            SlotDecision::Superseded(by) => SlotVerdict::Superseded(by),
        }
    }
}

fn none_in_time(limit: Duration) -> StepFailure {
    let message = format!("no build slot became free within {} s", limit.as_secs());
    StepFailure::new(ErrorCode::BuilderUnavailable, message)
}

/// Looks for a moment. What is not decided by then is parked in the database
/// and watched: repeated after a crash this parks the same wait, with its first
/// deadline.
async fn look_or_park(
    core: Arc<Core>,
    awakeable_id: String,
    request: ReadyRequest,
) -> Result<Looked, StepError> {
    let wait = readiness_wait(&core, request, awakeable_id).await?;
    let millis = u64::try_from(wait.deadline - now_ms()).unwrap_or(0);
    let id = wait.deployment_id.clone();
    let verdict = core.readiness.decided_within(&wait, MOMENT).await;
    if verdict.is_none() {
        core.store.open_readiness_wait(&wait).await?;
        core.readiness.watch(wait);
    }
    failpoint::reach(&id, Step::AwaitReady, Point::During).await;
    let looked = verdict.map_or(Looked::Parked(millis), Looked::Decided);
    failpoint::faulty(&id, "watch-instances", Ok(looked))
}

/// What is waited for, and until when from now on.
pub(crate) async fn readiness_wait(
    core: &Core,
    request: ReadyRequest,
    awakeable_id: String,
) -> Result<ReadinessWait, StepError> {
    let options = core.store.run_inputs(&request.deployment_id).await?.options;
    let timeout = options.ready_within(core.settings.ready_timeout).as_millis();
    Ok(ReadinessWait {
        awakeable_id,
        deployment_id: request.deployment_id,
        namespace: request.namespace,
        replicas: options.instances(),
        deadline: now_ms() + i64::try_from(timeout).unwrap_or(i64::MAX / 2),
    })
}
