//! A bridge network per namespace.

use bollard::{
    Docker,
    errors::Error,
    models::{Ipam, IpamConfig, NetworkCreateRequest},
};
use launchway_workflows::ids::EnvironmentId;

use super::{failed, is_not_found, labels, list};
use crate::krane::backend::BackendError;

/// What is tried once the engine's own address pools are used up: 31 networks
/// on an engine that nobody has configured.
const SUBNETS: u8 = 255;

/// The namespace's network, made where there is none. Callers take turns.
pub(super) async fn ensure(
    docker: &Docker,
    owner: &str,
    namespace: &EnvironmentId,
) -> Result<String, BackendError> {
    let name = name_of(namespace.as_str());
    match docker.inspect_network(&name, None).await {
        Ok(_) => return Ok(name),
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(failed(&error)),
    }
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        labels: Some(labels::of_network(owner, namespace.as_str())),
        ..NetworkCreateRequest::default()
    };
    match docker.create_network(request.clone()).await {
        Ok(_) => {}
        Err(error) if says(&error, "address pool") => in_own_pool(docker, request).await?,
        Err(error) => return Err(failed(&error)),
    }
    Ok(name)
}

/// The first of 10.201.0.0/24 … 10.201.254.0/24 that nobody has.
async fn in_own_pool(docker: &Docker, request: NetworkCreateRequest) -> Result<(), BackendError> {
    for number in 0..SUBNETS {
        let subnet = Some(format!("10.201.{number}.0/24"));
        let config = Some(vec![IpamConfig { subnet, ..IpamConfig::default() }]);
        let ipam = Some(Ipam { config, ..Ipam::default() });
        match docker.create_network(NetworkCreateRequest { ipam, ..request.clone() }).await {
            Ok(_) => return Ok(()),
            Err(error) if says(&error, "overlap") => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    Err(BackendError::Rejected(
        "no network addresses are left: remove networks with `docker network prune`".to_owned(),
    ))
}

fn says(error: &Error, what: &str) -> bool {
    matches!(error, Error::DockerResponseServerError { message, .. } if message.contains(what))
}

/// Removes the network when nothing of ours is in it any more. The engine
/// refuses to remove one that is in use, so a mistake breaks nothing.
pub(super) async fn remove_if_empty(docker: &Docker, owner: &str, namespace: &str) {
    let labels = [labels::owned_by(owner), labels::in_namespace(namespace)];
    if list(docker, &labels).await.is_ok_and(|containers| containers.is_empty())
        && let Err(error) = docker.remove_network(&name_of(namespace)).await
    {
        tracing::debug!(namespace, %error, "the network stays");
    }
}

fn name_of(namespace: &str) -> String {
    format!("launchway-{}", namespace.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn networks_beyond_the_engines_pools_do_not_overlap() {
        let docker = Docker::connect_with_defaults().unwrap();
        let names: Vec<String> =
            (0..2).map(|_| name_of(EnvironmentId::generate().as_str())).collect();
        let mut subnets = Vec::new();
        for name in &names {
            let request = NetworkCreateRequest { name: name.clone(), ..Default::default() };
            in_own_pool(&docker, request).await.unwrap();
            let found = docker.inspect_network(name, None).await.unwrap();
            subnets.push(found.ipam.unwrap().config.unwrap()[0].subnet.clone().unwrap());
        }
        for name in &names {
            docker.remove_network(name).await.unwrap();
        }
        assert!(subnets.iter().all(|subnet| subnet.starts_with("10.201.")), "{subnets:?}");
        assert_ne!(subnets[0], subnets[1]);
    }
}
