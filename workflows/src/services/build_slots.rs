//! `BuildSlots`, a virtual object per workspace: who builds, who waits. Pure
//! state: it never waits, calls or runs anything.

use std::time::Duration;

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{DeploymentId, EnvironmentId},
    model::DeploymentPlan,
};

/// The one key of the object's state.
pub const STATE: &str = "slots";
/// After this many grants to production in a row, the oldest waiter goes
/// first: nobody starves.
const PRODUCTION_RUN: u32 = 3;

/// Input of `acquire`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AcquireRequest {
    /// Who wants the slot.
    pub deployment_id: DeploymentId,
    /// Completed with a [`SlotDecision`].
    pub awakeable_id: String,
    /// Older waiters of the same stream lose their place to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<BuildStream>,
    /// Production goes first.
    pub production: bool,
    /// Concurrent builds of the workspace.
    pub limit: u32,
    /// After this the slot is taken back, in milliseconds.
    pub lease_ms: u64,
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
    /// `None` where the project's policy is to build everything.
    pub fn of(plan: &DeploymentPlan) -> Option<Self> {
        plan.supersede_queued.then(|| Self {
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

/// Input of `expire`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// Whose slot.
    pub deployment_id: DeploymentId,
    /// Of this grant only.
    pub grant: SlotGrant,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Slots {
    limit: u32,
    grants: u64,
    production_run: u32,
    holders: Vec<Held>,
    waiters: Vec<AcquireRequest>,
}

/// A slot that is taken, and by which wait.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    #[serde(flatten)]
    lease: Lease,
    awakeable_id: String,
}

/// Who waits, in the order in which they would be served if nothing else came,
/// from the object's state as Restate shows it (`slots`, JSON).
///
/// # Errors
/// It is not this object's state.
pub fn queue(state: &[u8]) -> Result<Vec<DeploymentId>, serde_json::Error> {
    let mut slots: Slots = serde_json::from_slice(state)?;
    let mut order = Vec::new();
    while !slots.waiters.is_empty() {
        let next = slots.waiters.remove(slots.next_waiter());
        slots.grant(&next);
        order.push(next.deployment_id);
    }
    Ok(order)
}

/// A waiter that got its slot.
struct Granted {
    to: AcquireRequest,
    grant: SlotGrant,
}

impl Slots {
    fn acquire(&mut self, request: AcquireRequest) -> Acquired {
        self.limit = request.limit.max(1);
        if let Some(held) = self.held_by(&request.deployment_id) {
            held.awakeable_id = request.awakeable_id;
            return Acquired::Granted(held.lease.grant);
        }
        // A re-executed caller waits on another awakeable.
        self.waiters.retain(|waiter| waiter.deployment_id != request.deployment_id);
        if self.waiters.is_empty() && self.has_room() {
            return Acquired::Granted(self.grant(&request));
        }
        self.waiters.push(request);
        Acquired::Queued(u32::try_from(self.waiters.len()).unwrap_or(u32::MAX))
    }

    /// Takes out the waiters that a newer one makes useless.
    fn supersede(&mut self, newer: &AcquireRequest) -> Vec<AcquireRequest> {
        let Some(stream) = &newer.stream else { return Vec::new() };
        let stale = |waiter: &AcquireRequest| {
            waiter.stream.as_ref().is_some_and(|other| stream.supersedes(other))
        };
        let (superseded, waiters) = std::mem::take(&mut self.waiters).into_iter().partition(stale);
        self.waiters = waiters;
        superseded
    }

    fn release(&mut self, holder: &SlotHolder) -> Vec<Granted> {
        let given_back = |id: &DeploymentId, wait: &String| {
            *id == holder.deployment_id
                && holder.awakeable_id.as_ref().is_none_or(|only| only == wait)
        };
        self.holders.retain(|held| !given_back(&held.lease.deployment_id, &held.awakeable_id));
        self.waiters.retain(|waiter| !given_back(&waiter.deployment_id, &waiter.awakeable_id));
        self.grant_waiting()
    }

    fn expire(&mut self, expired: &Lease) -> Vec<Granted> {
        self.holders.retain(|held| {
            held.lease.deployment_id != expired.deployment_id || held.lease.grant != expired.grant
        });
        self.grant_waiting()
    }

    fn grant_waiting(&mut self) -> Vec<Granted> {
        let mut granted = Vec::new();
        while self.has_room() && !self.waiters.is_empty() {
            let to = self.waiters.remove(self.next_waiter());
            let grant = self.grant(&to);
            granted.push(Granted { to, grant });
        }
        granted
    }

    fn next_waiter(&self) -> usize {
        if self.production_run >= PRODUCTION_RUN {
            return 0;
        }
        self.waiters.iter().position(|waiter| waiter.production).unwrap_or(0)
    }

    fn grant(&mut self, request: &AcquireRequest) -> SlotGrant {
        self.grants += 1;
        self.production_run = if request.production { self.production_run + 1 } else { 0 };
        if self.production_run > PRODUCTION_RUN {
            self.production_run = 0;
        }
        let grant = SlotGrant { number: self.grants };
        let lease = Lease { deployment_id: request.deployment_id.clone(), grant };
        self.holders.push(Held { lease, awakeable_id: request.awakeable_id.clone() });
        grant
    }

    fn has_room(&self) -> bool {
        self.holders.len() < self.limit as usize
    }

    fn held_by(&mut self, id: &DeploymentId) -> Option<&mut Held> {
        self.holders.iter_mut().find(|held| held.lease.deployment_id == *id)
    }
}

/// The build slots of a workspace.
pub struct BuildSlots;

#[restate_sdk::object]
impl BuildSlots {
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
            let decision = SlotDecision::Superseded(request.deployment_id.clone());
            ctx.resolve_awakeable(&stale.awakeable_id, Json(decision));
        }
        let acquired = slots.acquire(request.clone());
        if let Acquired::Granted(grant) = &acquired {
            schedule_expiry(&ctx, &request, *grant);
        }
        ctx.set(STATE, Json(slots));
        Ok(Json(acquired))
    }

    /// Gives back the slot or leaves the queue; neither is fine too.
    #[handler]
    async fn release(&self, ctx: ObjectContext<'_>, holder: Json<SlotHolder>) -> HandlerResult<()> {
        let mut slots = load(&ctx).await?;
        let granted = slots.release(&holder.0);
        announce(&ctx, granted);
        ctx.set(STATE, Json(slots));
        Ok(())
    }

    /// Takes back the slot of a lease that ran out.
    #[handler]
    async fn expire(&self, ctx: ObjectContext<'_>, lease: Json<Lease>) -> HandlerResult<()> {
        let mut slots = load(&ctx).await?;
        let granted = slots.expire(&lease.0);
        announce(&ctx, granted);
        ctx.set(STATE, Json(slots));
        Ok(())
    }
}

async fn load(ctx: &ObjectContext<'_>) -> Result<Slots, TerminalError> {
    Ok(ctx.get::<Json<Slots>>(STATE).await?.map(|Json(slots)| slots).unwrap_or_default())
}

fn announce(ctx: &ObjectContext<'_>, granted: Vec<Granted>) {
    for Granted { to, grant } in granted {
        ctx.resolve_awakeable(&to.awakeable_id, Json(SlotDecision::Granted(grant)));
        schedule_expiry(ctx, &to, grant);
    }
}

fn schedule_expiry(ctx: &ObjectContext<'_>, request: &AcquireRequest, grant: SlotGrant) {
    let lease = Lease { deployment_id: request.deployment_id.clone(), grant };
    ctx.object_client::<BuildSlotsClient>(ctx.key())
        .expire(Json(lease))
        .send_after(Duration::from_millis(request.lease_ms));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &DeploymentId, production: bool) -> AcquireRequest {
        AcquireRequest {
            deployment_id: id.clone(),
            awakeable_id: format!("wait-{id}"),
            production,
            stream: None,
            limit: 1,
            lease_ms: 1000,
        }
    }

    /// Whatever the deployment has taken.
    fn whole(id: &DeploymentId) -> SlotHolder {
        SlotHolder { deployment_id: id.clone(), awakeable_id: None }
    }

    fn full() -> (Slots, DeploymentId) {
        let (mut slots, holder) = (Slots::default(), DeploymentId::generate());
        assert!(matches!(slots.acquire(request(&holder, false)), Acquired::Granted(_)));
        (slots, holder)
    }

    #[test]
    fn never_more_holders_than_the_limit() {
        let (mut slots, holder) = full();
        let second = DeploymentId::generate();
        assert_eq!(slots.acquire(request(&second, false)), Acquired::Queued(1));
        let granted = slots.release(&whole(&holder));
        assert_eq!(granted[0].to.deployment_id, second);
        assert_eq!(slots.holders.len(), 1);
    }

    #[test]
    fn a_repeated_acquire_keeps_the_grant() {
        let (mut slots, holder) = full();
        let Acquired::Granted(again) = slots.acquire(request(&holder, false)) else {
            panic!("held")
        };
        assert_eq!((again.number, slots.holders.len()), (1, 1));
    }

    #[test]
    fn a_repeated_wait_replaces_the_awakeable() {
        let (mut slots, holder) = full();
        let second = DeploymentId::generate();
        slots.acquire(request(&second, false));
        slots.acquire(AcquireRequest {
            awakeable_id: "newer".to_owned(),
            ..request(&second, false)
        });
        let granted = slots.release(&whole(&holder));
        assert_eq!(granted.len(), 1);
        assert_eq!(granted[0].to.awakeable_id, "newer");
    }

    #[test]
    fn production_goes_first_and_nobody_starves() {
        let (mut slots, mut holder) = full();
        let preview = DeploymentId::generate();
        slots.acquire(request(&preview, false));
        for _ in 0..10 {
            slots.acquire(request(&DeploymentId::generate(), true));
        }
        let mut order = Vec::new();
        for _ in 0..5 {
            let granted = slots.release(&whole(&holder));
            holder = granted[0].to.deployment_id.clone();
            order.push(granted[0].to.production);
        }
        assert_eq!(order, [true, true, true, false, true]);
    }

    #[test]
    fn a_newer_deployment_takes_the_place_of_queued_ones_of_its_branch_only() {
        let (mut slots, _) = full();
        let environment_id = EnvironmentId::generate();
        let mut wait = |branch: &str, sequence| {
            let request = AcquireRequest {
                stream: Some(BuildStream {
                    environment_id: environment_id.clone(),
                    branch: branch.to_owned(),
                    sequence,
                }),
                ..request(&DeploymentId::generate(), false)
            };
            let superseded = slots.supersede(&request);
            slots.acquire(request.clone());
            (request, superseded)
        };
        let (older, none) = wait("main", 1);
        assert!(none.is_empty());
        assert!(wait("feature", 2).1.is_empty(), "another branch");
        let (newer, superseded) = wait("main", 4);
        assert_eq!(superseded.len(), 1);
        assert_eq!(superseded[0].deployment_id, older.deployment_id);
        assert!(wait("main", 3).1.is_empty(), "an older one that is retried late");
        let waiting: Vec<_> = slots.waiters.iter().map(|waiter| &waiter.deployment_id).collect();
        assert!(waiting.contains(&&newer.deployment_id));
        assert_eq!(waiting.len(), 3);
    }

    #[test]
    fn an_expired_lease_of_an_earlier_grant_takes_nothing() {
        let (mut slots, holder) = full();
        let stale = Lease { deployment_id: holder.clone(), grant: SlotGrant { number: 1 } };
        slots.release(&whole(&holder));
        slots.acquire(request(&holder, false));
        assert!(slots.expire(&stale).is_empty());
        assert_eq!(slots.holders.len(), 1);
    }

    #[test]
    fn the_queue_is_shown_in_the_order_it_is_served_in() {
        let (mut slots, holder) = full();
        let ids: Vec<_> = (0..8).map(|_| DeploymentId::generate()).collect();
        for (at, id) in ids.iter().enumerate() {
            slots.acquire(request(id, at % 2 == 1));
        }
        let shown = queue(&serde_json::to_vec(&slots).unwrap()).unwrap();
        let (mut served, mut holder) = (Vec::new(), holder);
        while let Some(granted) = slots.release(&whole(&holder)).pop() {
            holder = granted.to.deployment_id;
            served.push(holder.clone());
        }
        assert_eq!(shown, served);
        assert_eq!(shown.len(), ids.len());
    }

    /// A wait that was cancelled hears of its end late.
    #[test]
    fn an_earlier_wait_gives_back_nothing_of_a_later_one() {
        let (mut slots, holder) = full();
        let wait = |id: &DeploymentId, wait: &str| SlotHolder {
            deployment_id: id.clone(),
            awakeable_id: Some(wait.to_owned()),
        };
        let again = AcquireRequest { awakeable_id: "later".to_owned(), ..request(&holder, false) };
        slots.acquire(again);
        slots.release(&wait(&holder, &format!("wait-{holder}")));
        assert_eq!(slots.holders.len(), 1);
        slots.release(&wait(&holder, "later"));
        assert!(slots.holders.is_empty());
    }

    #[test]
    fn a_cancelled_waiter_leaves_the_queue() {
        let (mut slots, holder) = full();
        let second = DeploymentId::generate();
        slots.acquire(request(&second, false));
        assert!(slots.release(&whole(&second)).is_empty());
        assert!(slots.release(&whole(&holder)).is_empty());
    }
}
