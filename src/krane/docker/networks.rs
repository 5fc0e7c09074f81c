//! A bridge network per namespace.

use std::collections::HashMap;

use bollard::{Docker, errors::Error, models::NetworkCreateRequest};
use launchway_workflows::ids::EnvironmentId;

use super::{Labels, failed, list};
use crate::krane::backend::BackendError;

/// The namespace's network, made where there is none. Callers take turns.
pub(super) async fn ensure(
    docker: &Docker,
    owner: &str,
    namespace: &EnvironmentId,
) -> Result<String, BackendError> {
    let name = name_of(namespace.as_str());
    match docker.inspect_network(&name, None).await {
        Ok(_) => return Ok(name),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(error) => return Err(failed(&error)),
    }
    let (key, value) = ("launchway.owner".to_owned(), owner.to_owned());
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        labels: Some(HashMap::from([(key, value)])),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(request).await.map_err(|error| failed(&error))?;
    Ok(name)
}

/// Removes the network when nothing of ours is in it any more. The engine
/// refuses to remove one that is in use, so a mistake breaks nothing.
pub(super) async fn remove_if_empty(docker: &Docker, owner: &str, namespace: &str) {
    let labels = [Labels::owner(owner), format!("launchway.environment={namespace}")];
    if list(docker, &labels).await.is_ok_and(|containers| containers.is_empty())
        && let Err(error) = docker.remove_network(&name_of(namespace)).await
    {
        tracing::debug!(namespace, %error, "the network stays");
    }
}

fn name_of(namespace: &str) -> String {
    format!("launchway-{}", namespace.replace('_', "-"))
}
