use super::*;
use crate::{ids::EnvironmentId, services::build_slots::BuildStream};

const LEASE_MS: u64 = 1000;

fn request(id: &DeploymentId, production: bool) -> AcquireRequest {
    let claim = SlotClaim { deployment_id: id.clone(), production, limit: 1, lease_ms: LEASE_MS };
    AcquireRequest { claim, awakeable_id: format!("wait-{id}"), stream: None }
}

/// Whatever the deployment has taken.
fn whole(id: &DeploymentId) -> SlotHolder {
    SlotHolder { deployment_id: id.clone(), awakeable_id: None }
}

/// The sweep that is due.
fn swept(slots: &mut Slots) -> Vec<Granted> {
    slots.sweep(Sweep { number: slots.sweep }).unwrap()
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
    let Acquired::Granted(again) = slots.acquire(request(&holder, false)) else { panic!("held") };
    assert_eq!((again.number, slots.holders.len()), (1, 1));
}

#[test]
fn a_repeated_wait_replaces_the_awakeable() {
    let (mut slots, holder) = full();
    let second = DeploymentId::generate();
    slots.acquire(request(&second, false));
    slots.acquire(AcquireRequest { awakeable_id: "newer".to_owned(), ..request(&second, false) });
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
    let waiting: Vec<_> = slots.waiters.iter().map(|waiter| &waiter.claim.deployment_id).collect();
    assert!(waiting.contains(&&newer.claim.deployment_id));
    assert_eq!(waiting.len(), 3);
}

#[test]
fn a_slot_is_taken_back_after_its_lease_and_not_before() {
    let (mut slots, holder) = full();
    let waiting = DeploymentId::generate();
    slots.acquire(request(&waiting, false));
    for _ in 0..SWEEPS_PER_LEASE {
        assert!(swept(&mut slots).is_empty());
    }
    // Whoever has given it back and got it again has a lease of its own.
    slots.release(&whole(&holder));
    assert!(swept(&mut slots).is_empty());
    slots.acquire(request(&holder, false));
    for _ in 1..SWEEPS_PER_LEASE {
        assert!(swept(&mut slots).is_empty());
    }
    let granted = swept(&mut slots);
    assert_eq!(granted[0].to.claim.deployment_id, holder);
}

#[test]
fn one_sweep_is_under_way_while_slots_are_held_and_none_otherwise() {
    let (mut slots, holder) = full();
    let pause = Duration::from_millis(LEASE_MS / u64::from(SWEEPS_PER_LEASE));
    assert_eq!(slots.next_sweep(), Some((Sweep { number: 0 }, pause)));
    assert_eq!(slots.next_sweep(), None, "it is on its way");
    swept(&mut slots);
    assert_eq!(slots.next_sweep(), Some((Sweep { number: 1 }, pause)));
    swept(&mut slots);
    slots.release(&whole(&holder));
    assert_eq!(slots.next_sweep(), None, "nobody holds anything");
}

#[test]
fn a_sweep_that_was_lost_is_sent_again_and_two_of_a_number_count_once() {
    let (mut slots, _) = full();
    let (first, _) = slots.next_sweep().unwrap();
    slots.sweep_again();
    let (again, _) = slots.next_sweep().unwrap();
    assert_eq!(again, first);
    assert!(slots.sweep(again).is_some());
    assert!(slots.sweep(first).is_none());
    assert_eq!(slots.holders[0].sweeps, 1);
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
