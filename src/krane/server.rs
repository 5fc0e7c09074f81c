//! The gRPC service over a backend.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use launchway_proto::krane::v1::{
    CreateDeploymentRequest, CreateDeploymentResponse, DeleteDeploymentRequest,
    DeleteDeploymentResponse, DeleteTaskRequest, DeleteTaskResponse, DeploymentStatus, ExecInput,
    ExecOutput, GetDeploymentRequest, GetDeploymentResponse, InstancesChanged,
    ListDeploymentsRequest, ListDeploymentsResponse, LogLine, NotReady, RunTaskRequest,
    StreamLogsRequest, TaskEvent, WatchInstancesRequest,
    deployment_service_server::{DeploymentService, DeploymentServiceServer},
    exec_input,
};
use launchway_workflows::ids::DeploymentId;
use prost::Message;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    attendance::Attendance,
    backend::{Backend, BackendError, Feed},
    request,
    table::{Instances, Table},
};

/// Longest wait for the first reading of the engine.
const SYNC: Duration = Duration::from_secs(10);
/// Longest wait for an exec's first message.
const EXEC_START: Duration = Duration::from_secs(10);

/// The service over any backend.
pub struct KraneService {
    backend: Arc<dyn Backend>,
    attendance: Attendance,
}

impl KraneService {
    /// Ready to be added to a server.
    pub fn server(backend: Arc<dyn Backend>) -> DeploymentServiceServer<Self> {
        DeploymentServiceServer::new(Self { backend, attendance: Attendance::default() })
    }

    /// Which instances there are must be known before one is looked for.
    async fn synced(&self) -> Result<(), Status> {
        tokio::time::timeout(SYNC, self.backend.table().synced())
            .await
            .map_err(|_| Status::unavailable("the container engine does not answer"))
    }
}

type Changes = Pin<Box<dyn Stream<Item = Result<InstancesChanged, Status>> + Send>>;

#[tonic::async_trait]
impl DeploymentService for KraneService {
    type WatchInstancesStream = Changes;
    type StreamLogsStream = Pin<Box<dyn Stream<Item = Result<LogLine, Status>> + Send>>;
    type RunTaskStream = Pin<Box<dyn Stream<Item = Result<TaskEvent, Status>> + Send>>;
    type ExecStream = Pin<Box<dyn Stream<Item = Result<ExecOutput, Status>> + Send>>;

    async fn create_deployment(
        &self,
        wanted: Request<CreateDeploymentRequest>,
    ) -> Result<Response<CreateDeploymentResponse>, Status> {
        let wanted = wanted.into_inner().deployment;
        let wanted = wanted.ok_or_else(|| Status::invalid_argument("deployment is missing"))?;
        let spec = request::instances(wanted)?;
        self.backend.apply(&spec).await.map_err(status)?;
        let status = DeploymentStatus::Pending.into();
        Ok(Response::new(CreateDeploymentResponse { status }))
    }

    async fn get_deployment(
        &self,
        wanted: Request<GetDeploymentRequest>,
    ) -> Result<Response<GetDeploymentResponse>, Status> {
        let id = request::deployment_id(&wanted.into_inner().deployment_id)?;
        let instances = self.backend.get(&id).await.map_err(status)?;
        Ok(Response::new(GetDeploymentResponse { instances }))
    }

    async fn delete_deployment(
        &self,
        wanted: Request<DeleteDeploymentRequest>,
    ) -> Result<Response<DeleteDeploymentResponse>, Status> {
        let id = request::deployment_id(&wanted.into_inner().deployment_id)?;
        self.backend.delete(&id).await.map_err(status)?;
        Ok(Response::new(DeleteDeploymentResponse {}))
    }

    async fn watch_instances(
        &self,
        wanted: Request<WatchInstancesRequest>,
    ) -> Result<Response<Changes>, Status> {
        let id = wanted.into_inner().deployment_id;
        let table = Arc::clone(self.backend.table());
        // What is not known yet must not look like "there are none".
        table.synced().await;
        if id.is_empty() {
            return Ok(Response::new(watch_all(table)));
        }
        let id = request::deployment_id(&id)?;
        let changes = WatchStream::new(table.watch(&id));
        Ok(Response::new(changes.map(move |instances| Ok(changed(&id, instances))).boxed()))
    }

    async fn stream_logs(
        &self,
        wanted: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let query = request::logs(wanted.get_ref())?;
        self.synced().await?;
        Ok(Response::new(answers(self.backend.logs(query).await)?))
    }

    async fn run_task(
        &self,
        wanted: Request<RunTaskRequest>,
    ) -> Result<Response<Self::RunTaskStream>, Status> {
        let spec = request::task(wanted.into_inner())?;
        let attending = self.attendance.begin(&spec.deployment_id, &spec.task_id);
        let events = answers(self.backend.run_task(spec).await)?;
        // Until the caller drops the stream.
        let events = events.inspect(move |_| {
            let _ = &attending;
        });
        Ok(Response::new(events.boxed()))
    }

    async fn delete_task(
        &self,
        wanted: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteTaskResponse>, Status> {
        let wanted = wanted.into_inner();
        let id = request::deployment_id(&wanted.deployment_id)?;
        let task = request::label("task_id", &wanted.task_id)?;
        self.backend.delete_task(&id, &task).await.map_err(status)?;
        Ok(Response::new(DeleteTaskResponse {}))
    }

    async fn exec(
        &self,
        wanted: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut messages = wanted.into_inner();
        let first = tokio::time::timeout(EXEC_START, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no start came within 10 s"))??;
        let Some(exec_input::Input::Start(start)) = first.and_then(|first| first.input) else {
            return Err(Status::invalid_argument("the first message must be `start`"));
        };
        let spec = request::exec(start)?;
        let input = messages.take_while(|message| std::future::ready(message.is_ok()));
        let input = input
            .filter_map(|message| std::future::ready(message.ok().and_then(|one| one.input)))
            .boxed();
        self.synced().await?;
        let output = answers(self.backend.exec(spec, input).await)?;
        let output = output.map(|output| Ok(ExecOutput { output: Some(output?) }));
        Ok(Response::new(output.boxed()))
    }

    async fn list_deployments(
        &self,
        wanted: Request<ListDeploymentsRequest>,
    ) -> Result<Response<ListDeploymentsResponse>, Status> {
        let mut found = self.backend.list(wanted.get_ref().sizes).await.map_err(status)?;
        for one in &mut found {
            one.attended = self.attendance.of(&one.deployment_id, &one.task_id);
        }
        Ok(Response::new(ListDeploymentsResponse { found }))
    }
}

/// A backend's feed as a stream of the API.
fn answers<T: Send + 'static>(
    feed: Result<Feed<T>, BackendError>,
) -> Result<BoxStream<'static, Result<T, Status>>, Status> {
    Ok(feed.map_err(status)?.map(|item| item.map_err(status)).boxed())
}

fn watch_all(table: Arc<Table>) -> Changes {
    let changes = table.changes();
    let present: Vec<_> = table.all().into_iter().map(|(id, all)| Ok(changed(&id, all))).collect();
    let synced = InstancesChanged { synced: true, ..InstancesChanged::default() };
    let following = stream::unfold((table, changes), |(table, mut changes)| async move {
        match changes.recv().await {
            Ok(id) => {
                let instances = table.get(&id);
                Some((Ok(changed(&id, instances)), (table, changes)))
            }
            // Too slow: the caller starts over with the present state.
            Err(RecvError::Lagged(_)) => {
                Some((Err(Status::data_loss("changes were lost: watch again")), (table, changes)))
            }
            Err(RecvError::Closed) => None,
        }
    });
    stream::iter(present).chain(stream::iter([Ok(synced)])).chain(following).boxed()
}

fn changed(id: &DeploymentId, known: Instances) -> InstancesChanged {
    InstancesChanged {
        namespace: known.namespace,
        deployment_id: id.to_string(),
        instances: known.instances.to_vec(),
        synced: false,
    }
}

fn status(error: BackendError) -> Status {
    let code = match error {
        BackendError::ImageUnavailable { .. } | BackendError::UnknownTask(_) => Code::NotFound,
        BackendError::NotReady { .. } | BackendError::Rejected(_) | BackendError::NotRunning(_) => {
            Code::FailedPrecondition
        }
        BackendError::Unsupported(_) => Code::Unimplemented,
        BackendError::Unavailable(_) => Code::Unavailable,
    };
    let details = NotReady { reason: error.reason().into() };
    Status::with_details(code, error.to_string(), details.encode_to_vec().into())
}
