//! Where the Docker engine is, and whether it answers.

use std::{path::PathBuf, time::Duration};

use bollard::Docker;

use super::buildkit::EngineAddress;

/// Longest wait for the engine's answer to a question.
const ASK: Duration = Duration::from_secs(5);
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// What `DOCKER_HOST` names, or the default socket without it.
///
/// # Errors
/// One sentence with the rule.
pub(super) fn address(docker_host: Option<&str>) -> Result<EngineAddress, String> {
    let Some(host) = docker_host.filter(|host| !host.is_empty()) else {
        return Ok(EngineAddress::Unix(PathBuf::from(DEFAULT_SOCKET)));
    };
    if let Some(path) = host.strip_prefix("unix://") {
        return Ok(EngineAddress::Unix(PathBuf::from(path)));
    }
    match host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
        Some(address) => Ok(EngineAddress::Tcp(address.trim_end_matches('/').to_owned())),
        None => Err(format!(
            "DOCKER_HOST = `{host}`: give unix://PATH or tcp://HOST:PORT; for an engine behind TLS \
             use the buildkit builder with its address"
        )),
    }
}

/// The version of the Docker engine, when it answers.
///
/// # Errors
/// One sentence with the remedy.
pub async fn engine_version() -> Result<String, String> {
    let remedy =
        "start the Docker engine (`systemctl start docker`, or `./dev setup`) or set DOCKER_HOST";
    let docker = Docker::connect_with_defaults()
        .map_err(|error| format!("DOCKER_HOST cannot be read: {error}; {remedy}"))?;
    match tokio::time::timeout(ASK, docker.version()).await {
        Ok(Ok(version)) => Ok(version.version.unwrap_or_default()),
        Ok(Err(error)) => Err(format!("the Docker engine does not answer: {error}; {remedy}")),
        Err(_) => Err(format!("the Docker engine does not answer within 5 s; {remedy}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_docker_host_is_understood_or_named() {
        let unix = |path: &str| Ok(EngineAddress::Unix(PathBuf::from(path)));
        assert_eq!(address(None), unix("/var/run/docker.sock"));
        assert_eq!(address(Some("unix:///run/d.sock")), unix("/run/d.sock"));
        assert_eq!(address(Some("tcp://h:2375")), Ok(EngineAddress::Tcp("h:2375".to_owned())));
        assert!(address(Some("ssh://h")).unwrap_err().contains("ssh://h"));
    }
}
