//! krane on a Docker engine.

mod apply;
mod attach;
mod containers;
mod exec;
mod found;
mod image;
mod labels;
mod logs;
mod monitor;
mod networks;
mod observe;
mod output;
mod probing;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    errors::Error,
    models::{ContainerCreateBody, ContainerSummary},
    query_parameters::{
        CreateContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder,
    },
};
use futures::stream::BoxStream;
use launchway_proto::krane::v1::{Found, Instance, LogLine, TaskEvent, exec_input, exec_output};
use launchway_workflows::ids::{DeploymentId, EnvironmentId};

use crate::registry::Login;

use super::{
    backend::{Backend, BackendError, ExecSpec, Feed, InstanceSpec, Label, LogQuery, TaskSpec},
    table::Table,
    turns::{Turn, Turns},
};
use labels::Own;
use monitor::{Monitor, lock};
use tasks::Tasks;

/// Longest single call of the engine's API, a stop's grace included.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(120);

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
    tasks: Tasks,
    /// One apply or delete of a deployment, or start of a task, at a time.
    turns: Arc<Turns<DeploymentId>>,
    /// One network is made at a time.
    networks: Arc<tokio::sync::Mutex<()>>,
    /// Whose networks were looked for: a deployment may end without a container
    /// that says so.
    namespaces: Arc<Mutex<HashMap<DeploymentId, String>>>,
}

impl DockerBackend {
    /// The engine named by `DOCKER_HOST`, else its default socket. Starts to
    /// adopt and watch the containers of `owner` in the background.
    ///
    /// # Errors
    /// `DOCKER_HOST` cannot be read.
    pub fn start(settings: DockerSettings) -> Result<Self, Error> {
        let DockerSettings { owner, login } = settings;
        let docker = Docker::connect_with_defaults()?.with_timeout(ENGINE_TIMEOUT);
        let table = Arc::new(Table::default());
        let tasks = Tasks::new(docker.clone(), owner.clone());
        let monitor =
            Monitor::start(docker.clone(), owner.clone(), Arc::clone(&table), tasks.clone());
        Ok(Self {
            docker,
            owner,
            login,
            table,
            monitor,
            tasks,
            turns: Arc::default(),
            networks: Arc::default(),
            namespaces: Arc::default(),
        })
    }

    async fn network(
        &self,
        id: &DeploymentId,
        namespace: &EnvironmentId,
    ) -> Result<String, BackendError> {
        let _turn = self.networks.lock().await;
        lock(&self.namespaces).insert(id.clone(), namespace.to_string());
        networks::ensure(&self.docker, &self.owner, namespace).await
    }

    async fn remove_network_if_empty(&self, namespace: &str) {
        let _turn = self.networks.lock().await;
        networks::remove_if_empty(&self.docker, &self.owner, namespace).await;
    }
}

#[async_trait]
impl Backend for DockerBackend {
    async fn apply(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        self.apply_all(spec).await
    }

    async fn get(&self, id: &DeploymentId) -> Result<Vec<Instance>, BackendError> {
        self.monitor.refresh(id).await;
        Ok(self.table.get(id).instances.to_vec())
    }

    async fn delete(&self, id: &DeploymentId) -> Result<(), BackendError> {
        self.delete_all(id).await
    }

    fn table(&self) -> &Arc<Table> {
        &self.table
    }

    async fn logs(&self, query: LogQuery) -> Result<Feed<LogLine>, BackendError> {
        self.monitor.refresh(&query.deployment_id).await;
        Ok(logs::read(&self.docker, &self.table, query))
    }

    async fn run_task(&self, spec: TaskSpec) -> Result<Feed<TaskEvent>, BackendError> {
        let (id, task) = (&spec.deployment_id, &spec.task_id);
        if let Some(started) = self.tasks.started(id, task).await? {
            return Ok(self.tasks.follow(started, true, task));
        }
        if spec.join_only {
            return Err(BackendError::UnknownTask(task.clone()));
        }
        let image = image::find(&self.docker, self.login.as_ref(), &spec.image, |_| {}).await?;
        let turn = self.turns.take(id).await;
        if let Some(started) = self.tasks.started(id, task).await? {
            return Ok(self.tasks.follow(started, true, task));
        }
        let network = self.network(id, &spec.namespace).await?;
        let started = self.tasks.start(&spec, &image, &network, turn).await?;
        Ok(self.tasks.follow(started, false, task))
    }

    async fn delete_task(&self, id: &DeploymentId, task: &Label) -> Result<(), BackendError> {
        let _turn = self.turns.take(id).await;
        if let Some(namespace) = self.tasks.delete(id, task).await? {
            self.remove_network_if_empty(&namespace).await;
        }
        Ok(())
    }

    async fn exec(
        &self,
        spec: ExecSpec,
        input: BoxStream<'static, exec_input::Input>,
    ) -> Result<Feed<exec_output::Output>, BackendError> {
        exec::run(&self.docker, &self.table, spec, input).await
    }

    async fn list(&self, sizes: bool) -> Result<Vec<Found>, BackendError> {
        found::all(&self.docker, &self.owner, sizes).await
    }
}

fn filters(labels: &[String]) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.to_vec())])
}

async fn list(docker: &Docker, labels: &[String]) -> Result<Vec<ContainerSummary>, BackendError> {
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters(labels)).build();
    docker.list_containers(Some(options)).await.map_err(|error| failed(&error))
}

/// Those that are instances.
fn own(containers: Vec<ContainerSummary>) -> Vec<(ContainerSummary, Own)> {
    let own = containers.into_iter().filter_map(|container| {
        let own = Own::of(container.labels.as_ref()?)?;
        Some((container, own))
    });
    own.collect()
}

async fn instances_of(
    docker: &Docker,
    owner: &str,
    id: &DeploymentId,
) -> Result<Vec<(ContainerSummary, Own)>, BackendError> {
    let wanted = [labels::owned_by(owner), labels::of_deployment(id), labels::INSTANCES.to_owned()];
    Ok(own(list(docker, &wanted).await?))
}

/// Makes a container and starts it. The engine does not stop half-way when the
/// caller goes away: the turn is held until it has done both, or what deletes
/// it next would miss it.
async fn make(
    docker: &Docker,
    options: CreateContainerOptions,
    body: ContainerCreateBody,
    turn: Arc<Turn>,
) -> Result<(), BackendError> {
    let docker = docker.clone();
    let making = tokio::spawn(async move {
        let _turn = turn;
        let name = options.name.clone().unwrap_or_default();
        match docker.create_container(Some(options), body).await {
            Ok(_) => {}
            // An earlier run of this got as far as creating it.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => {}
            Err(error) => return Err(failed(&error)),
        }
        docker.start_container(&name, None).await.map_err(|error| failed(&error))
    });
    making.await.map_err(|error| BackendError::Unavailable(error.to_string()))?
}

/// Asks it to end, and kills it after so many seconds; one that is gone has.
async fn stop(docker: &Docker, container: &str, grace: i32) -> Result<(), BackendError> {
    let stop = StopContainerOptionsBuilder::new().t(grace).build();
    match docker.stop_container(container, Some(stop)).await {
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

async fn remove(docker: &Docker, container: &str) -> Result<(), BackendError> {
    let remove = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match docker.remove_container(container, Some(remove)).await {
        // 409: somebody else is removing it, which is what we want.
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

fn id_of(container: &ContainerSummary) -> &str {
    container.id.as_deref().unwrap_or_default()
}

fn name_of(container: &ContainerSummary) -> String {
    let names = container.names.as_deref().unwrap_or_default();
    names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default()
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

fn failed(error: &Error) -> BackendError {
    match error {
        Error::DockerResponseServerError { status_code: 400 | 403, message } => {
            BackendError::Rejected(message.clone())
        }
        error => BackendError::Unavailable(error.to_string()),
    }
}
