//! What one container is now.

use bollard::{
    Docker,
    container::LogOutput,
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, HostConfig,
        NetworkSettings, PortMap,
    },
    query_parameters::LogsOptionsBuilder,
};
use futures::StreamExt;
use launchway_proto::krane::v1::{DeploymentStatus, Instance, NotReadyReason};

use super::{is_not_found, labels::Own};

/// Log lines kept of an instance that ended.
const TAIL: usize = 50;
/// Bytes of them; a line may be long.
const TAIL_BYTES: usize = 64 * 1024;
const MIB: u64 = 1 << 20;

/// An instance as the engine has it: all but what its checks have found.
pub(super) struct Observed {
    pub(super) instance: Instance,
    /// Set while its process runs.
    pub(super) run: Option<Run>,
}

/// A process that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// The container's id.
    pub(super) container: String,
    /// Milliseconds since the epoch; another one after a restart.
    pub(super) started_at: i64,
    /// The loopback address the port is published at; empty: none.
    pub(super) address: String,
    /// In the namespace's network.
    pub(super) ip: String,
}

/// Asks for the container itself: the engine tells of a death before its list
/// of containers shows it. `None`: it is gone.
pub(super) async fn observe(
    docker: &Docker,
    own: &Own,
    container: &str,
) -> Result<Option<Observed>, Error> {
    let found = match docker.inspect_container(container, None).await {
        Ok(found) => found,
        Err(error) if is_not_found(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut instance = known(own, &found);
    let state = found.state.unwrap_or_default();
    let network = found.network_settings.unwrap_or_default();
    let mut run = None;
    match state.status.unwrap_or(Status::EMPTY) {
        Status::EMPTY | Status::CREATED => {}
        Status::RESTARTING => {
            let code = state.exit_code.unwrap_or_default();
            instance.message = format!("it ended with code {code} and is started again");
            instance.set_reason(NotReadyReason::CrashLoop);
        }
        Status::RUNNING | Status::PAUSED | Status::STOPPING => {
            instance.set_status(DeploymentStatus::Running);
            instance.address = own.port.map(|port| address(port, &network)).unwrap_or_default();
            run = Some(Run {
                container: container.to_owned(),
                started_at: instance.started_at,
                address: instance.address.clone(),
                ip: ip(network),
            });
        }
        Status::EXITED | Status::DEAD | Status::REMOVING => {
            ended(&mut instance, state);
            instance.log_tail = tail(docker, container).await;
        }
    }
    Ok(Some(Observed { instance, run }))
}

fn known(own: &Own, found: &ContainerInspectResponse) -> Instance {
    let name = found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    let state = found.state.as_ref();
    let mut instance = Instance {
        id: name,
        status: DeploymentStatus::Pending.into(),
        process: own.process.clone(),
        replica: own.replica,
        routed: own.port.is_some(),
        restarts: found.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        started_at: state.and_then(|state| millis(state.started_at.as_deref())).unwrap_or(0),
        ..Instance::default()
    };
    if let Some(host) = &found.host_config {
        limits(&mut instance, host);
    }
    instance
}

fn limits(instance: &mut Instance, host: &HostConfig) {
    let positive = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    let cpu = positive(host.nano_cpus).unwrap_or(0) / 1_000_000;
    instance.cpu_millicores = u32::try_from(cpu).unwrap_or(u32::MAX);
    instance.memory_size_mib = positive(host.memory).unwrap_or(0) / MIB;
    let pids = positive(host.pids_limit).unwrap_or(0);
    instance.pids_limit = u32::try_from(pids).unwrap_or(u32::MAX);
}

fn ended(instance: &mut Instance, state: ContainerState) {
    instance.set_status(DeploymentStatus::Terminating);
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    instance.exit_code = Some(code.unwrap_or(-1));
    instance.permanent = true;
    instance.oom_killed = state.oom_killed.unwrap_or_default();
    match instance.oom_killed {
        true => {
            instance.message = "out of memory".to_owned();
            instance.set_reason(NotReadyReason::OutOfMemory);
        }
        false => {
            instance.message = state.error.unwrap_or_default();
            instance.set_reason(NotReadyReason::Exited);
        }
    }
}

/// Milliseconds since the epoch; `None` for the engine's "never".
pub(super) fn millis(time: Option<&str>) -> Option<i64> {
    let time: jiff::Timestamp = time?.parse().ok()?;
    Some(time.as_millisecond()).filter(|millis| *millis > 0)
}

async fn tail(docker: &Docker, id: &str) -> Vec<String> {
    let tail = TAIL.to_string();
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&tail).build();
    let mut text = Vec::new();
    let mut output = std::pin::pin!(docker.logs(id, Some(options)));
    while let Some(Ok(part)) = output.next().await {
        text.extend_from_slice(&LogOutput::into_bytes(part));
        let over = text.len().saturating_sub(TAIL_BYTES);
        text.drain(..over);
    }
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

fn address(port: u16, network: &NetworkSettings) -> String {
    let none = PortMap::default();
    let ports = network.ports.as_ref().unwrap_or(&none);
    let published = ports.get(&format!("{port}/tcp")).and_then(Option::as_ref);
    let host_port = published
        .into_iter()
        .flatten()
        .find_map(|binding| binding.host_port.as_deref().filter(|port| !port.is_empty()));
    host_port.map(|port| format!("127.0.0.1:{port}")).unwrap_or_default()
}

fn ip(network: NetworkSettings) -> String {
    let networks = network.networks.unwrap_or_default();
    networks.into_values().find_map(|endpoint| endpoint.ip_address).unwrap_or_default()
}
