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
    ports::{EvictionState, Idle, StoreError},
    services::eviction::StartRequest,
};

use crate::{
    restate::{RestateError, ingress::IngressClient},
    store::{Silence, Store, now_ms},
};

/// Deployments that one look evicts: the others are found by the next one.
const EVICTED_AT_ONCE: u32 = 100;
/// A gateway asks again and again while requests wait; a start is sent once in this
/// time.
const START_AGAIN: Duration = Duration::from_secs(2);
/// Milliseconds from a start that has failed until the next one.
const AFTER_FAILURE: i64 = 10_000;
/// Milliseconds in which a call is sent once. In the next ones it may be again: the
/// first may have been ended from outside.
const SENT_ONCE_IN: i64 = 60_000;

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
    watch: Mutex<Watch>,
    /// Deployments in which people run something, and how many times.
    attended: Mutex<HashMap<DeploymentId, usize>>,
    /// When starts were sent.
    started: Mutex<HashMap<DeploymentId, Instant>>,
}

/// Who tells which deployments have requests.
struct Watch {
    /// Gateways that are connected and tell.
    telling: usize,
    /// Older ones, which do not.
    silent: usize,
    /// Since when they are these, in milliseconds since the epoch.
    since: i64,
}

/// A gateway is connected, until this is dropped.
pub(super) struct Watching {
    demand: Arc<Demand>,
    tells: bool,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.demand.change_watch(|watch| *watch.count(self.tells) -= 1);
    }
}

impl Watch {
    fn count(&mut self, tells: bool) -> &mut usize {
        if tells { &mut self.telling } else { &mut self.silent }
    }
}

/// Somebody runs a command in a deployment; dropped when it has ended.
pub(super) struct Attended {
    demand: Arc<Demand>,
    id: DeploymentId,
}

impl Drop for Attended {
    fn drop(&mut self) {
        let mut attended = locked(&self.demand.attended);
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
        let watch = Mutex::new(Watch { telling: 0, silent: 0, since: now_ms() });
        let (attended, started) = (Mutex::default(), Mutex::default());
        Arc::new(Self { store, ingress, settings, watch, attended, started })
    }

    /// Evicts what is idle, forever.
    pub async fn evict_idle(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.settings.report_every).await;
            if let Err(error) = self.look().await {
                // Either may be restarting: said by those who depend on it.
                tracing::debug!(%error, "cannot look for idle deployments now");
            }
        }
    }

    async fn look(&self) -> Result<(), LookError> {
        let attended: Vec<_> = locked(&self.attended).keys().cloned().collect();
        self.store.note_active(&attended, self.settings.timeout).await?;
        for left in self.store.left_behind(EVICTED_AT_ONCE).await? {
            let Idle { deployment_id: id, stops, .. } = left;
            tracing::warn!(deployment = %id, "nobody stops or starts it any more; starting it");
            self.send_start(&id, stops).await?;
        }
        let Some(watched_since) = self.watched_since() else { return Ok(()) };
        let silence = Silence {
            default: self.settings.timeout,
            // Two reports may be under way.
            slack: self.settings.report_every * 2,
            watched_since,
        };
        for idle in self.store.idle(&silence, EVICTED_AT_ONCE).await? {
            let Idle { deployment_id: id, active_at, stops } = &idle;
            let key = once(&format!("evict-{id}-{stops}-{active_at}"));
            self.ingress.send_once(&format!("Eviction/{id}/evict"), &key, &idle).await?;
        }
        Ok(())
    }

    /// Of deployments, except of production, that say nothing of it.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// `None`: silence says nothing, for not every gateway would tell.
    fn watched_since(&self) -> Option<i64> {
        let watch = locked(&self.watch);
        (watch.telling > 0 && watch.silent == 0).then_some(watch.since)
    }

    fn change_watch(&self, change: impl FnOnce(&mut Watch)) {
        let mut watch = locked(&self.watch);
        change(&mut watch);
        // What others had to tell got lost with them.
        watch.since = now_ms();
    }

    /// A gateway is connected as long as the result is kept.
    pub(super) fn watched(self: &Arc<Self>, tells: bool) -> Watching {
        self.change_watch(|watch| *watch.count(tells) += 1);
        Watching { demand: Arc::clone(self), tells }
    }

    /// What a gateway has told: which deployments have requests, and for which
    /// evicted ones requests wait.
    pub(super) fn hear(self: &Arc<Self>, active: Vec<String>, wanted: Vec<String>) {
        let ids = |texts: Vec<String>| -> Vec<DeploymentId> {
            texts.into_iter().filter_map(|text| text.parse().ok()).collect()
        };
        let (mut active, wanted) = (ids(active), ids(wanted));
        let wanted: Vec<_> = wanted.into_iter().filter(|id| self.is_due(id)).collect();
        active.extend_from_slice(&wanted);
        if active.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        // The gateway's next report must not wait for a database.
        tokio::spawn(async move {
            if let Err(error) = this.store.note_active(&active, this.settings.timeout).await {
                tracing::warn!(%error, "cannot note which deployments have requests");
            }
            for id in wanted {
                if let Err(error) = this.start(&id).await {
                    // The gateway asks again as long as the request waits.
                    locked(&this.started).remove(&id);
                    tracing::warn!(deployment = %id, %error, "cannot be started yet");
                }
            }
        });
    }

    /// Whether its start may be sent again.
    fn is_due(&self, id: &DeploymentId) -> bool {
        let mut started = locked(&self.started);
        started.retain(|_, at| at.elapsed() < START_AGAIN);
        if started.contains_key(id) {
            return false;
        }
        started.insert(id.clone(), Instant::now());
        true
    }

    async fn start(&self, id: &DeploymentId) -> Result<(), LookError> {
        let Some((eviction, stops)) = self.store.eviction_of(id).await? else { return Ok(()) };
        let failed = eviction.start_failure.is_some();
        let too_soon = failed && now_ms() - eviction.since < AFTER_FAILURE;
        if eviction.state == EvictionState::Starting || too_soon {
            return Ok(());
        }
        self.send_start(id, stops).await
    }

    async fn send_start(&self, id: &DeploymentId, stops: i64) -> Result<(), LookError> {
        let key = once(&format!("start-{id}-{stops}"));
        let request = StartRequest { stops: Some(stops) };
        Ok(self.ingress.send_once(&format!("Eviction/{id}/start"), &key, &request).await?)
    }

    /// As long as the result is kept the deployment is not idle.
    pub(super) async fn attend(self: &Arc<Self>, id: &DeploymentId) -> Attended {
        *locked(&self.attended).entry(id.clone()).or_default() += 1;
        let attended = Attended { demand: Arc::clone(self), id: id.clone() };
        let noted = self.store.note_active(std::slice::from_ref(id), self.settings.timeout).await;
        if let Err(error) = noted {
            tracing::warn!(deployment = %id, %error, "cannot note that somebody runs a command in it");
        }
        attended
    }
}

/// A key under which a call is sent once in its time.
fn once(what: &str) -> String {
    format!("{what}-{}", now_ms() / SENT_ONCE_IN)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
