//! Makes what a deployment has in the cluster.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Namespace, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::NamespaceResourceScope,
};
use launchway_workflows::ids::{DeploymentId, EnvironmentId};
use serde_json::json;

use super::{
    KubernetesBackend,
    call::{CallError, call},
    checks::{check, check_stop_signal},
    monitor::now_ms,
    names::{self, MANAGER, keys},
    objects::{self, Root, Wanted},
    patching::{bare, offer, put, remove},
    report,
    settle::{self, Applied},
};
use crate::krane::backend::{BackendError, InstanceSpec, Port};

/// Who keeps a number of replicas until an autoscaler sets it.
const AUTOSCALED: &str = "launchway-autoscaled";

/// What an apply has made, and what there was before.
struct Put {
    before: Vec<Deployment>,
    variables: Option<Secret>,
    applied: Vec<Applied>,
    ended: Result<(), BackendError>,
}

impl KubernetesBackend {
    pub(super) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(super) async fn apply_deployment(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        check(spec)?;
        let id = &spec.deployment_id;
        let turn = self.turns.take(id).await;
        // Whoever goes away: what was begun has ended before a delete begins.
        let (this, wanted) = (self.clone(), spec.clone());
        let putting = tokio::spawn(async move { (this.put_deployment(&wanted).await, turn) });
        let (put, _turn) = putting.await.map_err(|error| {
            BackendError::Unavailable(format!("the apply was broken off: {error}"))
        })?;
        let Put { before, variables, applied, ended } = put?;
        let settled = match ended {
            Ok(()) => settle::settle(&self.monitor, id, &applied).await,
            // Whatever is there is what the next try begins with.
            Err(error @ BackendError::Unavailable(_)) => return Err(error),
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            if before.is_empty() {
                // There was nothing, and what came of it is of no use.
                self.delete_deployment(id).await?;
            } else if applied.iter().any(|one| one.replaces) {
                self.put_back(before, variables).await;
            }
            return Err(error);
        }
        tracing::info!(deployment = %id, "applied");
        Ok(())
    }

    async fn put_deployment(&self, spec: &InstanceSpec) -> Result<Put, BackendError> {
        let id = &spec.deployment_id;
        let namespace = self.ensure_namespace(&spec.namespace).await?;
        let before = self.workloads(&namespace, id).await?;
        let variables = self.variables(&namespace, &names::root(id)).await?;
        let mut applied = Vec::new();
        let ended = self.put_all(&namespace, spec, &before, &mut applied).await;
        Ok(Put { before, variables, applied, ended })
    }

    async fn put_all(
        &self,
        namespace: &str,
        spec: &InstanceSpec,
        before: &[Deployment],
        applied: &mut Vec<Applied>,
    ) -> Result<(), BackendError> {
        let exposed = self.exposed_port(spec, before).await?;
        let root = objects::root(&self.style, spec, namespace);
        let labels = root.labels().clone();
        let root = Root::of(&put(&self.api(namespace), &root).await?);
        put(&self.api(namespace), &objects::variables(&root, &labels, &spec.env)).await?;
        for process in &spec.processes {
            let wanted = Wanted { spec, process, port: process.port.number(exposed) };
            self.put_process(&root, wanted, before, applied).await?;
        }
        self.remove_surplus(namespace, spec, before).await
    }

    async fn put_process(
        &self,
        root: &Root,
        wanted: Wanted<'_>,
        before: &[Deployment],
        applied: &mut Vec<Applied>,
    ) -> Result<(), BackendError> {
        let (namespace, process) = (&root.namespace, wanted.process);
        self.put_service(root, wanted).await?;
        put(&self.api(namespace), &objects::disruption_budget(&self.style, root, wanted)).await?;
        let workload = objects::deployment(&self.style, root, wanted);
        let name = workload.name_any();
        let known = before.iter().find(|known| known.name_any() == name);
        let scaler = objects::autoscaler(&self.style, root, wanted);
        match (known, &scaler) {
            (Some(known), Some(_)) => {
                let present = known.spec.as_ref().and_then(|spec| spec.replicas);
                self.hand_over_replicas(namespace, &name, present.unwrap_or(1)).await?;
            }
            _ => self.choose_surplus(wanted, namespace).await?,
        }
        let made = put(&self.api::<Deployment>(namespace), &workload).await?;
        if known.is_none() && scaler.is_some() {
            // It would come to it by itself, but only after a while.
            let first = i32::try_from(process.replicas).unwrap_or(i32::MAX);
            self.hand_over_replicas(namespace, &name, first).await?;
        }
        let replaces = process.replicas > 0
            && known.is_some_and(|known| differs(known, &made))
            && (known.is_some_and(counts_ready)
                || self.has_ready(&wanted.spec.deployment_id, &made));
        applied.push(Applied::new(&made, &wanted.spec.image, replaces));
        check_stop_signal(wanted.spec, &made)?;
        let scalers = self.api::<HorizontalPodAutoscaler>(namespace);
        match scaler {
            Some(scaler) => drop(put(&scalers, &scaler).await?),
            // Only where there may be one: it was there when it was last asked for.
            None if known.is_some() => remove(&scalers, &name).await?,
            None => {}
        }
        Ok(())
    }

    /// Whether pods of the process are ready; the workload's own count comes later.
    fn has_ready(&self, id: &DeploymentId, workload: &Deployment) -> bool {
        let (process, now) = (workload.labels().get(keys::PROCESS), now_ms());
        self.monitor.with_state(|state| {
            let mut pods = state.pods_of(id).into_iter();
            pods.any(|pod| {
                pod.labels().get(keys::PROCESS) == process
                    && report::readiness(pod, now) == Ok(true)
            })
        })
    }

    /// An apply that says nothing of the number any more would make it 1, were it
    /// ours alone.
    async fn hand_over_replicas(
        &self,
        namespace: &str,
        name: &str,
        replicas: i32,
    ) -> Result<(), BackendError> {
        let patch = Patch::Apply(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name}, "spec": {"replicas": replicas}}));
        let params = PatchParams::apply(AUTOSCALED);
        let api = self.api::<Deployment>(namespace);
        match call("Deployment", || api.patch(name, &params, &patch)).await {
            // The autoscaler has it already.
            Ok(_) | Err(CallError::Owned(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When there are to be fewer, those with the highest numbers go.
    async fn choose_surplus(
        &self,
        wanted: Wanted<'_>,
        namespace: &str,
    ) -> Result<(), BackendError> {
        let (process, id) = (wanted.process, &wanted.spec.deployment_id);
        let surplus: Vec<String> = self
            .table
            .get(id)
            .instances
            .iter()
            .filter(|one| one.process == process.name.as_str() && one.replica >= process.replicas)
            .map(|one| one.id.clone())
            .collect();
        let api = self.api::<Pod>(namespace);
        for name in surplus {
            let notes = json!({keys::DELETION_COST: "-1"});
            let patch = Patch::Merge(json!({"metadata": {"annotations": notes}}));
            let params =
                PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            match call("Pod", || api.patch(&name, &params, &patch)).await {
                Ok(_) | Err(CallError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn ensure_namespace(&self, environment: &EnvironmentId) -> Result<String, BackendError> {
        let furniture = objects::furniture(&self.settings, environment);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let name = furniture.namespace.name_any();
        let ours = furniture.namespace.labels().get(keys::INSTALLATION).cloned();
        if let Some(present) = call("Namespace", || api.get_opt(&name)).await?
            && present.labels().get(keys::INSTALLATION) != ours.as_ref()
        {
            return Err(BackendError::Rejected(format!(
                "the namespace {name} is there and is not of this installation: set another \
                 kubernetes.namespace_prefix"
            )));
        }
        put(&api, &furniture.namespace).await?;
        // What the operator has changed stays.
        offer(&self.api(&name), &furniture.policy).await?;
        if let Some(quota) = &furniture.quota {
            offer(&self.api(&name), quota).await?;
        }
        if let Some(limits) = &furniture.limits {
            offer(&self.api(&name), limits).await?;
        }
        if let Some(secret) = &furniture.pull_secret {
            put(&self.api(&name), secret).await?;
        }
        Ok(name)
    }

    /// The namespace, for what comes before or after instances.
    pub(super) async fn namespace_of_task(
        &self,
        environment: &EnvironmentId,
    ) -> Result<String, BackendError> {
        self.ensure_namespace(environment).await
    }

    async fn workloads(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<Vec<Deployment>, BackendError> {
        let api = self.api::<Deployment>(namespace);
        let params =
            ListParams::default().labels(&names::deployment_selector(&self.style.owner, id));
        Ok(call("Deployments", || api.list(&params)).await?.items)
    }

    async fn variables(&self, namespace: &str, name: &str) -> Result<Option<Secret>, BackendError> {
        let api = self.api::<Secret>(namespace);
        Ok(call("Secret", || api.get_opt(name)).await?)
    }

    /// As it was before an apply that came to nothing.
    async fn put_back(&self, before: Vec<Deployment>, variables: Option<Secret>) {
        for mut workload in before {
            let namespace = workload.namespace().unwrap_or_default();
            workload.metadata = bare(workload.metadata);
            workload.status = None;
            if let Err(error) = put(&self.api(&namespace), &workload).await {
                tracing::warn!(workload = workload.name_any(), %error, "cannot be put back");
            }
        }
        if let Some(mut secret) = variables {
            let namespace = secret.namespace().unwrap_or_default();
            secret.metadata = bare(secret.metadata);
            if let Err(error) = put(&self.api(&namespace), &secret).await {
                tracing::warn!(secret = secret.name_any(), %error, "cannot be put back");
            }
        }
    }

    /// The image's only EXPOSE, where somebody wants to know it. What runs keeps
    /// the port it was started with.
    async fn exposed_port(
        &self,
        spec: &InstanceSpec,
        before: &[Deployment],
    ) -> Result<Option<u16>, BackendError> {
        let Some(asks) = spec.processes.iter().find(|process| process.port == Port::OfImage) else {
            return Ok(None);
        };
        let name = names::workload(&spec.deployment_id, asks.name.as_str());
        if let Some(port) = before.iter().find_map(|known| port_of(known, &name, &spec.image)) {
            return Ok(Some(port));
        }
        let Some(registry) = &self.settings.registry else { return Ok(None) };
        if !spec.image.starts_with(&format!("{}/", registry.host)) {
            return Ok(None);
        }
        match registry.exposed_port(&spec.image).await {
            Ok(port) => Ok(port),
            Err(error) => Err(BackendError::Unavailable(error.failure().message.clone())),
        }
    }
}

fn port_of(known: &Deployment, name: &str, image: &str) -> Option<u16> {
    let template = &known.spec.as_ref()?.template;
    let runs = template.spec.as_ref()?.containers.first()?.image.as_deref();
    if known.name_any() != name || runs != Some(image) {
        return None;
    }
    template.metadata.as_ref()?.annotations.as_ref()?.get(keys::PORT)?.parse().ok()
}

fn template_meta(workload: &Deployment) -> Option<&ObjectMeta> {
    workload.spec.as_ref()?.template.metadata.as_ref()
}

/// Its instances give way to others.
fn differs(known: &Deployment, made: &Deployment) -> bool {
    settle::spec_of(template_meta(known)) != settle::spec_of(template_meta(made))
}

fn counts_ready(known: &Deployment) -> bool {
    known.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0) > 0
}
