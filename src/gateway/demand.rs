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

/// Requests that wait for a start: of all deployments together, and of one.
const MAX_WAITING: usize = 1000;
const MAX_WAITING_FOR_ONE: usize = 100;
/// Where an instance is may come a moment after that it is ready, or that another one
/// has ended.
const ARRIVAL: Duration = Duration::from_secs(1);
/// A wish may get lost with a connection to the control plane. Whoever comes after a
/// start that failed waits as long for the next one to begin.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Whether anything was asked of one deployment; shared by all its routes, and
/// handed on from one table to the next.
#[derive(Debug)]
pub(super) struct Activity {
    asked: AtomicBool,
    /// For requests that wait for its start.
    places: Semaphore,
}

impl Activity {
    fn new() -> Self {
        Self { asked: AtomicBool::new(false), places: Semaphore::new(MAX_WAITING_FOR_ONE) }
    }

    /// Called by every request: a write only where it changes something, because
    /// the workers share this.
    pub fn note(&self) {
        if !self.asked.load(Relaxed) {
            self.asked.store(true, Relaxed);
        }
    }

    fn take(&self) -> bool {
        self.asked.load(Relaxed) && self.asked.swap(false, Relaxed)
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
        let fresh = Arc::new(Activity::new());
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

/// Whether there is somebody to send a request to, or nobody ever will be.
pub(super) fn is_decided(route: &Route) -> bool {
    match route.spec.state {
        RouteState::Serving => !route.upstreams.is_empty(),
        RouteState::Evicted { .. } => false,
        RouteState::Retired => true,
    }
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

/// The route as soon as its deployment has an instance to send the request to, or has
/// had none for a moment although it serves. Not a byte of the request's body is read
/// meanwhile.
pub(super) async fn started(gateway: &Gateway, route: &Arc<Route>) -> Result<Arc<Route>, Fault> {
    let places = (gateway.wanted.places.try_acquire(), route.activity.places.try_acquire());
    let (Ok(_one), Ok(_of_this)) = places else {
        return match route.spec.state {
            RouteState::Evicted { .. } => Err(Fault::Crowded),
            RouteState::Serving | RouteState::Retired => Ok(Arc::clone(route)),
        };
    };
    let not_started = || Fault::NotStarted { deployment_id: route.spec.deployment_id.clone() };
    let mut tables = gateway.changed.subscribe();
    let begun = Instant::now();
    let mut deadline;
    let mut starting = false;
    let mut empty_since = None;
    loop {
        // Subscribed before: a table that comes from here on is not missed.
        match gateway.table.load().find(&route.spec.host) {
            None => return Err(Fault::UnknownHost),
            Some(now) => match now.spec.state {
                RouteState::Evicted { start_failed: true } if starting => {
                    return Err(not_started());
                }
                RouteState::Evicted { start_failed } => {
                    (starting, empty_since) = (!start_failed, None);
                    let patience = if starting { gateway.config.start_wait } else { ASK_AGAIN };
                    deadline = begun + patience.min(gateway.config.start_wait);
                    gateway.wanted.ask(&now.spec.deployment_id);
                }
                RouteState::Serving if now.upstreams.is_empty() => {
                    deadline = *empty_since.get_or_insert_with(Instant::now) + ARRIVAL;
                    if Instant::now() >= deadline {
                        return Ok(Arc::clone(now));
                    }
                }
                RouteState::Serving | RouteState::Retired => return Ok(Arc::clone(now)),
            },
        }
        let now = Instant::now();
        if now >= deadline && empty_since.is_none() {
            return Err(not_started());
        }
        tokio::select! {
            _ = timeout_at(deadline.min(now + ASK_AGAIN), tables.changed()) => {}
            () = gateway.draining.cancelled() => return match empty_since {
                None => Err(not_started()),
                Some(_) => Ok(Arc::clone(route)),
            },
        }
    }
}
