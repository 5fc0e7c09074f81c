//! The state of a workspace's slots, and every change of it as a function.

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AcquireRequest, Acquired, SlotClaim, SlotGrant, SlotHolder, Sweep};
use crate::ids::DeploymentId;

/// After this many grants to production in a row, the oldest waiter goes
/// first: nobody starves.
const PRODUCTION_RUN: u32 = 3;

/// Sweeps in the time of one lease: a slot is taken back after at least a lease
/// and at most a lease and one sweep.
const SWEEPS_PER_LEASE: u32 = 4;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Slots {
    limit: u32,
    grants: u64,
    production_run: u32,
    holders: Vec<Held>,
    waiters: Vec<AcquireRequest>,
    /// A sweep is under way to this object.
    #[serde(default)]
    sweeping: bool,
    /// The number of the next sweep.
    #[serde(default)]
    sweep: u64,
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
pub(super) struct Granted {
    pub(super) to: AcquireRequest,
    pub(super) grant: SlotGrant,
}

impl Slots {
    /// A slot, if one is free and nobody waits for it. Repeating it changes
    /// nothing.
    pub(super) fn try_acquire(
        &mut self,
        claim: &SlotClaim,
        wait: Option<&String>,
    ) -> Option<SlotGrant> {
        self.limit = claim.limit.max(1);
        if let Some(held) = self.held_by(&claim.deployment_id) {
            held.awakeable_id = wait.cloned();
            return Some(held.grant);
        }
        let free = self.waiters.is_empty() && self.has_room();
        free.then(|| self.grant(claim, wait.cloned()))
    }

    pub(super) fn acquire(&mut self, request: AcquireRequest) -> Acquired {
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
    pub(super) fn supersede(&mut self, newer: &AcquireRequest) -> Vec<AcquireRequest> {
        let Some(stream) = &newer.stream else { return Vec::new() };
        let stale = |waiter: &AcquireRequest| {
            waiter.stream.as_ref().is_some_and(|other| stream.supersedes(other))
        };
        let (superseded, waiters) = std::mem::take(&mut self.waiters).into_iter().partition(stale);
        self.waiters = waiters;
        superseded
    }

    pub(super) fn release(&mut self, holder: &SlotHolder) -> Vec<Granted> {
        let given_back = |id: &DeploymentId, wait: Option<&String>| {
            *id == holder.deployment_id
                && holder.awakeable_id.as_ref().is_none_or(|only| Some(only) == wait)
        };
        self.holders.retain(|held| !given_back(&held.deployment_id, held.awakeable_id.as_ref()));
        self.waiters
            .retain(|waiter| !given_back(&waiter.claim.deployment_id, Some(&waiter.awakeable_id)));
        self.grant_waiting()
    }

    /// Takes back the slots that have been held for longer than a lease. `None`: the
    /// sweep of this number has been.
    pub(super) fn sweep(&mut self, sweep: Sweep) -> Option<Vec<Granted>> {
        if sweep.number != self.sweep {
            return None;
        }
        self.sweep += 1;
        self.sweeping = false;
        for held in &mut self.holders {
            held.sweeps += 1;
        }
        self.holders.retain(|held| held.sweeps <= SWEEPS_PER_LEASE);
        Some(self.grant_waiting())
    }

    /// Sends a sweep though one should be on its way.
    pub(super) fn sweep_again(&mut self) {
        self.sweeping = false;
    }

    /// Which sweep to send after how long; `None`: it needs none, or one is on its
    /// way.
    pub(super) fn next_sweep(&mut self) -> Option<(Sweep, Duration)> {
        let needed = !self.holders.is_empty() && !self.sweeping;
        self.sweeping |= needed;
        let delay = (self.lease_ms / u64::from(SWEEPS_PER_LEASE)).max(1);
        needed.then(|| (Sweep { number: self.sweep }, Duration::from_millis(delay)))
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
