//! The objects of one deployment, and of one task.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        autoscaling::v2::{
            CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
            MetricSpec, MetricTarget, ResourceMetricSource,
        },
        batch::v1::{Job, JobSpec},
        core::v1::{ConfigMap, Secret, Service, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};

use super::{Style, Wanted, meta, pod, whole};
use crate::krane::{
    backend::{Check, InstanceSpec, STAYS_UP, TaskSpec},
    kubernetes::names::{self, Map, keys},
};

/// What owns everything of a deployment or task: its removal removes all.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Root {
    /// The root as the server has it.
    pub(crate) fn of(map: &ConfigMap) -> Self {
        let meta = map.metadata.clone();
        Self {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
        }
    }

    pub(crate) fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            // The root stays until everything else is gone.
            block_owner_deletion: Some(true),
            controller: None,
        }
    }

    fn owned(&self, name: &str, labels: &Map) -> ObjectMeta {
        ObjectMeta {
            owner_references: Some(vec![self.reference()]),
            ..meta(&self.namespace, name, labels)
        }
    }
}

fn labels(style: &Style, spec: &InstanceSpec) -> Map {
    let mut labels = names::installation_labels(&style.owner);
    labels.insert(keys::DEPLOYMENT.to_owned(), spec.deployment_id.to_string());
    labels.insert(keys::ENVIRONMENT.to_owned(), spec.namespace.to_string());
    labels.insert(keys::PROJECT.to_owned(), names::label_value(&spec.project_id));
    labels
}

/// The root, which says in the cluster what its namesakes are.
pub(crate) fn root(style: &Style, spec: &InstanceSpec, namespace: &str) -> ConfigMap {
    let processes: Vec<&str> = spec.processes.iter().map(|p| p.name.as_str()).collect();
    let about = [("image", spec.image.clone()), ("processes", processes.join(" "))];
    ConfigMap {
        metadata: meta(namespace, &names::root(&spec.deployment_id), &labels(style, spec)),
        data: Some(about.map(|(key, value)| (key.to_owned(), value)).into()),
        ..ConfigMap::default()
    }
}

/// The variables, of the root's name.
pub(crate) fn variables(root: &Root, labels: &Map, env: &BTreeMap<String, String>) -> Secret {
    let value = |text: &String| ByteString(text.clone().into_bytes());
    Secret {
        metadata: root.owned(&root.name, labels),
        type_: Some("Opaque".to_owned()),
        data: Some(env.iter().map(|(name, text)| (name.clone(), value(text))).collect()),
        ..Secret::default()
    }
}

/// A process's pods. An autoscaler owns their number where there is one.
pub(crate) fn deployment(style: &Style, root: &Root, wanted: Wanted<'_>) -> Deployment {
    let (spec, process) = (wanted.spec, wanted.process);
    let mut labels = labels(style, spec);
    labels.insert(keys::PROCESS.to_owned(), process.name.to_string());
    let scaled = is_autoscaled(style, wanted);
    let settle = match process.health.check {
        Check::StaysUp => i32::try_from(STAYS_UP.as_secs()).ok(),
        _ => None,
    };
    Deployment {
        metadata: root.owned(&names::workload(&spec.deployment_id, process.name.as_str()), &labels),
        spec: Some(DeploymentSpec {
            replicas: (!scaled).then(|| whole(process.replicas)),
            selector: selects(&pod::selector(style, wanted)),
            template: pod::template(style, wanted),
            min_ready_seconds: settle,
            revision_history_limit: Some(1),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                // What is ready goes only when its replacement is.
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::String("25%".to_owned())),
                }),
            }),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn is_autoscaled(style: &Style, wanted: Wanted<'_>) -> bool {
    let process = wanted.process;
    style.autoscale.is_some_and(|autoscale| {
        wanted.port.is_some()
            && process.cpu_millicores > 0
            && (1..autoscale.max_replicas).contains(&process.replicas)
    })
}

/// Where one is asked for and the process says how much CPU it wants.
pub(crate) fn autoscaler(
    style: &Style,
    root: &Root,
    wanted: Wanted<'_>,
) -> Option<HorizontalPodAutoscaler> {
    let autoscale = style.autoscale.filter(|_| is_autoscaled(style, wanted))?;
    let name = names::workload(&wanted.spec.deployment_id, wanted.process.name.as_str());
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: Some(whole(autoscale.cpu_percent)),
        ..MetricTarget::default()
    };
    Some(HorizontalPodAutoscaler {
        metadata: root.owned(&name, &labels(style, wanted.spec)),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name,
            },
            min_replicas: Some(whole(wanted.process.replicas)),
            max_replicas: whole(autoscale.max_replicas),
            metrics: Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
                ..MetricSpec::default()
            }]),
            ..HorizontalPodAutoscalerSpec::default()
        }),
        ..HorizontalPodAutoscaler::default()
    })
}

/// Nodes are emptied one instance of a process at a time.
pub(crate) fn disruption_budget(
    style: &Style,
    root: &Root,
    wanted: Wanted<'_>,
) -> PodDisruptionBudget {
    let name = names::workload(&wanted.spec.deployment_id, wanted.process.name.as_str());
    PodDisruptionBudget {
        metadata: root.owned(&name, &labels(style, wanted.spec)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selects(&pod::selector(style, wanted))),
            // One that is broken does not keep a node from being emptied.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// The name by which others of the environment reach a project. Its deployments
/// share it while one follows the other, so it has an owner for each.
pub(crate) fn service(
    style: &Style,
    namespace: &str,
    wanted: Wanted<'_>,
    owners: Vec<OwnerReference>,
) -> Option<Service> {
    let (port, name) = (wanted.port?, super::service_name(wanted)?);
    let mut chosen = names::installation_labels(&style.owner);
    chosen.insert(keys::SERVICE.to_owned(), name.clone());
    Some(Service {
        metadata: ObjectMeta { owner_references: Some(owners), ..meta(namespace, &name, &chosen) },
        spec: Some(ServiceSpec {
            selector: Some(chosen),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: i32::from(port),
                protocol: Some("TCP".to_owned()),
                // By name: two deployments may listen on different ports.
                target_port: Some(IntOrString::String("http".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
}

fn task_labels(style: &Style, spec: &TaskSpec) -> Map {
    let mut labels = names::installation_labels(&style.owner);
    labels.insert(keys::DEPLOYMENT.to_owned(), spec.deployment_id.to_string());
    labels.insert(keys::ENVIRONMENT.to_owned(), spec.namespace.to_string());
    labels.insert(keys::PROJECT.to_owned(), names::label_value(&spec.project_id));
    labels.insert(keys::TASK.to_owned(), spec.task_id.to_string());
    labels
}

/// What owns a task's job and variables.
pub(crate) fn task_root(style: &Style, spec: &TaskSpec, namespace: &str) -> ConfigMap {
    let name = names::task(&spec.deployment_id, spec.task_id.as_str());
    ConfigMap {
        metadata: meta(namespace, &name, &task_labels(style, spec)),
        data: Some(BTreeMap::from([("image".to_owned(), spec.image.clone())])),
        ..ConfigMap::default()
    }
}

/// A task: one pod, once. Nothing of Kubernetes starts it a second time.
pub(crate) fn job(style: &Style, root: &Root, spec: &TaskSpec) -> Job {
    let labels = task_labels(style, spec);
    Job {
        metadata: root.owned(&root.name, &labels),
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            // A pod that is being evicted is not replaced meanwhile either.
            pod_replacement_policy: Some("Failed".to_owned()),
            template: pod::task_template(style, spec, &root.name, labels.clone()),
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn selects(labels: &Map) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() }
}
