//! What every handler shares: the ports and the limits.

use std::{sync::Arc, time::Duration};

use super::{janitor::Retention, readiness::ReadinessWatcher};
use crate::ports::{
    Archive, Builder, ContextStore, Evictions, Invocations, OpenapiScraper, RouteAnnouncer,
    Runtime, Store, Unsealer,
};

/// Limits and names, validated by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Domain under which deployments are reachable, e.g. `localhost`.
    pub apex: String,
    /// Longest build.
    pub build_time_limit: Duration,
    /// Bytes of a build's output that are kept.
    pub build_max_output: u64,
    /// Concurrent builds of one workspace.
    pub build_concurrency: u32,
    /// Longest wait for a build slot.
    pub queue_time_limit: Duration,
    /// From the start of the instances until they must be ready.
    pub ready_timeout: Duration,
    /// Lifetime of the URL the builder reads the context from.
    pub context_url_lifetime: Duration,
    /// From losing the environment's domain until the instances are stopped.
    pub retire_after: Duration,
    /// Previous deployments of an environment that stay running.
    pub keep_running: u32,
    /// How often gateways tell which deployments have requests.
    pub report_every: Duration,
    /// Bytes that must be free where builds are kept.
    pub build_min_free: u64,
    /// What is kept for how long.
    pub retention: Retention,
}

/// The ports behind the handlers.
pub struct Core {
    /// Database.
    pub store: Arc<dyn Store>,
    /// The same, for what is past its retention.
    pub archive: Arc<dyn Archive>,
    /// The same, for what nobody asks for anything.
    pub evictions: Arc<dyn Evictions>,
    /// Object store.
    pub contexts: Arc<dyn ContextStore>,
    /// Builder.
    pub builder: Arc<dyn Builder>,
    /// Opens build secrets.
    pub unsealer: Arc<dyn Unsealer>,
    /// krane.
    pub runtime: Arc<dyn Runtime>,
    /// Route feed.
    pub announcer: Arc<dyn RouteAnnouncer>,
    /// Restate's view of invocations.
    pub invocations: Arc<dyn Invocations>,
    /// OpenAPI descriptions.
    pub scraper: Arc<dyn OpenapiScraper>,
    /// Resolves waits for readiness.
    pub readiness: Arc<ReadinessWatcher>,
    /// Limits.
    pub settings: Settings,
}
