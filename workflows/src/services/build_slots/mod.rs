//! `BuildSlots`, a virtual object per workspace: who builds, who waits. Pure
//! state: it never waits for or runs anything.
//!
//! A lease has no clock, because pure state has none: while slots are held the
//! object sweeps itself a few times per lease, and a slot that has been there
//! for more sweeps than a lease has is taken back. One delayed message is under
//! way per workspace, not one per build.

use std::time::Duration;

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{DeploymentId, EnvironmentId},
    model::{DeploymentPlan, Purpose},
};

/// The one key of the object's state.
pub const STATE: &str = "slots";
/// After this many grants to production in a row, the oldest waiter goes
/// first: nobody starves.
const PRODUCTION_RUN: u32 = 3;

/// Sweeps in the time of one lease: a slot is taken back after at least a lease
/// and at most a lease and one sweep.
const SWEEPS_PER_LEASE: u32 = 4;

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

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Slots {
    limit: u32,
    grants: u64,
    production_run: u32,
    holders: Vec<Held>,
    waiters: Vec<AcquireRequest>,
    /// A sweep is under way to this object.
    #[serde(default)]
    sweeping: bool,
    /// Of the grant made last.
    #[serde(default)]
    lease_ms: u64,
}

/// A slot that is taken, and by which wait; `None`: without waiting.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    deployment_id: DeploymentId,
    grant: SlotGrant,
    awakeable_id: Option<String>,
    /// It has been there for so many sweeps.
    #[serde(default)]
    sweeps: u32,
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
        slots.grant(&next.claim, None);
        order.push(next.claim.deployment_id);
    }
    Ok(order)
}

/// A waiter that got its slot.
struct Granted {
    to: AcquireRequest,
    grant: SlotGrant,
}

impl Slots {
    /// A slot, if one is free and nobody waits for it. Repeating it changes
    /// nothing.
    fn try_acquire(&mut self, claim: &SlotClaim, wait: Option<&String>) -> Option<SlotGrant> {
        self.limit = claim.limit.max(1);
        if let Some(held) = self.held_by(&claim.deployment_id) {
            held.awakeable_id = wait.cloned();
            return Some(held.grant);
        }
        let free = self.waiters.is_empty() && self.has_room();
        free.then(|| self.grant(claim, wait.cloned()))
    }

    fn acquire(&mut self, request: AcquireRequest) -> Acquired {
        // A re-executed caller waits on another awakeable.
        let id = &request.claim.deployment_id;
        self.waiters.retain(|waiter| waiter.claim.deployment_id != *id);
        if let Some(grant) = self.try_acquire(&request.claim, Some(&request.awakeable_id)) {
            return Acquired::Granted(grant);
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
        let given_back = |id: &DeploymentId, wait: Option<&String>| {
            *id == holder.deployment_id
                && holder.awakeable_id.as_ref().is_none_or(|only| Some(only) == wait)
        };
        self.holders.retain(|held| !given_back(&held.deployment_id, held.awakeable_id.as_ref()));
        self.waiters
            .retain(|waiter| !given_back(&waiter.claim.deployment_id, Some(&waiter.awakeable_id)));
        self.grant_waiting()
    }

    /// Takes back the slots that have been held for longer than a lease.
    fn sweep(&mut self) -> Vec<Granted> {
        for held in &mut self.holders {
            held.sweeps += 1;
        }
        self.holders.retain(|held| held.sweeps <= SWEEPS_PER_LEASE);
        self.grant_waiting()
    }

    /// After how many milliseconds to sweep next; `None`: it needs no sweep, or
    /// one is on its way.
    fn next_sweep(&mut self) -> Option<u64> {
        let needed = !self.holders.is_empty() && !self.sweeping;
        self.sweeping |= needed;
        needed.then(|| (self.lease_ms / u64::from(SWEEPS_PER_LEASE)).max(1))
    }

    fn grant_waiting(&mut self) -> Vec<Granted> {
        let mut granted = Vec::new();
        while self.has_room() && !self.waiters.is_empty() {
            let to = self.waiters.remove(self.next_waiter());
            let grant = self.grant(&to.claim, Some(to.awakeable_id.clone()));
            granted.push(Granted { to, grant });
        }
        granted
    }

    fn next_waiter(&self) -> usize {
        if self.production_run >= PRODUCTION_RUN {
            return 0;
        }
        self.waiters.iter().position(|waiter| waiter.claim.production).unwrap_or(0)
    }

    fn grant(&mut self, claim: &SlotClaim, awakeable_id: Option<String>) -> SlotGrant {
        self.grants += 1;
        self.lease_ms = claim.lease_ms;
        self.production_run = if claim.production { self.production_run + 1 } else { 0 };
        if self.production_run > PRODUCTION_RUN {
            self.production_run = 0;
        }
        let grant = SlotGrant { number: self.grants };
        let deployment_id = claim.deployment_id.clone();
        self.holders.push(Held { deployment_id, grant, awakeable_id, sweeps: 0 });
        grant
    }

    fn has_room(&self) -> bool {
        self.holders.len() < self.limit as usize
    }

    fn held_by(&mut self, id: &DeploymentId) -> Option<&mut Held> {
        self.holders.iter_mut().find(|held| held.deployment_id == *id)
    }
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
    async fn sweep(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let mut slots = load(&ctx).await?;
        slots.sweeping = false;
        let granted = slots.sweep();
        announce(&ctx, granted);
        store(&ctx, slots);
        Ok(())
    }
}

async fn load(ctx: &ObjectContext<'_>) -> Result<Slots, TerminalError> {
    Ok(ctx.get::<Json<Slots>>(STATE).await?.map(|Json(slots)| slots).unwrap_or_default())
}

fn store(ctx: &ObjectContext<'_>, mut slots: Slots) {
    if let Some(delay) = slots.next_sweep() {
        let itself = ctx.object_client::<BuildSlotsClient>(ctx.key());
        itself.sweep().send_after(Duration::from_millis(delay));
    }
    ctx.set(STATE, Json(slots));
}

fn announce(ctx: &ObjectContext<'_>, granted: Vec<Granted>) {
    for Granted { to, grant } in granted {
        ctx.resolve_awakeable(&to.awakeable_id, Json(SlotDecision::Granted(grant)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_MS: u64 = 1000;

    fn request(id: &DeploymentId, production: bool) -> AcquireRequest {
        let claim =
            SlotClaim { deployment_id: id.clone(), production, limit: 1, lease_ms: LEASE_MS };
        AcquireRequest { claim, awakeable_id: format!("wait-{id}"), stream: None }
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
        assert_eq!(granted[0].to.claim.deployment_id, second);
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
            holder = granted[0].to.claim.deployment_id.clone();
            order.push(granted[0].to.claim.production);
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
        assert_eq!(superseded[0].claim.deployment_id, older.claim.deployment_id);
        assert!(wait("main", 3).1.is_empty(), "an older one that is retried late");
        let waiting: Vec<_> =
            slots.waiters.iter().map(|waiter| &waiter.claim.deployment_id).collect();
        assert!(waiting.contains(&&newer.claim.deployment_id));
        assert_eq!(waiting.len(), 3);
    }

    #[test]
    fn a_slot_is_taken_back_after_its_lease_and_not_before() {
        let (mut slots, holder) = full();
        let waiting = DeploymentId::generate();
        slots.acquire(request(&waiting, false));
        for _ in 0..SWEEPS_PER_LEASE {
            assert!(slots.sweep().is_empty());
        }
        // Whoever has given it back and got it again has a lease of its own.
        slots.release(&whole(&holder));
        assert!(slots.sweep().is_empty());
        slots.acquire(request(&holder, false));
        for _ in 1..SWEEPS_PER_LEASE {
            assert!(slots.sweep().is_empty());
        }
        let granted = slots.sweep();
        assert_eq!(granted[0].to.claim.deployment_id, holder);
    }

    #[test]
    fn one_sweep_is_under_way_while_slots_are_held_and_none_otherwise() {
        let (mut slots, holder) = full();
        assert_eq!(slots.next_sweep(), Some(LEASE_MS / u64::from(SWEEPS_PER_LEASE)));
        assert_eq!(slots.next_sweep(), None, "it is on its way");
        slots.sweeping = false;
        slots.release(&whole(&holder));
        assert_eq!(slots.next_sweep(), None, "nobody holds anything");
    }

    #[test]
    fn who_does_not_wait_gets_a_free_slot_only_and_passes_nobody() {
        let (mut slots, holder) = full();
        let [second, third] = [(); 2].map(|()| DeploymentId::generate());
        let claim = |id: &DeploymentId| SlotClaim { limit: 2, ..request(id, true).claim };
        let granted = slots.try_acquire(&claim(&second), None).unwrap();
        assert_eq!(slots.try_acquire(&claim(&second), None), Some(granted), "again");
        assert_eq!(slots.try_acquire(&claim(&third), None), None, "both are taken");
        slots.acquire(AcquireRequest { claim: claim(&third), ..request(&third, false) });
        slots.limit = 3;
        let fourth = SlotClaim { limit: 3, ..claim(&DeploymentId::generate()) };
        assert_eq!(slots.try_acquire(&fourth, None), None, "somebody waits");
        assert_eq!(slots.release(&whole(&holder)).len(), 1);
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
            holder = granted.to.claim.deployment_id;
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
