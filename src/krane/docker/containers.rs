//! What a container of ours looks like.

use std::{collections::HashMap, time::Duration};

use bollard::{
    models::{
        ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum, EndpointSettings,
        HostConfig, HostConfigLogConfig, NetworkingConfig, PortBinding,
    },
    query_parameters::{CreateContainerOptions, CreateContainerOptionsBuilder},
};
use launchway_workflows::ids::DeploymentId;
use sha2::{Digest, Sha256};

use crate::krane::backend::{Health, InstanceSpec};

/// Processes and threads of one container: far above what applications use,
/// far below what brings a host down.
const PIDS_LIMIT: i64 = 4096;
/// What images commonly need to become another user at start and to listen
/// below 1024; everything else is dropped.
const CAPABILITIES: [&str; 6] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID", "NET_BIND_SERVICE"];

/// Names of our labels.
pub(super) struct Labels;

impl Labels {
    const OWNER: &str = "launchway.owner";
    const DEPLOYMENT: &str = "launchway.deployment";
    const PROJECT: &str = "launchway.project";
    const ENVIRONMENT: &str = "launchway.environment";
    const REPLICA: &str = "launchway.replica";
    const SPEC: &str = "launchway.spec";
    const PORT: &str = "launchway.port";
    const GRACE: &str = "launchway.stop-grace";
    const HEALTH_PATH: &str = "launchway.health.path";
    const HEALTH_TIMEOUT: &str = "launchway.health.timeout-ms";
    const HEALTH_INTERVAL: &str = "launchway.health.interval-ms";

    pub(super) fn owner(owner: &str) -> String {
        format!("{}={owner}", Self::OWNER)
    }

    pub(super) fn deployment(id: &DeploymentId) -> String {
        format!("{}={id}", Self::DEPLOYMENT)
    }

    pub(super) fn deployment_in(labels: &HashMap<String, String>) -> Option<DeploymentId> {
        labels.get(Self::DEPLOYMENT)?.parse().ok()
    }

    pub(super) fn namespace_of(container: &ContainerSummary) -> Option<String> {
        label(container, Self::ENVIRONMENT).map(str::to_owned)
    }

    pub(super) fn deployment_of(container: &ContainerSummary) -> Option<DeploymentId> {
        label(container, Self::DEPLOYMENT)?.parse().ok()
    }

    pub(super) fn port(container: &ContainerSummary) -> Option<u16> {
        label(container, Self::PORT)?.parse().ok()
    }

    /// Seconds from SIGTERM to SIGKILL.
    pub(super) fn grace(container: &ContainerSummary) -> i32 {
        label(container, Self::GRACE).and_then(|text| text.parse().ok()).unwrap_or(10)
    }

    pub(super) fn health(container: &ContainerSummary) -> Health {
        let millis = |name, default| {
            let text = label(container, name).and_then(|text| text.parse().ok());
            Duration::from_millis(text.unwrap_or(default))
        };
        Health {
            path: label(container, Self::HEALTH_PATH).unwrap_or("/").to_owned(),
            timeout: millis(Self::HEALTH_TIMEOUT, 2000),
            interval: millis(Self::HEALTH_INTERVAL, 500),
        }
    }
}

fn label<'a>(container: &'a ContainerSummary, name: &str) -> Option<&'a str> {
    container.labels.as_ref()?.get(name).map(String::as_str)
}

/// The replica a container is, when it is what `spec` wants and runs or may
/// still be started. One that has ended is made anew.
pub(super) fn existing_replica(container: &ContainerSummary, spec: &InstanceSpec) -> Option<u32> {
    let replica: u32 = label(container, Labels::REPLICA)?.parse().ok()?;
    let same = label(container, Labels::SPEC)? == digest(spec);
    let running = container.state == Some(ContainerSummaryStateEnum::RUNNING);
    (same && running && replica < spec.replicas).then_some(replica)
}

/// Hash of everything that cannot be changed in a running container.
fn digest(spec: &InstanceSpec) -> String {
    let health = format!("{:?}", spec.health);
    let limits = format!("{}/{}", spec.cpu_millicores, spec.memory_mib);
    let mut hash = Sha256::new();
    let port = spec.port.to_string();
    let texts = [&spec.image, &port, &limits, &health, &spec.service_name];
    let env = spec.env.iter().flat_map(|(name, value)| [name, value]);
    for text in texts.into_iter().chain(env) {
        hash.update(text.len().to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The request that makes a replica.
pub(super) fn wanted(
    spec: &InstanceSpec,
    owner: &str,
    network: &str,
    replica: u32,
) -> (CreateContainerOptions, ContainerCreateBody) {
    let name = format!("launchway-{}-{replica}", spec.deployment_id.as_str().replace('_', "-"));
    let port = format!("{}/tcp", spec.port);
    let mut env: Vec<String> =
        spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !spec.env.contains_key("PORT") {
        env.push(format!("PORT={}", spec.port));
    }
    let aliases = Some(vec![spec.service_name.clone()]).filter(|_| !spec.service_name.is_empty());
    let endpoint = EndpointSettings { aliases, ..EndpointSettings::default() };
    let body = ContainerCreateBody {
        image: Some(spec.image.clone()),
        env: Some(env),
        labels: Some(labels(spec, owner, replica)),
        exposed_ports: Some(vec![port.clone()]),
        host_config: Some(host_config(spec, network, port)),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])),
        }),
        ..ContainerCreateBody::default()
    };
    (CreateContainerOptionsBuilder::new().name(&name).build(), body)
}

fn labels(spec: &InstanceSpec, owner: &str, replica: u32) -> HashMap<String, String> {
    [
        (Labels::OWNER, owner.to_owned()),
        (Labels::DEPLOYMENT, spec.deployment_id.to_string()),
        (Labels::PROJECT, spec.project_id.clone()),
        (Labels::ENVIRONMENT, spec.namespace.to_string()),
        (Labels::REPLICA, replica.to_string()),
        (Labels::SPEC, digest(spec)),
        (Labels::PORT, spec.port.to_string()),
        (Labels::GRACE, spec.stop_grace.as_secs().to_string()),
        (Labels::HEALTH_PATH, spec.health.path.clone()),
        (Labels::HEALTH_TIMEOUT, spec.health.timeout.as_millis().to_string()),
        (Labels::HEALTH_INTERVAL, spec.health.interval.as_millis().to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// No restart policy: an instance that ends before it is ready must be seen.
/// It is set once the instance is ready.
fn host_config(spec: &InstanceSpec, network: &str, port: String) -> HostConfig {
    let loopback =
        PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    HostConfig {
        network_mode: Some(network.to_owned()),
        port_bindings: Some(HashMap::from([(port, Some(vec![loopback]))])),
        nano_cpus: (spec.cpu_millicores > 0).then(|| i64::from(spec.cpu_millicores) * 1_000_000),
        memory: (spec.memory_mib > 0)
            .then(|| i64::try_from(spec.memory_mib << 20).unwrap_or(i64::MAX)),
        pids_limit: Some(PIDS_LIMIT),
        cap_drop: Some(owned(&["ALL"])),
        cap_add: Some(owned(&CAPABILITIES)),
        security_opt: Some(owned(&["no-new-privileges"])),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }),
        ..HostConfig::default()
    }
}
