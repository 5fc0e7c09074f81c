//! What the watches have brought: pods and workloads, and what is known of them.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt;
use launchway_proto::krane::v1::{DeploymentStatus, Instance};
use launchway_workflows::ids::DeploymentId;

use super::{
    names::keys,
    report::{self, Known},
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

    fn workloads_of(&self, id: &DeploymentId) -> Vec<&Deployment> {
        let mut found: Vec<&Deployment> = self
            .workloads
            .values()
            .filter(|workload| deployment_of(*workload).as_ref() == Some(id))
            .collect();
        found.sort_by_key(|workload| workload.name_any());
        found
    }

    /// The environment's id and all instances of a deployment.
    pub(super) fn instances(&mut self, id: &DeploymentId, now: i64) -> (String, Vec<Instance>) {
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
                report::instance(pod, replica, known, now)
            })
            .collect();
        instances.extend(workloads.into_iter().filter_map(missing));
        instances
            .sort_by(|a, b| (&a.process, a.replica, &a.id).cmp(&(&b.process, b.replica, &b.id)));
        (environment, instances)
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

/// Why the cluster makes no pods for it: a quota, an admission.
pub(super) fn refusal(workload: &Deployment) -> Option<&str> {
    let conditions = workload.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    failure.message.as_deref()
}

/// What stands for the instances that the cluster refuses to make.
fn missing(workload: &Deployment) -> Option<Instance> {
    let message = refusal(workload)?.to_owned();
    Some(Instance {
        id: workload.name_any(),
        status: DeploymentStatus::Pending.into(),
        process: workload.labels().get(keys::PROCESS).cloned().unwrap_or_default(),
        message,
        ..Instance::default()
    })
}

#[cfg(test)]
mod tests {
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
        let (_, all) = state.instances(id, 0);
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
        assert!(state.instances(&id, 0).1.is_empty());
        assert_eq!(state.instances(&other, 0).0, "env_x");
    }

    #[test]
    fn what_the_cluster_refuses_to_make_is_reported() {
        let id = DeploymentId::generate();
        let mut state = State::default();
        let workload: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "labels":
                {"launchway.dev/deployment": id, "launchway.dev/process": "web"}},
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True",
                "reason": "FailedCreate", "message": "exceeded quota: launchway"}]},
        }))
        .unwrap();
        state.set(workload);
        let (_, all) = state.instances(&id, 0);
        assert!(all[0].message.contains("exceeded quota") && !all[0].ready, "{all:?}");
    }
}
