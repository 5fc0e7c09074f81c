//! The Restate services. Calls go one way only:
//! `Deployments → Deployment | Release | Scale → Eviction → Waits | BuildSlots | Routing |
//! Retirement`.

// The SDK's macros generate clients without documentation.
#![allow(missing_docs)]

pub mod build_slots;
pub mod deployment;
pub mod deployments;
pub mod eviction;
pub mod janitor;
pub mod release;
pub mod retirement;
pub mod routing;
pub mod scale;
pub mod waits;

use std::{sync::Arc, time::Duration};

use restate_sdk::{
    endpoint::{Builder, ServiceOptions},
    service::{IntoServiceDefinition, ServiceDefinition},
};

use crate::engine::core::Core;

/// Version of the journals: the order, names and kinds of every handler's
/// entries. It ends the worker's URI, so that Restate never replays a journal
/// on code that would write another one.
const JOURNAL_VERSION: u32 = 5;

/// See [`JOURNAL_VERSION`]. Tests of upgrades name another one.
pub fn journal_version() -> u32 {
    #[cfg(feature = "failpoints")]
    if let Some(version) =
        std::env::var("LAUNCHWAY_JOURNAL_VERSION").ok().and_then(|v| v.parse().ok())
    {
        return version;
    }
    JOURNAL_VERSION
}

/// Journals and idempotency keys outlive the window for retries.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// An invocation that cannot go on is tried again at least this often, so
/// that it resumes within a second of its cause being gone.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Far more than any outage: a paused invocation would need a person.
const MAX_ATTEMPTS: u64 = 1_000_000;
/// Between the end of a build's own limit and Restate ending it from above.
const HELD_MARGIN: Duration = Duration::from_secs(300);

fn options() -> ServiceOptions {
    ServiceOptions::new()
        .journal_retention(RETENTION)
        .idempotency_retention(RETENTION)
        .retry_policy_initial_interval(Duration::from_millis(50))
        .retry_policy_exponentiation_factor(2.0)
        .retry_policy_max_interval(MAX_RETRY_INTERVAL)
        .retry_policy_max_attempts(MAX_ATTEMPTS)
        .retry_policy_pause_on_max_attempts()
}

/// All services, bound to `core`. The caller adds the identity key and builds.
pub fn bind(endpoint: Builder, core: &Arc<Core>) -> Builder {
    let longest = core.settings.build_time_limit.max(deployment::RELEASE_LIMIT);
    let held = options().inactivity_timeout(longest + HELD_MARGIN).abort_timeout(HELD_MARGIN);
    let internal = || options().ingress_private(true);
    let core = || Arc::clone(core);
    endpoint
        .bind(with(deployments::Deployments::new(core()), options()))
        .bind(with(deployment::Deployment::new(core()), held))
        .bind(with(waits::Waits::new(core()), internal()))
        .bind(with(build_slots::BuildSlots, internal()))
        .bind(with(routing::Routing::new(core()), internal()))
        .bind(with(release::Release::new(core()), options()))
        .bind(with(scale::Scale::new(core()), options()))
        .bind(with(eviction::Eviction::new(core()), options()))
        .bind(with(retirement::Retirement::new(core()), options()))
        .bind(with(janitor::Janitor::new(core()), options()))
}

fn with(service: impl IntoServiceDefinition, options: ServiceOptions) -> ServiceDefinition {
    service.into_service_definition().options(options)
}
