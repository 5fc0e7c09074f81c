//! The workflow's and the route feed's client of krane.

mod request;

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use launchway_proto::krane::v1::{
    self as proto, CreateDeploymentRequest, DeleteDeploymentRequest, DeleteTaskRequest,
    GetDeploymentRequest, ListDeploymentsRequest, TaskEvent, WatchInstancesRequest,
    deployment_service_client::DeploymentServiceClient, task_event,
};
use launchway_workflows::{
    app::WEB,
    error::{ErrorCode, StepError},
    ids::DeploymentId,
    model::{Instance, NotReadyReason},
    ports::{Found, FoundTask, RunSpec, Runtime, TaskEnd, TaskLine, TaskSpec},
};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest apply, a pull included: within the step's own limit.
const APPLY: Duration = Duration::from_secs(590);
/// Longest delete: a stop's grace and the removal.
const DELETE: Duration = Duration::from_secs(100);
/// From a task's own limit, which krane keeps, until it is not waited for.
const TASK_MARGIN: Duration = Duration::from_secs(590);
/// Longest question.
const ASK: Duration = Duration::from_secs(10);
/// The kind of a task, as krane calls it.
const TASK: &str = "task";
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
        let deployment = request::deployment(spec);
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

    async fn run_task(
        &self,
        task: &TaskSpec,
        output: mpsc::Sender<TaskLine>,
    ) -> Result<TaskEnd, StepError> {
        let request = within(request::task(task), task.time_limit + TASK_MARGIN);
        let events = match self.inner.clone().run_task(request).await {
            Ok(events) => events.into_inner(),
            Err(status) if task.join_only && status.code() == Code::NotFound => {
                return Ok(TaskEnd::Unknown);
            }
            Err(status) => return Err(step_error(status)),
        };
        match task_end(events, &output).await {
            Err(status) if task.join_only && status.code() == Code::NotFound => {
                Ok(TaskEnd::Unknown)
            }
            ended => ended.map_err(step_error),
        }
    }

    async fn delete_task(
        &self,
        namespace: &str,
        id: &DeploymentId,
        task: &str,
    ) -> Result<(), StepError> {
        let request = DeleteTaskRequest {
            namespace: namespace.to_owned(),
            deployment_id: id.to_string(),
            task_id: task.to_owned(),
        };
        self.inner.clone().delete_task(within(request, DELETE)).await.map_err(step_error)?;
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
                    created_at: one.created_at,
                    task: (one.kind == TASK)
                        .then_some(FoundTask { id: one.task_id, attended: one.attended }),
                    kind: one.kind,
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

/// Passes the lines of a task on until it has ended.
async fn task_end(
    mut events: Streaming<TaskEvent>,
    output: &mpsc::Sender<TaskLine>,
) -> Result<TaskEnd, Status> {
    while let Some(event) = events.message().await? {
        match event.event {
            Some(task_event::Event::Line(line)) => {
                // Nobody reads any more: how it ends still counts.
                let _ = output.send(TaskLine::of_stream(line.at, &line.stream, line.text)).await;
            }
            Some(task_event::Event::Ended(ended)) => {
                let message =
                    if ended.oom_killed { "out of memory".to_owned() } else { ended.message };
                let (exit_code, timed_out) = (ended.exit_code, ended.timed_out);
                return Ok(TaskEnd::Exited { exit_code, timed_out, message });
            }
            Some(task_event::Event::Started(_)) | None => {}
        }
    }
    Err(Status::unavailable("the task's events ended before the task did"))
}

fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn reason(known: proto::NotReadyReason) -> Option<NotReadyReason> {
    use proto::NotReadyReason as Known;
    Some(match known {
        Known::Unspecified => return None,
        Known::ImagePull => NotReadyReason::ImagePull,
        Known::Unschedulable => NotReadyReason::Unschedulable,
        Known::QuotaExceeded => NotReadyReason::QuotaExceeded,
        Known::Rejected => NotReadyReason::Rejected,
        Known::ProbeFailing => NotReadyReason::ProbeFailing,
        Known::Exited => NotReadyReason::Exited,
        Known::CrashLoop => NotReadyReason::CrashLoop,
        Known::OutOfMemory => NotReadyReason::OutOfMemory,
        Known::Evicted => NotReadyReason::Evicted,
    })
}

fn instance(known: proto::Instance) -> Instance {
    Instance {
        reason: reason(known.reason()),
        id: known.id,
        address: known.address,
        ready: known.ready,
        exit_code: known.exit_code,
        permanent: known.permanent,
        message: known.message,
        log_tail: known.log_tail,
        probe_attempts: known.probe_attempts,
        process: if known.process.is_empty() { WEB.to_owned() } else { known.process },
        replica: known.replica,
    }
}

fn step_error(status: Status) -> StepError {
    let message = status.message().to_owned();
    let details = proto::NotReady::decode(status.details()).unwrap_or_default();
    if let Some(reason) = reason(details.reason()) {
        return StepError::permanent(reason.code(), message);
    }
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
