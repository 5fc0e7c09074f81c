//! `[runtime]`, `[kubernetes]`: what instances run on.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::Deserialize;

use super::{Backend, Config, ConfigError, Period};
use crate::krane::{
    Admitted, Autoscale, Cluster, DockerSettings, KubernetesSettings, Patience, PodSecurity,
    Probes, Quota,
};

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeBackend {
    /// The Docker engine.
    Docker,
    /// A Kubernetes cluster.
    Kubernetes,
}

/// `[runtime]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Runtime {
    pub backend: RuntimeBackend,
}

/// `[kubernetes]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Kubernetes {
    pub kubeconfig: String,
    pub context: String,
    pub namespace_prefix: String,
    pub gateway_namespace: String,
    pub gateway_labels: String,
    pub gateway_cidrs: String,
    pub probes: Probes,
    pub pod_security: PodSecurity,
    pub run_as_user: i64,
    pub read_only_root: bool,
    pub schedule_timeout: Period,
    pub pull_timeout: Period,
    pub max_pods: u32,
    pub max_cpu_millicores: u32,
    pub max_memory_mib: u64,
    pub default_cpu_millicores: u32,
    pub default_memory_mib: u64,
    pub autoscale_max: u32,
    pub autoscale_cpu_percent: u32,
}

/// A runtime, with everything that it needs.
#[derive(Debug, Clone)]
pub enum RuntimeSettings {
    /// The Docker engine.
    Docker(DockerSettings),
    /// A Kubernetes cluster.
    Kubernetes(Box<KubernetesSettings>),
}

impl Config {
    /// What krane runs instances on, marked as `owner`'s.
    ///
    /// # Errors
    /// The registry's password cannot be read, or others may read it.
    pub fn runtime(&self, owner: &str) -> Result<RuntimeSettings, ConfigError> {
        let registry = self.registry()?;
        let owner = owner.to_owned();
        if self.runtime.backend == RuntimeBackend::Docker {
            let login = registry.and_then(|registry| registry.login);
            return Ok(RuntimeSettings::Docker(DockerSettings { owner, login }));
        }
        let given = &self.kubernetes;
        Ok(RuntimeSettings::Kubernetes(Box::new(KubernetesSettings {
            owner,
            cluster: self.cluster(),
            namespace_prefix: given.namespace_prefix.clone(),
            registry,
            gateway: Admitted {
                namespace: given.gateway_namespace.clone(),
                labels: labels(&given.gateway_labels).unwrap_or_default(),
                cidrs: listed(&given.gateway_cidrs).map(str::to_owned).collect(),
            },
            quota: Quota {
                pods: given.max_pods,
                cpu_millicores: given.max_cpu_millicores,
                memory_mib: given.max_memory_mib,
                default_cpu_millicores: given.default_cpu_millicores,
                default_memory_mib: given.default_memory_mib,
            },
            security: given.pod_security,
            read_only_root: given.read_only_root,
            run_as_user: (given.run_as_user > 0).then_some(given.run_as_user),
            autoscale: (given.autoscale_max > 0).then_some(Autoscale {
                max_replicas: given.autoscale_max,
                cpu_percent: given.autoscale_cpu_percent,
            }),
            probes: given.probes,
            patience: Patience {
                schedule: given.schedule_timeout.get(),
                pull: given.pull_timeout.get(),
            },
        })))
    }

    /// Something builds or runs on this machine's Docker engine.
    pub fn needs_docker(&self) -> bool {
        self.runtime.backend == RuntimeBackend::Docker || self.builder.backend == Backend::Docker
    }

    /// Which cluster.
    pub fn cluster(&self) -> Cluster {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Cluster {
            kubeconfig: some(&self.kubernetes.kubeconfig).map(PathBuf::from),
            context: some(&self.kubernetes.context),
        }
    }

    pub(super) fn runtime_problems(&self) -> Vec<String> {
        if self.runtime.backend == RuntimeBackend::Docker {
            return Vec::new();
        }
        let (given, mut problems) = (&self.kubernetes, Vec::new());
        let mut rule = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let prefix = &given.namespace_prefix;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        rule(
            (1..=30).contains(&prefix.len())
                && prefix.chars().all(plain)
                && prefix.starts_with(|c: char| c.is_ascii_alphanumeric()),
            format!(
                "kubernetes.namespace_prefix = `{prefix}`: give 1 to 30 lower-case letters, digits \
                 and hyphens that do not begin with a hyphen"
            ),
        );
        rule(
            labels(&given.gateway_labels).is_some(),
            format!(
                "kubernetes.gateway_labels = `{}`: give key=value, several with commas",
                given.gateway_labels
            ),
        );
        for cidr in listed(&given.gateway_cidrs) {
            rule(
                is_cidr(cidr),
                format!("kubernetes.gateway_cidrs: `{cidr}`: give e.g. 10.0.0.0/8 or 10.1.2.3/32"),
            );
        }
        rule(
            !given.schedule_timeout.get().is_zero(),
            "kubernetes.schedule_timeout is zero: give a time, e.g. `60s`".to_owned(),
        );
        rule(
            !given.pull_timeout.get().is_zero(),
            "kubernetes.pull_timeout is zero: give a time, e.g. `45s`".to_owned(),
        );
        rule(
            (1..=100).contains(&given.autoscale_cpu_percent),
            format!(
                "kubernetes.autoscale_cpu_percent = {}: give 1 to 100",
                given.autoscale_cpu_percent
            ),
        );
        rule(
            self.registry_host().is_some(),
            "registry.host is empty: a cluster pulls its images from a registry".to_owned(),
        );
        problems
    }
}

fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn labels(text: &str) -> Option<BTreeMap<String, String>> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    };
    listed(text).map(pair).collect()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn load(set: &[&str]) -> Result<Config, ConfigError> {
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        let overrides = Overrides { file: None, set, env: Vec::new() };
        Config::load(PathBuf::from("/nonexistent"), &overrides)
    }

    #[test]
    fn without_any_setting_docker_runs() {
        let settings = load(&[]).unwrap().runtime("me").unwrap();
        assert!(matches!(settings, RuntimeSettings::Docker(_)), "{settings:?}");
    }

    #[test]
    fn a_cluster_is_checked_as_a_whole() {
        let said = load(&[
            "runtime.backend=kubernetes",
            "kubernetes.namespace_prefix=-X",
            "kubernetes.gateway_labels=app",
            "kubernetes.gateway_cidrs=10.0.0.0/8, 10.0.0.1",
            "kubernetes.autoscale_cpu_percent=0",
        ]);
        let said = said.map(drop).unwrap_err().to_string();
        for key in
            ["namespace_prefix", "gateway_labels", "`10.0.0.1`", "cpu_percent", "registry.host"]
        {
            assert!(said.contains(key), "{key}: {said}");
        }
    }

    #[test]
    fn what_is_empty_or_zero_is_not_set() {
        let set = [
            "runtime.backend=kubernetes",
            "registry.host=r.example.com",
            "kubernetes.gateway_labels=app=launchway, tier=edge",
            "kubernetes.probes=kubelet",
        ];
        let settings = load(&set).unwrap().runtime("me").unwrap();
        let RuntimeSettings::Kubernetes(settings) = settings else { panic!("{settings:?}") };
        assert_eq!(settings.cluster, Cluster::default());
        assert_eq!(settings.gateway.labels.len(), 2);
        assert_eq!((settings.run_as_user, settings.autoscale), (None, None));
        assert_eq!(settings.probes, Probes::Kubelet);
        assert_eq!(
            settings.registry.map(|registry| registry.host),
            Some("r.example.com".to_owned())
        );
    }
}
