//! krane on a Docker engine.

mod containers;
mod monitor;
mod networks;
mod observe;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    errors::Error,
    models::ContainerSummary,
    query_parameters::{
        CreateImageOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder,
    },
};
use futures::{StreamExt, future::try_join_all};
use launchway_proto::krane::v1::Instance;
use launchway_workflows::ids::DeploymentId;

use crate::registry::Login;

use super::{
    backend::{Backend, BackendError, InstanceSpec},
    probe::Prober,
    table::Table,
};
use containers::{Labels, existing_replica};
use monitor::Monitor;

/// Longest single call of the engine's API, a stop's grace included.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest pull of an image.
const PULL_LIMIT: Duration = Duration::from_secs(540);
/// A port that nobody named.
const DEFAULT_PORT: u16 = 8080;

/// Settings of the backend.
#[derive(Debug, Clone)]
pub struct DockerSettings {
    /// Tells the containers of several installations on one engine apart.
    pub owner: String,
    /// Who pulls from the registry that images are pushed to.
    pub login: Option<Login>,
}

/// Runs instances as containers.
#[derive(Clone)]
pub struct DockerBackend {
    docker: Docker,
    owner: String,
    login: Option<Login>,
    table: Arc<Table>,
    monitor: Monitor,
    /// One apply or delete of a deployment at a time.
    turns: Arc<Mutex<HashMap<DeploymentId, Arc<tokio::sync::Mutex<()>>>>>,
    /// One network is made at a time.
    networks: Arc<tokio::sync::Mutex<()>>,
}

impl DockerBackend {
    /// The engine named by `DOCKER_HOST`, else its default socket. Starts to
    /// adopt and watch the containers of `owner` in the background.
    ///
    /// # Errors
    /// `DOCKER_HOST` cannot be read.
    pub fn start(settings: DockerSettings) -> Result<Self, Error> {
        let docker = Docker::connect_with_defaults()?.with_timeout(ENGINE_TIMEOUT);
        let table = Arc::new(Table::default());
        let monitor = Monitor::start(
            docker.clone(),
            settings.owner.clone(),
            Arc::clone(&table),
            Prober::new(),
        );
        Ok(Self {
            docker,
            owner: settings.owner,
            login: settings.login,
            table,
            monitor,
            turns: Arc::default(),
            networks: Arc::default(),
        })
    }

    async fn turn(&self, id: &DeploymentId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(id.clone()).or_default())
        };
        turn.lock_owned().await
    }

    async fn containers_of(
        &self,
        id: &DeploymentId,
    ) -> Result<Vec<ContainerSummary>, BackendError> {
        list(&self.docker, &[Labels::owner(&self.owner), Labels::deployment(id)]).await
    }

    /// The image's id and the only port it exposes, pulling it where absent.
    async fn image(&self, image: &str) -> Result<(String, Option<u16>), BackendError> {
        let unavailable =
            |reason: String| BackendError::ImageUnavailable { image: image.to_owned(), reason };
        let found = match self.docker.inspect_image(image).await {
            Ok(found) => found,
            Err(error) if is_not_found(&error) && image.starts_with("sha256:") => {
                return Err(unavailable("this engine does not have it".to_owned()));
            }
            Err(error) if is_not_found(&error) => {
                self.pull(image).await.map_err(unavailable)?;
                self.docker.inspect_image(image).await.map_err(|error| failed(&error))?
            }
            Err(error) => return Err(failed(&error)),
        };
        let exposed = found.config.and_then(|config| config.exposed_ports).unwrap_or_default();
        let mut ports = exposed.iter().filter_map(|port| port.strip_suffix("/tcp")?.parse().ok());
        let only = ports.next().filter(|_| ports.next().is_none());
        Ok((found.id.unwrap_or_else(|| image.to_owned()), only))
    }

    async fn pull(&self, image: &str) -> Result<(), String> {
        let options = CreateImageOptionsBuilder::new().from_image(image).build();
        let credentials = self.login.as_ref().filter(|login| login.is_for(host_of(image)));
        let credentials = credentials.map(Login::for_engine);
        let mut progress = self.docker.create_image(Some(options), None, credentials);
        let pulling = async {
            while let Some(message) = progress.next().await {
                message.map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        match tokio::time::timeout(PULL_LIMIT, pulling).await {
            Ok(result) => result,
            Err(_) => Err(format!("the pull did not end within {} s", PULL_LIMIT.as_secs())),
        }
    }

    async fn start_replica(
        &self,
        spec: &InstanceSpec,
        network: &str,
        replica: u32,
    ) -> Result<(), BackendError> {
        let (options, body) = containers::wanted(spec, &self.owner, network, replica);
        let name = options.name.clone().unwrap_or_default();
        match self.docker.create_container(Some(options), body).await {
            Ok(_) => {}
            // An earlier run of this very apply got as far as creating it.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => {}
            Err(error) => return Err(failed(&error)),
        }
        self.docker.start_container(&name, None).await.map_err(|error| failed(&error))
    }

    async fn remove(&self, container: &ContainerSummary) -> Result<(), BackendError> {
        let id = container.id.as_deref().unwrap_or_default();
        let grace = Labels::grace(container);
        let stop = StopContainerOptionsBuilder::new().t(grace).build();
        if let Err(error) = self.docker.stop_container(id, Some(stop)).await
            && !is_not_found(&error)
            && !is_not_modified(&error)
        {
            return Err(failed(&error));
        }
        let remove = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(id, Some(remove)).await {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            // Somebody else is removing it: that is what we want.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }
}

#[async_trait]
impl Backend for DockerBackend {
    async fn apply(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        let _turn = self.turn(&spec.deployment_id).await;
        let (image, exposed) = self.image(&spec.image).await?;
        let port = if spec.port == 0 { exposed.unwrap_or(DEFAULT_PORT) } else { spec.port };
        let spec = InstanceSpec { image, port, ..spec.clone() };
        let network = {
            let _turn = self.networks.lock().await;
            networks::ensure(&self.docker, &self.owner, &spec.namespace).await?
        };
        let present = self.containers_of(&spec.deployment_id).await?;
        let kept: Vec<u32> =
            present.iter().filter_map(|container| existing_replica(container, &spec)).collect();
        let surplus =
            present.iter().filter(|container| existing_replica(container, &spec).is_none());
        try_join_all(surplus.map(|container| self.remove(container))).await?;
        let missing = (0..spec.replicas).filter(|replica| !kept.contains(replica));
        try_join_all(missing.map(|replica| self.start_replica(&spec, &network, replica))).await?;
        self.monitor.refresh(&spec.deployment_id).await;
        tracing::info!(deployment = %spec.deployment_id, replicas = spec.replicas, port, "applied");
        Ok(())
    }

    async fn get(&self, id: &DeploymentId) -> Result<Vec<Instance>, BackendError> {
        self.monitor.refresh(id).await;
        Ok(self.table.get(id).instances.to_vec())
    }

    async fn delete(&self, id: &DeploymentId) -> Result<(), BackendError> {
        let _turn = self.turn(id).await;
        let present = self.containers_of(id).await?;
        let namespaces: Vec<String> = present.iter().filter_map(Labels::namespace_of).collect();
        try_join_all(present.iter().map(|container| self.remove(container))).await?;
        if let Some(namespace) = namespaces.first() {
            let _turn = self.networks.lock().await;
            networks::remove_if_empty(&self.docker, &self.owner, namespace).await;
        }
        self.monitor.refresh(id).await;
        tracing::info!(deployment = %id, instances = present.len(), "deleted");
        Ok(())
    }

    fn table(&self) -> &Arc<Table> {
        &self.table
    }
}

/// The registry of a reference; without one it is Docker's own.
fn host_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

async fn list(docker: &Docker, labels: &[String]) -> Result<Vec<ContainerSummary>, BackendError> {
    let filters = HashMap::from([("label", labels.to_vec())]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    docker.list_containers(Some(options)).await.map_err(|error| failed(&error))
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

fn is_not_modified(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 304, .. })
}

fn failed(error: &Error) -> BackendError {
    match error {
        Error::DockerResponseServerError { status_code: 400 | 403, message } => {
            BackendError::Rejected(message.clone())
        }
        error => BackendError::Unavailable(error.to_string()),
    }
}
