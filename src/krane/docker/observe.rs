//! What one container is now.

use bollard::{
    Docker,
    container::LogOutput,
    errors::Error,
    models::{ContainerState, ContainerStateStatusEnum as Status, ContainerSummary, PortMap},
    query_parameters::LogsOptionsBuilder,
};
use futures::StreamExt;

use super::Labels;

/// Log lines kept of an instance that ended.
const TAIL: &str = "50";

/// See the module.
pub(super) enum Observed {
    /// Made, or between two starts.
    Starting,
    /// The loopback address the engine has published the port at, once it has.
    Running { address: String },
    /// Its process ended and is not started again.
    Ended { exit_code: i32, error: String, oom_killed: bool, tail: Vec<String> },
    /// Removed meanwhile.
    Gone,
}

/// Asks for the container itself: the engine tells of a death before its list
/// of containers shows it.
pub(super) async fn observe(
    docker: &Docker,
    container: &ContainerSummary,
) -> Result<Observed, Error> {
    let id = container.id.as_deref().unwrap_or_default();
    let found = match docker.inspect_container(id, None).await {
        Ok(found) => found,
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
            return Ok(Observed::Gone);
        }
        Err(error) => return Err(error),
    };
    let state = found.state.unwrap_or_default();
    Ok(match state.status.unwrap_or(Status::EMPTY) {
        Status::EMPTY | Status::CREATED | Status::RESTARTING => Observed::Starting,
        Status::RUNNING | Status::PAUSED | Status::STOPPING => {
            let ports = found.network_settings.and_then(|network| network.ports);
            Observed::Running {
                address: address(Labels::port(container), &ports.unwrap_or_default()),
            }
        }
        Status::EXITED | Status::DEAD | Status::REMOVING => ended(docker, id, state).await,
    })
}

async fn ended(docker: &Docker, id: &str, state: ContainerState) -> Observed {
    Observed::Ended {
        exit_code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
        error: state.error.unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or_default(),
        tail: tail(docker, id).await,
    }
}

async fn tail(docker: &Docker, id: &str) -> Vec<String> {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(TAIL).build();
    let output: Vec<LogOutput> =
        docker.logs(id, Some(options)).filter_map(|line| async { line.ok() }).collect().await;
    let text: Vec<u8> = output.into_iter().flat_map(|line| line.into_bytes().to_vec()).collect();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

fn address(port: Option<u16>, ports: &PortMap) -> String {
    let published = port
        .and_then(|port| ports.get(&format!("{port}/tcp")))
        .or_else(|| ports.values().find(|bindings| bindings.is_some()));
    published
        .iter()
        .filter_map(|bindings| bindings.as_ref())
        .flatten()
        .find_map(|binding| binding.host_port.clone().filter(|port| !port.is_empty()))
        .map(|port| format!("127.0.0.1:{port}"))
        .unwrap_or_default()
}
