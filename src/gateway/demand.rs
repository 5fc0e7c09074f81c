//! What is asked for: the control plane stops deployments that nobody asks for
//! anything, and starts them again for requests that wait here.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    Gateway,
    pages::Fault,
    table::{Route, RouteState, RouteTable},
};

/// Requests that wait for a start, of all deployments together.
const MAX_WAITING: usize = 1000;
/// A wish may get lost with a connection to the control plane.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Whether anything was asked of one deployment; shared by all its routes, and
/// handed on from one table to the next.
#[derive(Debug, Default)]
pub(super) struct Activity(AtomicBool);

impl Activity {
    /// Called by every request: a write only where it changes something, because
    /// the workers share this.
    pub fn note(&self) {
        if !self.0.load(Relaxed) {
            self.0.store(true, Relaxed);
        }
    }

    fn take(&self) -> bool {
        self.0.load(Relaxed) && self.0.swap(false, Relaxed)
    }
}

/// The activities of all deployments that have a route, by their id.
#[derive(Default)]
pub(super) struct Activities(HashMap<String, Weak<Activity>>);

impl Activities {
    pub fn of(&mut self, deployment_id: &str) -> Arc<Activity> {
        if let Some(known) = self.0.get(deployment_id).and_then(Weak::upgrade) {
            return known;
        }
        let fresh = Arc::new(Activity::default());
        self.0.insert(deployment_id.to_owned(), Arc::downgrade(&fresh));
        fresh
    }

    /// Forgets deployments without routes.
    pub fn sweep(&mut self) {
        self.0.retain(|_, activity| activity.strong_count() > 0);
    }
}

/// The deployments that have had requests since the last call, or have open ones.
pub(super) fn active(table: &RouteTable) -> Vec<String> {
    let asked = |route: &&Arc<Route>| {
        // Taken in any case: both are to be seen once.
        let noted = route.activity.take();
        noted || route.upstreams.iter().any(|upstream| upstream.in_flight() > 0)
    };
    let ids: BTreeSet<_> =
        table.routes().filter(asked).map(|route| route.spec.deployment_id.clone()).collect();
    ids.into_iter().collect()
}

/// Evicted deployments that requests wait for.
pub(super) struct Wanted {
    ids: Mutex<BTreeSet<String>>,
    /// There are some.
    pub asked: Notify,
    places: Semaphore,
}

impl Wanted {
    pub fn new() -> Self {
        Self { ids: Mutex::default(), asked: Notify::new(), places: Semaphore::new(MAX_WAITING) }
    }

    /// Those that have been asked for since the last call.
    pub fn take(&self) -> Vec<String> {
        mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
            .into_iter()
            .collect()
    }

    fn ask(&self, deployment_id: &str) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.insert(deployment_id.to_owned());
        self.asked.notify_one();
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        MAX_WAITING.saturating_sub(self.places.available_permits())
    }
}

/// The route as soon as its deployment has an instance to send the request to. Not a
/// byte of the request's body is read meanwhile.
pub(super) async fn started(gateway: &Gateway, route: &Arc<Route>) -> Result<Arc<Route>, Fault> {
    let Ok(_place) = gateway.wanted.places.try_acquire() else { return Err(Fault::Crowded) };
    let mut tables = gateway.changed.subscribe();
    let deadline = Instant::now() + gateway.config.start_wait;
    loop {
        // Subscribed before: a table that comes from here on is not missed.
        match gateway.table.load().find(&route.spec.host) {
            None => return Err(Fault::UnknownHost),
            Some(now) if now.spec.state != RouteState::Evicted => return Ok(Arc::clone(now)),
            Some(now) => gateway.wanted.ask(&now.spec.deployment_id),
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(Fault::NotStarted { deployment_id: route.spec.deployment_id.clone() });
        }
        let _ = timeout_at(deadline.min(now + ASK_AGAIN), tables.changed()).await;
    }
}
