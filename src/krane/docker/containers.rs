//! What a container of ours looks like.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    models::{
        ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, NetworkingConfig,
        PortBinding,
    },
    query_parameters::{CreateContainerOptions, CreateContainerOptionsBuilder},
};
use launchway_workflows::{app::WEB, ids::DeploymentId};
use sha2::{Digest, Sha256};

use super::{
    image::Image,
    labels::{self, Own},
};
use crate::krane::backend::{InstanceSpec, Label, ProcessSpec, TaskSpec};

/// Processes and threads of one container: far above what applications use,
/// far below what brings a host down.
const PIDS_LIMIT: i64 = 4096;
/// What images commonly need to become another user at start and to listen
/// below 1024; everything else is dropped.
const CAPABILITIES: [&str; 6] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID", "NET_BIND_SERVICE"];

/// A container that is wanted.
pub(super) struct Wanted<'s> {
    spec: &'s InstanceSpec,
    pub(super) process: &'s ProcessSpec,
    pub(super) replica: u32,
    image: &'s Image,
    digest: String,
}

impl<'s> Wanted<'s> {
    /// All containers of the spec.
    pub(super) fn all(spec: &'s InstanceSpec, image: &'s Image) -> Vec<Self> {
        let of_process = |process: &'s ProcessSpec| {
            let digest = digest(spec, process, image);
            (0..process.replicas).map(move |replica| Self {
                spec,
                process,
                replica,
                image,
                digest: digest.clone(),
            })
        };
        spec.processes.iter().flat_map(of_process).collect()
    }

    /// The container is what is wanted.
    pub(super) fn is(&self, own: &Own) -> bool {
        own.process == self.process.name.as_str()
            && own.replica == self.replica
            && own.spec == self.digest
    }

    /// With the hash, so that an old and a new one can be there at once.
    pub(super) fn name(&self) -> String {
        let place = place(&self.spec.deployment_id, &self.process.name, self.replica);
        format!("{place}-{}", &self.digest[..8])
    }

    /// The request that makes it.
    pub(super) fn request(
        &self,
        owner: &str,
        network: &str,
    ) -> (CreateContainerOptions, ContainerCreateBody) {
        let port = self.process.port.number(self.image.exposed);
        let mut env = variables(&self.spec.env);
        if let Some(port) = port.filter(|_| !self.spec.env.contains_key("PORT")) {
            env.push(format!("PORT={port}"));
        }
        let mut host = host_config(network, self.process.cpu_millicores, self.process.memory_mib);
        host.port_bindings = port.map(published);
        let aliases = alias(self.spec, self.process).map(|alias| vec![alias]);
        let labels =
            labels::of_instance(self.spec, self.process, port, owner, self.replica, &self.digest);
        let body = ContainerCreateBody {
            image: Some(self.image.id.clone()),
            cmd: Some(self.process.command.clone()).filter(|command| !command.is_empty()),
            env: Some(env),
            labels: Some(labels),
            exposed_ports: port.map(|port| vec![format!("{port}/tcp")]),
            stop_signal: self.spec.stop_signal.clone(),
            host_config: Some(host),
            networking_config: Some(networking(network, aliases)),
            ..ContainerCreateBody::default()
        };
        (CreateContainerOptionsBuilder::new().name(&self.name()).build(), body)
    }
}

/// A replica of a process, whatever it is made from.
pub(super) fn place(id: &DeploymentId, process: &Label, replica: u32) -> String {
    format!("launchway-{}-{process}-{replica}", id.as_str().replace('_', "-"))
}

/// `web` has the service's name, the others add their own.
fn alias(spec: &InstanceSpec, process: &ProcessSpec) -> Option<String> {
    match (spec.service_name.as_str(), process.name.as_str()) {
        ("", _) => None,
        (service, WEB) => Some(service.to_owned()),
        (service, process) => Some(format!("{service}-{process}")),
    }
}

/// Hash of everything that cannot be changed in a running container.
fn digest(spec: &InstanceSpec, process: &ProcessSpec, image: &Image) -> String {
    let shape = format!(
        "{:?}/{}/{}/{:?}/{:?}/{:?}/{:?}",
        process.port.number(image.exposed),
        process.cpu_millicores,
        process.memory_mib,
        process.health,
        process.command,
        spec.stop_signal,
        spec.stop_grace,
    );
    let mut hash = Sha256::new();
    let texts = [&image.id, &shape, &spec.service_name];
    let env = spec.env.iter().flat_map(|(name, value)| [name, value]);
    for text in texts.into_iter().chain(env) {
        hash.update(text.len().to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a task's container: that it exists is the record of its start.
pub(super) fn task_name(id: &DeploymentId, task: &Label) -> String {
    format!("launchway-{}-task-{task}", id.as_str().replace('_', "-"))
}

/// The request that makes a task's container.
pub(super) fn task_request(
    spec: &TaskSpec,
    owner: &str,
    network: &str,
    image: &Image,
) -> (CreateContainerOptions, ContainerCreateBody) {
    let name = task_name(&spec.deployment_id, &spec.task_id);
    let command = Some(spec.command.clone()).filter(|command| !command.is_empty());
    let (entrypoint, cmd) = if spec.replace_entrypoint { (command, None) } else { (None, command) };
    let body = ContainerCreateBody {
        image: Some(image.id.clone()),
        entrypoint,
        cmd,
        env: Some(variables(&spec.env)),
        labels: Some(labels::of_task(spec, owner)),
        host_config: Some(host_config(network, spec.cpu_millicores, spec.memory_mib)),
        networking_config: Some(networking(network, None)),
        ..ContainerCreateBody::default()
    };
    (CreateContainerOptionsBuilder::new().name(&name).build(), body)
}

fn variables(env: &BTreeMap<String, String>) -> Vec<String> {
    env.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn networking(network: &str, aliases: Option<Vec<String>>) -> NetworkingConfig {
    let endpoint = EndpointSettings { aliases, ..EndpointSettings::default() };
    NetworkingConfig { endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])) }
}

/// On loopback, at a port that the engine chooses.
fn published(port: u16) -> HashMap<String, Option<Vec<PortBinding>>> {
    let loopback =
        PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    HashMap::from([(format!("{port}/tcp"), Some(vec![loopback]))])
}

/// No restart policy: an instance that ends before it is ready must be seen.
/// It is set once the instance is ready.
fn host_config(network: &str, cpu_millicores: u32, memory_mib: u64) -> HostConfig {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    HostConfig {
        network_mode: Some(network.to_owned()),
        nano_cpus: (cpu_millicores > 0).then(|| i64::from(cpu_millicores) * 1_000_000),
        memory: (memory_mib > 0).then(|| i64::try_from(memory_mib << 20).unwrap_or(i64::MAX)),
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
