//! Removes what there is, and lists it.

use std::{collections::HashSet, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::Job,
    core::v1::{ConfigMap, Namespace, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    runtime::watcher::{self, Event, watcher},
};
use launchway_proto::krane::v1::Found;
use launchway_workflows::ids::DeploymentId;

use super::{
    KubernetesBackend,
    call::call,
    names::{self, keys},
    patching::remove,
    state::key_of,
};
use crate::krane::backend::{BackendError, InstanceSpec};

/// Longest wait for everything of a deployment to be gone, a stop's grace
/// included.
const GONE: Duration = Duration::from_secs(90);
/// Pause before a watch that has failed is begun again.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for the table to follow.
const FOLLOWED: Duration = Duration::from_secs(5);

impl KubernetesBackend {
    /// Processes that are not wanted any more.
    pub(super) async fn remove_surplus(
        &self,
        namespace: &str,
        spec: &InstanceSpec,
        before: &[Deployment],
    ) -> Result<(), BackendError> {
        let wanted: Vec<String> = spec
            .processes
            .iter()
            .map(|process| names::workload(&spec.deployment_id, process.name.as_str()))
            .collect();
        for surplus in before.iter().map(ResourceExt::name_any) {
            if !wanted.contains(&surplus) {
                remove(&self.api::<HorizontalPodAutoscaler>(namespace), &surplus).await?;
                remove(&self.api::<Deployment>(namespace), &surplus).await?;
                remove(&self.api::<PodDisruptionBudget>(namespace), &surplus).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn delete_deployment(&self, id: &DeploymentId) -> Result<(), BackendError> {
        let selector = names::deployment_selector(&self.style.owner, id);
        self.delete_roots(&selector).await?;
        // The table follows the watch; a caller may look at it at once.
        let gone = self.monitor.until(|state| match state.pods_of(id).is_empty() {
            true => Ok(()),
            false => Err(FOLLOWED),
        });
        let _ = tokio::time::timeout(FOLLOWED, gone).await;
        tracing::info!(deployment = %id, "deleted");
        Ok(())
    }

    /// Removes the roots and, with them, everything; returns when all is gone.
    pub(super) async fn delete_roots(&self, selector: &str) -> Result<(), BackendError> {
        let params = ListParams::default().labels(selector);
        let all = self.roots();
        let found = call("ConfigMaps", || all.list(&params)).await?.items;
        for root in &found {
            let api = self.api::<ConfigMap>(&root.namespace().unwrap_or_default());
            remove(&api, &root.name_any()).await?;
        }
        if found.is_empty() {
            return Ok(());
        }
        tokio::time::timeout(GONE, none_left(all, selector)).await.map_err(|_| {
            BackendError::Unavailable(format!(
                "Kubernetes has not removed everything within {} s",
                GONE.as_secs()
            ))
        })
    }

    pub(super) async fn list_everything(&self) -> Result<Vec<Found>, BackendError> {
        let params = ListParams::default().labels(&names::installation_selector(&self.style.owner));
        let client = || self.client.clone();
        let (namespaces, roots): (Api<Namespace>, Api<ConfigMap>) =
            (Api::all(client()), Api::all(client()));
        let (pods, jobs): (Api<Pod>, Api<Job>) = (Api::all(client()), Api::all(client()));
        let mut found = Vec::new();
        let all = call("Namespaces", || namespaces.list(&params)).await?.items;
        found.extend(all.iter().map(|one| about(one, "namespace")));
        let all = call("ConfigMaps", || roots.list(&params)).await?.items;
        found.extend(all.iter().map(|one| about(one, "root")));
        let all = call("Jobs", || jobs.list(&params)).await?.items;
        found.extend(all.iter().map(|one| about(one, "task")));
        let all = call("Pods", || pods.list(&params)).await?.items;
        let instances = all.iter().filter(|pod| !pod.labels().contains_key(keys::TASK));
        found.extend(instances.map(|one| about(one, "instance")));
        Ok(found)
    }
}

/// Returns once the cluster has none of these.
async fn none_left(all: Api<ConfigMap>, selector: &str) {
    let config = watcher::Config::default().labels(selector);
    let mut events = std::pin::pin!(watcher(all, config));
    let mut left = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => left.clear(),
            Ok(Event::InitApply(root) | Event::Apply(root)) => {
                left.insert(key_of(&root));
            }
            Ok(Event::Delete(root)) => {
                left.remove(&key_of(&root));
                if left.is_empty() {
                    return;
                }
            }
            Ok(Event::InitDone) if left.is_empty() => return,
            Ok(Event::InitDone) => {}
            Err(error) => {
                tracing::debug!(error = %crate::http::deepest(&error), "a watch has failed; beginning it again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn about(object: &impl ResourceExt, kind: &str) -> Found {
    let label = |key: &str| object.labels().get(key).cloned().unwrap_or_default();
    let created = object.creation_timestamp().map_or(0, |time| time.0.as_millisecond());
    let id = match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    };
    Found {
        namespace: label(keys::ENVIRONMENT),
        deployment_id: label(keys::DEPLOYMENT),
        kind: kind.to_owned(),
        id,
        created_at: created,
        task_id: label(keys::TASK),
        ..Found::default()
    }
}
