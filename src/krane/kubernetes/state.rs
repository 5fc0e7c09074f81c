//! What the watches have brought: pods and workloads, and what is known of them.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt;
use launchway_proto::krane::v1::{DeploymentStatus, Instance};
use launchway_workflows::ids::DeploymentId;

use super::{
    names::keys,
    report::{self, Known},
    settings::Patience,
    trouble::{self, Trouble},
};

/// Namespace and name.
pub(super) type Key = (String, String);

pub(super) fn key_of(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Whose it is; tasks are nobody's instances.
pub(super) fn deployment_of(object: &impl ResourceExt) -> Option<DeploymentId> {
    let labels = object.labels();
    if labels.contains_key(keys::TASK) {
        return None;
    }
    labels.get(keys::DEPLOYMENT)?.parse().ok()
}

/// See the module.
#[derive(Default)]
pub(super) struct State {
    pods: HashMap<Key, Pod>,
    workloads: HashMap<Key, Deployment>,
    known: HashMap<String, Known>,
    /// The replica that a pod is, from 0 in its process.
    numbers: HashMap<String, u32>,
    pub(super) patience: Patience,
}

/// A deployment, as it is shown.
#[derive(Default)]
pub(super) struct Shown {
    /// Its environment's id.
    pub(super) environment: String,
    pub(super) instances: Vec<Instance>,
    /// When it changes by time alone, in milliseconds since the epoch.
    pub(super) due: Option<i64>,
}

pub(super) fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// An object that is watched.
pub(super) trait Kept: ResourceExt + Clone + Sized {
    fn kept(state: &mut State) -> &mut HashMap<Key, Self>;
}

impl Kept for Pod {
    fn kept(state: &mut State) -> &mut HashMap<Key, Self> {
        &mut state.pods
    }
}

impl Kept for Deployment {
    fn kept(state: &mut State) -> &mut HashMap<Key, Self> {
        &mut state.workloads
    }
}

impl State {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Everything there is, after a first or a lost watch; whose it is or was.
    pub(super) fn replace<K: Kept>(&mut self, all: Vec<K>) -> Vec<DeploymentId> {
        let fresh: HashMap<Key, K> = all.into_iter().map(|one| (key_of(&one), one)).collect();
        let before = std::mem::replace(K::kept(self), fresh);
        let mut ids: Vec<_> = before.values().filter_map(deployment_of).collect();
        ids.extend(K::kept(self).values().filter_map(deployment_of));
        ids.sort();
        ids.dedup();
        self.forget();
        ids
    }

    pub(super) fn set<K: Kept>(&mut self, object: K) {
        K::kept(self).insert(key_of(&object), object);
    }

    pub(super) fn remove<K: Kept>(&mut self, object: &K) {
        K::kept(self).remove(&key_of(object));
        self.forget();
    }

    /// What is known of pods that are gone.
    fn forget(&mut self) {
        let uids: std::collections::HashSet<&str> = self.pods.values().map(uid_of).collect();
        self.known.retain(|uid, _| uids.contains(uid.as_str()));
        self.numbers.retain(|uid, _| uids.contains(uid.as_str()));
    }

    pub(super) fn known(&mut self, uid: &str) -> &mut Known {
        self.known.entry(uid.to_owned()).or_default()
    }

    pub(super) fn pod(&self, key: &Key) -> Option<&Pod> {
        self.pods.get(key)
    }

    pub(super) fn workload(&self, key: &Key) -> Option<&Deployment> {
        self.workloads.get(key)
    }

    /// A deployment's pods, oldest first.
    pub(super) fn pods_of(&self, id: &DeploymentId) -> Vec<&Pod> {
        let mut found: Vec<&Pod> =
            self.pods.values().filter(|pod| deployment_of(*pod).as_ref() == Some(id)).collect();
        found.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.name_any()));
        found
    }

    /// The pod of a task's job, and not of another that had its name.
    pub(super) fn task_pod(&self, job: &str) -> Option<&Pod> {
        let own = |pod: &&Pod| pod.owner_references().iter().any(|owner| owner.uid == job);
        self.pods.values().filter(own).min_by_key(|pod| pod.metadata.creation_timestamp.clone())
    }

    fn workloads_of(&self, id: &DeploymentId) -> Vec<&Deployment> {
        let mut found: Vec<&Deployment> = self
            .workloads
            .values()
            .filter(|workload| deployment_of(*workload).as_ref() == Some(id))
            .collect();
        found.sort_by_key(|workload| workload.name_any());
        found
    }

    pub(super) fn show(&mut self, id: &DeploymentId, now: i64) -> Shown {
        self.number(id);
        let pods = self.pods_of(id);
        let workloads = self.workloads_of(id);
        let environment = pods
            .iter()
            .map(|pod| pod.labels())
            .chain(workloads.iter().map(|workload| workload.labels()))
            .find_map(|labels| labels.get(keys::ENVIRONMENT).cloned())
            .unwrap_or_default();
        let nothing = Known::default();
        let mut instances: Vec<Instance> = pods
            .iter()
            .filter(|pod| !self.is_replaced(pod, &pods))
            .map(|pod| {
                let known = self.known.get(uid_of(pod)).unwrap_or(&nothing);
                let replica = self.numbers.get(uid_of(pod)).copied().unwrap_or(0);
                report::instance(pod, replica, known, &self.patience, now)
            })
            .collect();
        let refused = workloads.iter().filter_map(|one| Some((*one, trouble::of_workload(one)?)));
        let refused: Vec<(&Deployment, Trouble)> = refused.collect();
        let due = pods
            .iter()
            .filter_map(|pod| report::due(pod, &self.patience, now))
            .chain(refused.iter().filter_map(|(_, trouble)| trouble.hopeless_at(&self.patience)))
            .filter(|due| *due > now)
            .min();
        instances
            .extend(refused.into_iter().map(|(one, why)| missing(one, why, &self.patience, now)));
        instances
            .sort_by(|a, b| (&a.process, a.replica, &a.id).cmp(&(&b.process, b.replica, &b.id)));
        Shown { environment, instances, due }
    }

    /// One that its node has ended, while there are others of its process: it
    /// stays in the cluster for people, long after it was replaced.
    fn is_replaced(&self, pod: &Pod, pods: &[&Pod]) -> bool {
        let process = pod.labels().get(keys::PROCESS);
        let alive =
            |other: &&&Pod| !report::is_over(other) && other.labels().get(keys::PROCESS) == process;
        report::is_over(pod) && pods.iter().any(|other| alive(&other))
    }

    /// Gives each living pod a number that no other living one of its process
    /// has, and leaves it that.
    fn number(&mut self, id: &DeploymentId) {
        let mut by_process: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in self.pods_of(id) {
            if !report::is_going(pod) && !report::is_over(pod) {
                let process = pod.labels().get(keys::PROCESS).cloned().unwrap_or_default();
                by_process.entry(process).or_default().push(uid_of(pod).to_owned());
            }
        }
        for uids in by_process.values() {
            let mut taken: Vec<u32> =
                uids.iter().filter_map(|uid| self.numbers.get(uid).copied()).collect();
            for uid in uids {
                if !self.numbers.contains_key(uid) {
                    let free = (0..).find(|number| !taken.contains(number)).unwrap_or(0);
                    taken.push(free);
                    self.numbers.insert(uid.clone(), free);
                }
            }
        }
    }
}

/// What stands for the instances that the cluster refuses to make.
fn missing(workload: &Deployment, why: Trouble, patience: &Patience, now: i64) -> Instance {
    Instance {
        id: workload.name_any(),
        status: DeploymentStatus::Pending.into(),
        process: workload.labels().get(keys::PROCESS).cloned().unwrap_or_default(),
        reason: why.reason.into(),
        permanent: why.is_hopeless(patience, now),
        message: why.message,
        ..Instance::default()
    }
}

#[cfg(test)]
mod tests {
    use launchway_proto::krane::v1::NotReadyReason;
    use serde_json::json;

    use super::*;

    fn pod(id: &DeploymentId, name: &str, going: bool) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name,
                "labels": {"launchway.dev/deployment": id, "launchway.dev/process": "web",
                    "launchway.dev/environment": "env_x"}},
            "spec": {"containers": []}, "status": {"phase": "Running"},
        }))
        .unwrap();
        if going {
            pod.metadata.deletion_timestamp =
                serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        pod
    }

    fn numbers(state: &mut State, id: &DeploymentId) -> Vec<(String, u32)> {
        let all = state.show(id, 0).instances;
        all.into_iter().map(|instance| (instance.id, instance.replica)).collect()
    }

    #[test]
    fn a_pod_keeps_its_number_and_its_replacement_takes_it_over() {
        let id = DeploymentId::generate();
        let mut state = State::default();
        state.set(pod(&id, "a", false));
        state.set(pod(&id, "b", false));
        let pair = |name: &str, number| (name.to_owned(), number);
        assert_eq!(numbers(&mut state, &id), [pair("a", 0), pair("b", 1)]);
        state.set(pod(&id, "a", true));
        state.set(pod(&id, "c", false));
        assert_eq!(numbers(&mut state, &id), [pair("a", 0), pair("c", 0), pair("b", 1)]);
        state.remove(&pod(&id, "a", true));
        assert_eq!(numbers(&mut state, &id), [pair("c", 0), pair("b", 1)]);
    }

    #[test]
    fn a_lost_watch_takes_away_what_is_gone() {
        let (id, other) = (DeploymentId::generate(), DeploymentId::generate());
        let mut state = State::default();
        state.set(pod(&id, "a", false));
        let mut touched = state.replace(vec![pod(&other, "b", false)]);
        touched.sort();
        let mut both = vec![id.clone(), other.clone()];
        both.sort();
        assert_eq!(touched, both);
        assert!(state.show(&id, 0).instances.is_empty());
        assert_eq!(state.show(&other, 0).environment, "env_x");
    }

    #[test]
    fn what_the_cluster_refuses_to_make_is_reported() {
        let id = DeploymentId::generate();
        let mut state = State::default();
        let workload: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "labels":
                {"launchway.dev/deployment": id, "launchway.dev/process": "web"}},
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True",
                "reason": "FailedCreate", "message": "pods \"x\" is forbidden: exceeded quota: launchway"}]},
        }))
        .unwrap();
        state.set(workload);
        let all = state.show(&id, 0).instances;
        assert!(all[0].message.contains("exceeded quota") && !all[0].ready, "{all:?}");
        assert_eq!((all[0].reason(), all[0].permanent), (NotReadyReason::QuotaExceeded, true));
    }
}
