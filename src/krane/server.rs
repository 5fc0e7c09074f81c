//! The gRPC service over a backend.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use launchway_proto::krane::v1::{
    CreateDeploymentRequest, CreateDeploymentResponse, DeleteDeploymentRequest,
    DeleteDeploymentResponse, DeleteTaskRequest, DeleteTaskResponse, DeploymentRequest,
    DeploymentStatus, ExecInput, ExecOutput, GetDeploymentRequest, GetDeploymentResponse,
    InstancesChanged, ListDeploymentsRequest, ListDeploymentsResponse, LogLine, RunTaskRequest,
    StreamLogsRequest, TaskEvent, WatchInstancesRequest,
    deployment_service_server::{DeploymentService, DeploymentServiceServer},
};
use launchway_workflows::ids::DeploymentId;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    backend::{Backend, BackendError, Health, InstanceSpec},
    table::{Instances, Table},
};

/// Instances of one deployment.
const MAX_REPLICAS: u32 = 100;

/// The service over any backend.
pub struct KraneService {
    backend: Arc<dyn Backend>,
}

impl KraneService {
    /// Ready to be added to a server.
    pub fn server(backend: Arc<dyn Backend>) -> DeploymentServiceServer<Self> {
        DeploymentServiceServer::new(Self { backend })
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
        request: Request<CreateDeploymentRequest>,
    ) -> Result<Response<CreateDeploymentResponse>, Status> {
        let wanted = request.into_inner().deployment;
        let wanted = wanted.ok_or_else(|| Status::invalid_argument("deployment is missing"))?;
        let spec = spec_of(wanted)?;
        self.backend.apply(&spec).await.map_err(status)?;
        let status = DeploymentStatus::Pending.into();
        Ok(Response::new(CreateDeploymentResponse { status }))
    }

    async fn get_deployment(
        &self,
        request: Request<GetDeploymentRequest>,
    ) -> Result<Response<GetDeploymentResponse>, Status> {
        let id = id_of(&request.into_inner().deployment_id)?;
        let instances = self.backend.get(&id).await.map_err(status)?;
        Ok(Response::new(GetDeploymentResponse { instances }))
    }

    async fn delete_deployment(
        &self,
        request: Request<DeleteDeploymentRequest>,
    ) -> Result<Response<DeleteDeploymentResponse>, Status> {
        let id = id_of(&request.into_inner().deployment_id)?;
        self.backend.delete(&id).await.map_err(status)?;
        Ok(Response::new(DeleteDeploymentResponse {}))
    }

    async fn watch_instances(
        &self,
        request: Request<WatchInstancesRequest>,
    ) -> Result<Response<Changes>, Status> {
        let id = request.into_inner().deployment_id;
        let table = Arc::clone(self.backend.table());
        // What is not known yet must not look like "there are none".
        table.synced().await;
        if id.is_empty() {
            return Ok(Response::new(watch_all(table)));
        }
        let id = id_of(&id)?;
        let changes = WatchStream::new(table.watch(&id));
        Ok(Response::new(changes.map(move |instances| Ok(changed(&id, instances))).boxed()))
    }

    async fn stream_logs(
        &self,
        _request: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        Err(Status::unimplemented("runtime logs are not offered yet; use `docker logs`"))
    }

    async fn run_task(
        &self,
        _request: Request<RunTaskRequest>,
    ) -> Result<Response<Self::RunTaskStream>, Status> {
        Err(Status::unimplemented("tasks are not offered yet"))
    }

    async fn delete_task(
        &self,
        _request: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteTaskResponse>, Status> {
        Err(Status::unimplemented("tasks are not offered yet"))
    }

    async fn exec(
        &self,
        _request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("commands in instances are not offered yet"))
    }

    async fn list_deployments(
        &self,
        _request: Request<ListDeploymentsRequest>,
    ) -> Result<Response<ListDeploymentsResponse>, Status> {
        Err(Status::unimplemented("left-overs are not listed yet"))
    }
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

fn id_of(text: &str) -> Result<DeploymentId, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("deployment_id: {error}")))
}

fn spec_of(wanted: DeploymentRequest) -> Result<InstanceSpec, Status> {
    let invalid = |text: String| Status::invalid_argument(text);
    let health = wanted.health.unwrap_or_default();
    let or = |value: u32, default: u64| match value {
        0 => Duration::from_millis(default),
        millis => Duration::from_millis(u64::from(millis)),
    };
    let path = if health.path.is_empty() { "/".to_owned() } else { health.path };
    if !path.starts_with('/') {
        return Err(invalid(format!("health.path `{path}` must begin with `/`")));
    }
    if wanted.image.is_empty() {
        return Err(invalid("image is empty: give a reference or a local image's id".to_owned()));
    }
    if wanted.replicas > MAX_REPLICAS {
        return Err(invalid(format!(
            "replicas {} is over the limit of {MAX_REPLICAS}",
            wanted.replicas
        )));
    }
    Ok(InstanceSpec {
        deployment_id: id_of(&wanted.deployment_id)?,
        namespace: wanted
            .namespace
            .parse()
            .map_err(|error| invalid(format!("namespace: {error}")))?,
        project_id: wanted.project_id,
        service_name: wanted.service_name,
        image: wanted.image,
        replicas: wanted.replicas.max(1),
        env: wanted.env.into_iter().collect(),
        port: u16::try_from(wanted.port)
            .map_err(|_| invalid(format!("port {} is over 65535", wanted.port)))?,
        cpu_millicores: wanted.cpu_millicores,
        memory_mib: wanted.memory_size_mib,
        stop_grace: Duration::from_secs(match wanted.stop_grace_seconds {
            0 => 10,
            seconds => u64::from(seconds.min(60)),
        }),
        health: Health {
            path,
            timeout: or(health.timeout_ms, 2000),
            interval: or(health.interval_ms, 500),
        },
    })
}

fn status(error: BackendError) -> Status {
    match error {
        BackendError::ImageUnavailable { .. } => Status::not_found(error.to_string()),
        BackendError::Rejected(_) => Status::failed_precondition(error.to_string()),
        BackendError::Unavailable(_) => Status::unavailable(error.to_string()),
    }
}
