//! The workflow's and the route feed's client of krane.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use launchway_proto::krane::v1::{
    self as proto, CreateDeploymentRequest, DeleteDeploymentRequest, DeploymentRequest,
    GetDeploymentRequest, HealthCheck, ListDeploymentsRequest, WatchInstancesRequest,
    deployment_service_client::DeploymentServiceClient,
};
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::DeploymentId,
    model::Instance,
    ports::{Found, RunSpec, Runtime},
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest apply, a pull included: within the step's own limit.
const APPLY: Duration = Duration::from_secs(590);
/// Longest delete: a stop's grace and the removal.
const DELETE: Duration = Duration::from_secs(100);
/// Longest question.
const ASK: Duration = Duration::from_secs(10);
/// A krane that hangs is noticed within ten seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A client; cheap to clone, connects when first used.
#[derive(Clone)]
pub struct KraneClient {
    pub(super) inner: DeploymentServiceClient<Channel>,
}

/// A change of a deployment's instances.
#[derive(Debug, Clone)]
pub struct InstancesOf {
    /// Whose; `None` is the marker that the present state has been sent.
    pub deployment_id: Option<DeploymentId>,
    /// All of them.
    pub instances: Vec<Instance>,
}

impl KraneClient {
    /// For the krane at `url`.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn new(url: &str) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self { inner: DeploymentServiceClient::new(channel) })
    }

    /// The instances of every deployment, a marker, then every change.
    ///
    /// # Errors
    /// krane does not answer.
    pub async fn watch_all(
        &self,
    ) -> Result<BoxStream<'static, Result<InstancesOf, StepError>>, StepError> {
        let request = WatchInstancesRequest::default();
        let changes = self.inner.clone().watch_instances(request).await.map_err(step_error)?;
        let changes = changes.into_inner().map(|change| {
            let change = change.map_err(step_error)?;
            Ok(InstancesOf {
                deployment_id: change.deployment_id.parse().ok(),
                instances: change.instances.into_iter().map(instance).collect(),
            })
        });
        Ok(changes.boxed())
    }
}

#[async_trait]
impl Runtime for KraneClient {
    async fn apply(&self, spec: &RunSpec) -> Result<(), StepError> {
        let (plan, inputs) = (&spec.plan, &spec.inputs);
        let deployment = DeploymentRequest {
            namespace: plan.environment_id.to_string(),
            deployment_id: plan.deployment_id.to_string(),
            image: spec.image.clone(),
            replicas: inputs.options.replicas,
            cpu_millicores: inputs.cpu_millicores,
            memory_size_mib: inputs.memory_mib,
            env: inputs.env.clone().into_iter().collect(),
            port: u32::from(inputs.options.port),
            health: Some(HealthCheck::default()),
            project_id: plan.project_id.to_string(),
            stop_grace_seconds: 0,
            service_name: plan.project_slug.clone(),
            ..DeploymentRequest::default()
        };
        let request = CreateDeploymentRequest { deployment: Some(deployment) };
        self.inner.clone().create_deployment(within(request, APPLY)).await.map_err(step_error)?;
        Ok(())
    }

    async fn delete(&self, namespace: &str, id: &DeploymentId) -> Result<(), StepError> {
        let request = DeleteDeploymentRequest {
            namespace: namespace.to_owned(),
            deployment_id: id.to_string(),
        };
        self.inner.clone().delete_deployment(within(request, DELETE)).await.map_err(step_error)?;
        Ok(())
    }

    async fn instances(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<Vec<Instance>, StepError> {
        let request =
            GetDeploymentRequest { namespace: namespace.to_owned(), deployment_id: id.to_string() };
        let found = self.inner.clone().get_deployment(within(request, ASK)).await;
        Ok(found.map_err(step_error)?.into_inner().instances.into_iter().map(instance).collect())
    }

    async fn found(&self) -> Result<Vec<Found>, StepError> {
        let request = within(ListDeploymentsRequest::default(), ASK);
        let found = self.inner.clone().list_deployments(request).await.map_err(step_error)?;
        // What belongs to no deployment goes with the last of its namespace.
        Ok(found
            .into_inner()
            .found
            .into_iter()
            .filter_map(|one| {
                Some(Found {
                    deployment_id: one.deployment_id.parse().ok()?,
                    namespace: one.namespace,
                    kind: one.kind,
                    created_at: one.created_at,
                })
            })
            .collect())
    }

    async fn watch(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<BoxStream<'static, Result<Vec<Instance>, StepError>>, StepError> {
        let request = WatchInstancesRequest {
            namespace: namespace.to_owned(),
            deployment_id: id.to_string(),
        };
        let changes = self.inner.clone().watch_instances(request).await.map_err(step_error)?;
        let changes = changes.into_inner().map(|change| {
            let change = change.map_err(step_error)?;
            Ok(change.instances.into_iter().map(instance).collect())
        });
        Ok(changes.boxed())
    }
}

fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn instance(known: proto::Instance) -> Instance {
    Instance {
        id: known.id,
        address: known.address,
        ready: known.ready,
        exit_code: known.exit_code,
        message: if known.oom_killed { "out of memory".to_owned() } else { known.message },
        log_tail: known.log_tail,
        probe_attempts: known.probe_attempts,
    }
}

fn step_error(status: Status) -> StepError {
    let message = status.message().to_owned();
    match status.code() {
        Code::NotFound => StepError::permanent(ErrorCode::ImageUnavailable, message),
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
            StepError::permanent(ErrorCode::RuntimeRejected, message)
        }
        code => {
            StepError::transient(ErrorCode::RuntimeUnavailable, format!("krane: {code}: {message}"))
        }
    }
}
