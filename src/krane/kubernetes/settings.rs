//! How instances run on a cluster.

use std::{collections::BTreeMap, time::Duration};

use super::connect::Cluster;
use crate::registry::{Login, Registry};

/// Settings of the backend.
#[derive(Debug, Clone)]
pub struct KubernetesSettings {
    /// Tells the objects of several installations in one cluster apart.
    pub owner: String,
    /// Which cluster.
    pub cluster: Cluster,
    /// Before the environment's id in a namespace's name.
    pub namespace_prefix: String,
    /// Where images are pulled from, with our login there.
    pub registry: Option<Registry>,
    /// Who may connect to instances.
    pub gateway: Admitted,
    /// Of an environment.
    pub quota: Quota,
    /// What a pod may do.
    pub security: PodSecurity,
    /// The root file system cannot be written; `/tmp` can.
    pub read_only_root: bool,
    /// `None`: the image's.
    pub run_as_user: Option<i64>,
    /// `None`: replicas are as asked for.
    pub autoscale: Option<Autoscale>,
    /// Who asks over HTTP whether an instance is ready.
    pub probes: Probes,
    /// How long what may pass is waited for.
    pub patience: Patience,
}

/// How long what may pass is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience {
    /// There is no node for an instance.
    pub schedule: Duration,
    /// The pull of its image fails.
    pub pull: Duration,
}

impl KubernetesSettings {
    /// Who pulls.
    pub(super) fn login(&self) -> Option<&Login> {
        self.registry.as_ref()?.login.as_ref()
    }
}

/// Whom an environment's network policy admits beside its own instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Pods of this namespace …
    pub namespace: String,
    /// … with these labels; none: all of it.
    pub labels: BTreeMap<String, String>,
    /// Addresses, where gateways are not pods.
    pub cidrs: Vec<String>,
}

/// Limits of all pods of an environment together; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Pods.
    pub pods: u32,
    /// Thousandths of cores.
    pub cpu_millicores: u32,
    /// MiB.
    pub memory_mib: u64,
    /// Of a container that asks for none.
    pub default_cpu_millicores: u32,
    /// Of a container that asks for none.
    pub default_memory_mib: u64,
}

/// The Pod Security Standard that namespaces enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// No root, no capabilities.
    Restricted,
    /// Root with the few capabilities that images commonly need.
    Baseline,
}

/// A HorizontalPodAutoscaler for processes with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Autoscale {
    /// At most; at least are those asked for.
    pub max_replicas: u32,
    /// Of what was requested, on average.
    pub cpu_percent: u32,
}

/// Who asks over HTTP whether an instance is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probes {
    /// krane where it is a pod of the cluster, else the kubelet.
    Auto,
    /// krane: any answer below 500 will do. It must reach the pods.
    Krane,
    /// The kubelet: an answer below 400 will do.
    Kubelet,
}
