//! `BuildSlots`, a virtual object per workspace: who builds, who waits. Pure
//! state: it never waits for or runs anything.
//!
//! A lease has no clock, because pure state has none: while slots are held the
//! object sweeps itself a few times per lease, and a slot that has been there
//! for more sweeps than a lease has is taken back. One delayed message is under
//! way per workspace, not one per build. It is lost when somebody ends it by
//! hand, so that whoever finds every slot taken sends another: the first of those
//! of one number to arrive is the sweep, the others do nothing.

mod slots;

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use slots::queue;

use crate::{
    ids::{DeploymentId, EnvironmentId},
    model::{DeploymentPlan, Purpose},
};
use slots::{Granted, Slots};

/// The one key of the object's state.
pub const STATE: &str = "slots";

/// Input of `try_acquire`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SlotClaim {
    /// Who wants the slot.
    pub deployment_id: DeploymentId,
    /// Production goes first.
    pub production: bool,
    /// Concurrent builds of the workspace.
    pub limit: u32,
    /// After this the slot is taken back, in milliseconds.
    pub lease_ms: u64,
}

/// Input of `acquire`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AcquireRequest {
    /// Who wants what.
    #[serde(flatten)]
    pub claim: SlotClaim,
    /// Completed with a [`SlotDecision`].
    pub awakeable_id: String,
    /// Older waiters of the same stream lose their place to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<BuildStream>,
}

/// Deployments of one branch in one environment, of which only the newest in
/// the queue matters. A build that runs is never ended for a newer one: under
/// frequent pushes nothing would ever finish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildStream {
    /// The environment, and so the project.
    pub environment_id: EnvironmentId,
    /// The branch.
    pub branch: String,
    /// Order of submission.
    pub sequence: i64,
}

impl BuildStream {
    /// `None` where the project's policy is to build everything, and for an image
    /// that was asked for by itself.
    pub fn of(plan: &DeploymentPlan) -> Option<Self> {
        (plan.supersede_queued && plan.purpose == Purpose::Deploy).then(|| Self {
            environment_id: plan.environment_id.clone(),
            branch: plan.branch.clone(),
            sequence: plan.sequence,
        })
    }

    fn supersedes(&self, other: &Self) -> bool {
        self.environment_id == other.environment_id
            && self.branch == other.branch
            && self.sequence > other.sequence
    }
}

/// What a waiter is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "decision", content = "value", rename_all = "snake_case")]
pub enum SlotDecision {
    /// The slot is held from now on.
    Granted(SlotGrant),
    /// A newer deployment took the place.
    Superseded(DeploymentId),
}

/// Output of `acquire`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum Acquired {
    /// The slot is held from now on.
    Granted(SlotGrant),
    /// Waiting at this position, from 1.
    Queued(u32),
}

/// A held slot; the number tells leases of one holder apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlotGrant {
    /// Counts the workspace's grants.
    pub number: u64,
}

/// Input of `release`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SlotHolder {
    /// Whose slot, or place in the queue.
    pub deployment_id: DeploymentId,
    /// Only what this wait has taken: a later attempt may hold or want another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awakeable_id: Option<String>,
}

/// Input of `sweep`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sweep {
    /// Counts the workspace's sweeps.
    pub number: u64,
}

/// The build slots of a workspace.
pub struct BuildSlots;

#[restate_sdk::object]
impl BuildSlots {
    /// Takes a slot if one is free and nobody waits for it. Repeating it
    /// changes nothing.
    #[handler]
    async fn try_acquire(
        &self,
        ctx: ObjectContext<'_>,
        claim: Json<SlotClaim>,
    ) -> HandlerResult<Json<Option<SlotGrant>>> {
        let mut slots = load(&ctx).await?;
        let grant = slots.try_acquire(&claim.0, None);
        store(&ctx, slots);
        Ok(Json(grant))
    }

    /// Takes a slot, or a place in the queue. Repeating it changes nothing
    /// but the awakeable that is completed.
    #[handler]
    async fn acquire(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<AcquireRequest>,
    ) -> HandlerResult<Json<Acquired>> {
        let mut slots = load(&ctx).await?;
        let Json(request) = request;
        for stale in slots.supersede(&request) {
            let decision = SlotDecision::Superseded(request.claim.deployment_id.clone());
            ctx.resolve_awakeable(&stale.awakeable_id, Json(decision));
        }
        let acquired = slots.acquire(request);
        if matches!(acquired, Acquired::Queued(_)) {
            slots.sweep_again();
        }
        store(&ctx, slots);
        Ok(Json(acquired))
    }

    /// Gives back the slot or leaves the queue; neither is fine too.
    #[handler]
    async fn release(&self, ctx: ObjectContext<'_>, holder: Json<SlotHolder>) -> HandlerResult<()> {
        let mut slots = load(&ctx).await?;
        let granted = slots.release(&holder.0);
        announce(&ctx, granted);
        store(&ctx, slots);
        Ok(())
    }

    /// Takes back the slots whose leases ran out. The object sends it to itself.
    #[handler]
    async fn sweep(&self, ctx: ObjectContext<'_>, sweep: Json<Sweep>) -> HandlerResult<()> {
        let mut slots = load(&ctx).await?;
        if let Some(granted) = slots.sweep(sweep.0) {
            announce(&ctx, granted);
            store(&ctx, slots);
        }
        Ok(())
    }
}

async fn load(ctx: &ObjectContext<'_>) -> Result<Slots, TerminalError> {
    Ok(ctx.get::<Json<Slots>>(STATE).await?.map(|Json(slots)| slots).unwrap_or_default())
}

fn store(ctx: &ObjectContext<'_>, mut slots: Slots) {
    if let Some((sweep, delay)) = slots.next_sweep() {
        let itself = ctx.object_client::<BuildSlotsClient>(ctx.key());
        itself.sweep(Json(sweep)).send_after(delay);
    }
    ctx.set(STATE, Json(slots));
}

fn announce(ctx: &ObjectContext<'_>, granted: Vec<Granted>) {
    for Granted { to, grant } in granted {
        ctx.resolve_awakeable(&to.awakeable_id, Json(SlotDecision::Granted(grant)));
    }
}
