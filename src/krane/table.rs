//! What is known of all instances. Watchers see the latest state, not every
//! state: a slow one skips, and never holds anybody back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use launchway_proto::krane::v1::Instance;
use launchway_workflows::ids::DeploymentId;
use tokio::sync::{broadcast, watch};

/// Changes a watcher of everything may lag behind before it starts afresh.
const CHANGES: usize = 4096;

/// The instances of one deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Instances {
    /// Its namespace.
    pub namespace: String,
    /// All of them; empty once deleted.
    pub instances: Arc<Vec<Instance>>,
}

/// See the module.
pub struct Table {
    entries: Mutex<HashMap<DeploymentId, watch::Sender<Instances>>>,
    changed: broadcast::Sender<DeploymentId>,
    synced: watch::Sender<bool>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            changed: broadcast::channel(CHANGES).0,
            synced: watch::channel(false).0,
        }
    }
}

impl Table {
    /// Sets the instances of a deployment; equal ones are no change.
    pub fn set(&self, id: &DeploymentId, instances: Instances) {
        let changed = {
            let mut entries = self.lock();
            let entry =
                entries.entry(id.clone()).or_insert_with(|| watch::channel(Instances::default()).0);
            let changed = entry.send_if_modified(|present| {
                let differs = *present != instances;
                *present = instances;
                differs
            });
            // A deleted deployment without watchers is forgotten.
            if entry.borrow().instances.is_empty() && entry.receiver_count() == 0 {
                entries.remove(id);
            }
            changed
        };
        if changed {
            let _ = self.changed.send(id.clone());
        }
    }

    /// Changes the instances of a known deployment in place: what is set
    /// meanwhile is not lost.
    pub(super) fn modify(&self, id: &DeploymentId, change: impl FnOnce(&mut Vec<Instance>)) {
        let changed = self.lock().get(id).is_some_and(|entry| {
            entry.send_if_modified(|present| {
                let mut instances = present.instances.to_vec();
                change(&mut instances);
                let differs = *present.instances != instances;
                present.instances = Arc::new(instances);
                differs
            })
        });
        if changed {
            let _ = self.changed.send(id.clone());
        }
    }

    /// The present state and its changes.
    pub fn watch(&self, id: &DeploymentId) -> watch::Receiver<Instances> {
        let mut entries = self.lock();
        entries
            .entry(id.clone())
            .or_insert_with(|| watch::channel(Instances::default()).0)
            .subscribe()
    }

    /// The present state.
    pub fn get(&self, id: &DeploymentId) -> Instances {
        self.lock().get(id).map(|entry| entry.borrow().clone()).unwrap_or_default()
    }

    /// Everything.
    pub fn all(&self) -> Vec<(DeploymentId, Instances)> {
        self.lock().iter().map(|(id, entry)| (id.clone(), entry.borrow().clone())).collect()
    }

    /// Which deployments change, from now on.
    pub fn changes(&self) -> broadcast::Receiver<DeploymentId> {
        self.changed.subscribe()
    }

    /// The engine's present state is known.
    pub fn mark_synced(&self) {
        self.synced.send_replace(true);
    }

    /// Returns once the engine's present state is known.
    pub async fn synced(&self) {
        // The sender lives as long as the table.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentId, watch::Sender<Instances>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
