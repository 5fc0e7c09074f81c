//! Who asks deployments for anything: gateways that route requests to them, and
//! people who run commands in them. What nobody asks for is evicted, and what
//! requests wait for is started again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use launchway_workflows::{
    ids::DeploymentId,
    ports::{Idle, StoreError},
};

use crate::{
    restate::{RestateError, ingress::IngressClient},
    store::Store,
};

/// Deployments that one look evicts: the others are found by the next one.
const EVICTED_AT_ONCE: u32 = 100;
/// A gateway asks again and again while requests wait; a start is sent once in this
/// time.
const START_AGAIN: Duration = Duration::from_secs(2);

/// When what is evicted, validated by the configuration.
#[derive(Debug, Clone, Copy)]
pub struct IdleSettings {
    /// Without requests for this long a deployment that says nothing is evicted,
    /// except in production; zero: never.
    pub timeout: Duration,
    /// How often gateways tell what has requests.
    pub report_every: Duration,
}

/// See the module.
pub struct Demand {
    store: Store,
    ingress: IngressClient,
    settings: IdleSettings,
    /// Deployments in which people run something, and how many times.
    attended: Mutex<HashMap<DeploymentId, usize>>,
    /// When starts were sent.
    started: Mutex<HashMap<DeploymentId, Instant>>,
}

/// Somebody runs a command in a deployment; dropped when it has ended.
pub(super) struct Attended {
    demand: Arc<Demand>,
    id: DeploymentId,
}

impl Drop for Attended {
    fn drop(&mut self) {
        let mut attended = self.demand.attended();
        if let Some(times) = attended.get_mut(&self.id) {
            *times -= 1;
            if *times == 0 {
                attended.remove(&self.id);
            }
        }
    }
}

/// Neither could be told.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum LookError {
    Store(#[from] StoreError),
    Restate(#[from] RestateError),
}

impl Demand {
    /// Nothing is evicted before [`Demand::evict_idle`] runs.
    pub fn new(store: Store, ingress: IngressClient, settings: IdleSettings) -> Arc<Self> {
        let (attended, started) = (Mutex::default(), Mutex::default());
        Arc::new(Self { store, ingress, settings, attended, started })
    }

    /// Evicts what is idle, forever. Only while gateways are connected to this
    /// process: without them it would take silence for want of requests.
    pub async fn evict_idle(self: Arc<Self>, is_watched: impl Fn() -> bool) {
        loop {
            tokio::time::sleep(self.settings.report_every).await;
            if is_watched()
                && let Err(error) = self.look().await
            {
                // Either may be restarting: said by those who depend on it.
                tracing::debug!(%error, "cannot look for idle deployments now");
            }
        }
    }

    async fn look(&self) -> Result<(), LookError> {
        let attended: Vec<_> = self.attended().keys().cloned().collect();
        self.store.note_active(&attended).await?;
        // Two reports may be under way.
        let slack = self.settings.report_every * 2;
        for idle in self.store.idle(self.settings.timeout, slack, EVICTED_AT_ONCE).await? {
            let Idle { deployment_id: id, active_at, stops } = &idle;
            let key = format!("evict-{id}-{stops}-{active_at}");
            self.ingress.send_once(&format!("Eviction/{id}/evict"), &key, &idle).await?;
        }
        Ok(())
    }

    /// What a gateway has told: which deployments have requests, and for which
    /// evicted ones requests wait.
    pub(super) async fn reported(&self, active: Vec<String>, wanted: Vec<String>) {
        let ids = |texts: Vec<String>| texts.into_iter().filter_map(|text| text.parse().ok());
        let active: Vec<DeploymentId> = ids(active).collect();
        if let Err(error) = self.store.note_active(&active).await {
            tracing::warn!(%error, "cannot note which deployments have requests");
        }
        for id in ids(wanted) {
            if let Err(error) = self.start(&id).await {
                // The gateway asks again as long as the request waits.
                tracing::warn!(deployment = %id, %error, "cannot be started yet");
            }
        }
    }

    async fn start(&self, id: &DeploymentId) -> Result<(), LookError> {
        if self.store.eviction_of(id).await?.is_none() || !self.is_first(id) {
            return Ok(());
        }
        Ok(self.ingress.send(&format!("Eviction/{id}/start")).await?)
    }

    fn is_first(&self, id: &DeploymentId) -> bool {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.retain(|_, at| at.elapsed() < START_AGAIN);
        started.insert(id.clone(), Instant::now()).is_none()
    }

    /// As long as the result is kept the deployment is not idle.
    pub(super) fn attend(self: &Arc<Self>, id: &DeploymentId) -> Attended {
        *self.attended().entry(id.clone()).or_default() += 1;
        Attended { demand: Arc::clone(self), id: id.clone() }
    }

    fn attended(&self) -> MutexGuard<'_, HashMap<DeploymentId, usize>> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
