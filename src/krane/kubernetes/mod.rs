//! krane on Kubernetes: docs/kubernetes.md, docs/adr/0015-krane-on-kubernetes.md.

mod access;
mod apply;
mod call;
mod checks;
mod connect;
mod exec;
mod inquiry;
mod lines;
mod logs;
mod monitor;
mod names;
mod objects;
mod patching;
mod quantity;
mod removal;
mod report;
mod service;
mod settings;
mod settle;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod trouble;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use launchway_proto::krane::v1::{Found, Instance, LogLine, TaskEvent, exec_input, exec_output};
use launchway_workflows::ids::DeploymentId;

use super::{
    backend::{Backend, BackendError, ExecSpec, Feed, InstanceSpec, Label, LogQuery, TaskSpec},
    probe::Prober,
    table::Table,
    turns::Turns,
};
pub use access::check_cluster;
pub use connect::Cluster;
use monitor::Monitor;
use objects::Style;
pub use settings::{Admitted, Autoscale, KubernetesSettings, Patience, PodSecurity, Probes, Quota};

/// Runs instances as pods.
#[derive(Clone)]
pub struct KubernetesBackend {
    client: Client,
    settings: Arc<KubernetesSettings>,
    style: Arc<Style>,
    table: Arc<Table>,
    monitor: Monitor,
    /// One apply or delete of a deployment at a time.
    turns: Arc<Turns<DeploymentId>>,
}

impl KubernetesBackend {
    /// Starts to adopt and watch the owner's pods in the background; the cluster
    /// need not answer yet.
    ///
    /// # Errors
    /// One sentence with the remedy: who we are to the cluster cannot be read.
    pub async fn start(settings: KubernetesSettings) -> Result<Self, String> {
        let connection = settings.cluster.connect().await?;
        let krane_probes = match settings.probes {
            Probes::Auto => connection.inside,
            Probes::Krane => true,
            Probes::Kubelet => false,
        };
        tracing::info!(url = connection.url, krane_probes, "krane runs instances on Kubernetes");
        let style = Style {
            owner: settings.owner.clone(),
            security: settings.security,
            read_only_root: settings.read_only_root,
            run_as_user: settings.run_as_user,
            pulls_with_login: settings.login().is_some(),
            krane_probes,
            autoscale: settings.autoscale,
        };
        let table = Arc::new(Table::default());
        let client = connection.client;
        let (prober, patience) = (Prober::new(), settings.patience);
        let monitor =
            Monitor::start(client.clone(), &settings.owner, Arc::clone(&table), prober, patience);
        Ok(Self {
            client,
            settings: Arc::new(settings),
            style: Arc::new(style),
            table,
            monitor,
            turns: Arc::default(),
        })
    }

    /// Removes every deployment and task of the owner; namespaces stay.
    ///
    /// # Errors
    /// The cluster does not answer, or does not let us.
    pub async fn remove_all(&self) -> Result<(), BackendError> {
        self.delete_roots(&names::installation_selector(&self.style.owner)).await
    }

    fn roots(&self) -> Api<ConfigMap> {
        Api::all(self.client.clone())
    }
}

#[async_trait]
impl Backend for KubernetesBackend {
    async fn apply(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        self.apply_deployment(spec).await
    }

    async fn get(&self, id: &DeploymentId) -> Result<Vec<Instance>, BackendError> {
        Ok(self.table.get(id).instances.to_vec())
    }

    async fn delete(&self, id: &DeploymentId) -> Result<(), BackendError> {
        let _turn = self.turns.take(id).await;
        self.delete_deployment(id).await
    }

    fn table(&self) -> &Arc<Table> {
        &self.table
    }

    async fn logs(&self, query: LogQuery) -> Result<Feed<LogLine>, BackendError> {
        Ok(self.stream_logs(query))
    }

    async fn run_task(&self, spec: TaskSpec) -> Result<Feed<TaskEvent>, BackendError> {
        self.start_task(spec).await
    }

    async fn delete_task(&self, id: &DeploymentId, task: &Label) -> Result<(), BackendError> {
        self.remove_task(id, task).await
    }

    async fn exec(
        &self,
        spec: ExecSpec,
        input: BoxStream<'static, exec_input::Input>,
    ) -> Result<Feed<exec_output::Output>, BackendError> {
        self.start_exec(spec, input).await
    }

    async fn list(&self, _sizes: bool) -> Result<Vec<Found>, BackendError> {
        self.list_everything().await
    }
}
