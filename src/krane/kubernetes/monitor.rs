//! Keeps the table true: follows the cluster's pods and workloads, asks what is
//! not ready, and starts over where a watch was lost.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use launchway_workflows::ids::DeploymentId;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{
    names, report,
    settings::Patience,
    state::{Kept, Key, Shown, State, deployment_of, key_of, uid_of},
};
use crate::krane::{
    probe::Prober,
    table::{Instances, Table},
};

/// First and longest pause before a watch that failed is begun again.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A watch is begun anew after this many seconds, and one that has died
/// unheard is noticed five later.
const WATCH_SECONDS: u32 = 60;

pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) prober: Prober,
    owner: String,
    table: Arc<Table>,
    state: Mutex<State>,
    /// Pods and workloads have been read once.
    read: Mutex<HashSet<&'static str>>,
    /// Counts the changes of the state.
    changes: watch::Sender<u64>,
    /// What is under way for a pod, so that it is not begun twice.
    pub(super) under_way: Mutex<HashSet<String>>,
}

/// See the module; cheap to clone. The watches end with the last clone.
#[derive(Clone)]
pub(super) struct Monitor(pub(super) Arc<Shared>);

impl Monitor {
    pub(super) fn start(
        client: Client,
        owner: &str,
        table: Arc<Table>,
        prober: Prober,
        patience: Patience,
    ) -> Self {
        let monitor = Self(Arc::new(Shared {
            client,
            prober,
            owner: owner.to_owned(),
            table,
            state: Mutex::new(State::new(patience)),
            read: Mutex::default(),
            changes: watch::channel(0).0,
            under_way: Mutex::default(),
        }));
        monitor.follow::<Pod>("pods");
        monitor.follow::<Deployment>("workloads");
        monitor
    }

    fn follow<K>(&self, kind: &'static str)
    where
        K: Kept + kube::Resource<DynamicType = ()> + DeserializeOwned + Send + 'static,
        K: std::fmt::Debug,
    {
        let config = watcher::Config::default()
            .labels(&names::installation_selector(&self.0.owner))
            .timeout(WATCH_SECONDS);
        let mut events = watcher(Api::<K>::all(self.0.client.clone()), config).boxed();
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let (mut pause, mut listed) = (PAUSE, Vec::new());
            while let Some(event) = events.next().await {
                let Some(shared) = weak.upgrade() else { return };
                match event {
                    Ok(event) => {
                        pause = PAUSE;
                        Self(shared).take(kind, event, &mut listed);
                    }
                    Err(error) => {
                        tracing::warn!(kind, error = %crate::http::deepest(&error), "a watch has failed; beginning it again");
                        drop(shared);
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
        });
    }

    /// Until all are listed, what was known stays: nobody loses traffic because
    /// a watch is read again.
    fn take<K: Kept>(&self, kind: &'static str, event: Event<K>, listed: &mut Vec<K>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => listed.push(object),
            Event::InitDone => {
                let touched = lock(&self.0.state).replace(std::mem::take(listed));
                for id in touched {
                    self.publish(&id);
                }
                self.has_read(kind);
            }
            Event::Apply(object) => {
                let id = deployment_of(&object);
                lock(&self.0.state).set(object);
                id.iter().for_each(|id| self.publish(id));
            }
            Event::Delete(object) => {
                lock(&self.0.state).remove(&object);
                deployment_of(&object).iter().for_each(|id| self.publish(id));
            }
        }
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn has_read(&self, kind: &'static str) {
        let mut read = lock(&self.0.read);
        read.insert(kind);
        if read.len() == 2 {
            self.0.table.mark_synced();
        }
    }

    /// Shows what is known of a deployment, and begins to find out what is not.
    pub(super) fn publish(&self, id: &DeploymentId) {
        let now = now_ms();
        let (pods, due) = {
            let mut state = lock(&self.0.state);
            let pods: Vec<Pod> = state.pods_of(id).into_iter().cloned().collect();
            for pod in &pods {
                if report::readiness(pod, now) == Ok(true) {
                    state.known(uid_of(pod)).was_ready = true;
                }
            }
            let Shown { environment: namespace, instances, due } = state.show(id, now);
            // With the state held: a later state is never shown before this one.
            self.0.table.set(id, Instances { namespace, instances: Arc::new(instances) });
            (pods, due)
        };
        if let Some(due) = due {
            self.publish_at(id, due, now);
        }
        for pod in pods {
            self.find_out(id, pod);
        }
    }

    /// Some things are a matter of time.
    fn publish_at(&self, id: &DeploymentId, due: i64, now: i64) {
        let what = format!("wait {id} {due}");
        if !lock(&self.0.under_way).insert(what.clone()) {
            return;
        }
        let rest = Duration::from_millis(u64::try_from(due - now).unwrap_or(0));
        let (weak, id) = (Arc::downgrade(&self.0), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(rest).await;
            let Some(shared) = weak.upgrade() else { return };
            lock(&shared.under_way).remove(&what);
            Self(shared).publish(&id);
        });
    }

    fn find_out(&self, id: &DeploymentId, pod: Pod) {
        if report::is_going(&pod) {
            return;
        }
        if let Some(end) = report::last_end(&pod) {
            let known = lock(&self.0.state).known(uid_of(&pod)).clone();
            if known.end.is_none() && !known.was_ready {
                let container = end.container_id.clone().unwrap_or_else(|| "first".to_owned());
                let told = report::ended(&pod, end, Vec::new());
                self.tell_end(id, &pod, container, told);
            }
        }
        if report::runs(&pod) && report::awaits_answer(&pod) {
            self.ask(id, &pod);
        }
    }

    /// Spawns what is not under way already.
    pub(super) fn once<Fut>(&self, what: String, work: impl FnOnce(Self) -> Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        if !lock(&self.0.under_way).insert(what.clone()) {
            return;
        }
        let (work, shared) = (work(self.clone()), Arc::clone(&self.0));
        tokio::spawn(async move {
            work.await;
            lock(&shared.under_way).remove(&what);
        });
    }

    /// Looks at the state, now and after each change, until there is an answer.
    /// `Err`: none yet, and again after this long although nothing changes.
    pub(super) async fn until<T>(&self, look: impl Fn(&mut State) -> Result<T, Duration>) -> T {
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let rest = match look(&mut lock(&self.0.state)) {
                Ok(found) => return found,
                Err(rest) => rest,
            };
            // The sender lives as long as `self`.
            let _ = tokio::time::timeout(rest, changes.changed()).await;
        }
    }

    pub(super) fn with_state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut lock(&self.0.state))
    }

    /// The pod as it is known now, if it is still this one in this life.
    pub(super) fn same_life(&self, key: &Key, uid: &str, life: &str) -> Option<Pod> {
        let state = lock(&self.0.state);
        let pod = state.pod(key)?;
        let same = uid_of(pod) == uid && report::life(pod) == life;
        (same && report::runs(pod) && !report::is_going(pod)).then(|| pod.clone())
    }

    pub(super) fn pods(&self, pod: &Pod) -> (Api<Pod>, String) {
        let (namespace, name) = key_of(pod);
        (Api::namespaced(self.0.client.clone(), &namespace), name)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since the epoch.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
