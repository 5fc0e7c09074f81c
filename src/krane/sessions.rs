//! What people do with what runs, through krane: its status answers as they are.

use std::time::Duration;

use futures::Stream;
use launchway_proto::krane::v1::{
    DeleteTaskRequest, ExecInput, ExecOutput, GetDeploymentRequest, Instance, LogLine,
    RunTaskRequest, StreamLogsRequest, TaskEvent,
};
use tonic::{Response, Status, Streaming};

use super::KraneClient;

/// Longest wait for a stream's beginning.
const BEGIN: Duration = Duration::from_secs(30);
/// The same for a task, whose image may have to be pulled.
const BEGIN_TASK: Duration = Duration::from_secs(590);
/// Longest end of a task: its grace and the removal.
const DELETE: Duration = Duration::from_secs(30);

impl KraneClient {
    /// The instances of a deployment as krane has them.
    ///
    /// # Errors
    /// krane does not answer.
    pub async fn known_instances(
        &self,
        namespace: &str,
        deployment_id: &str,
    ) -> Result<Vec<Instance>, Status> {
        let (namespace, deployment_id) = (namespace.to_owned(), deployment_id.to_owned());
        let request = GetDeploymentRequest { namespace, deployment_id };
        let asking = async { self.inner.clone().get_deployment(request).await };
        Ok(within(BEGIN, asking).await?.instances)
    }

    /// Output of instances.
    ///
    /// # Errors
    /// krane does not answer, or refuses.
    pub async fn logs(&self, request: StreamLogsRequest) -> Result<Streaming<LogLine>, Status> {
        within(BEGIN, async { self.inner.clone().stream_logs(request).await }).await
    }

    /// Runs a task, or joins it.
    ///
    /// # Errors
    /// krane does not answer, or refuses.
    pub async fn run_task(&self, request: RunTaskRequest) -> Result<Streaming<TaskEvent>, Status> {
        within(BEGIN_TASK, async { self.inner.clone().run_task(request).await }).await
    }

    /// Ends and forgets a task.
    ///
    /// # Errors
    /// krane does not answer.
    pub async fn delete_task(&self, request: DeleteTaskRequest) -> Result<(), Status> {
        within(DELETE, async { self.inner.clone().delete_task(request).await }).await.map(drop)
    }

    /// Runs a command in an instance.
    ///
    /// # Errors
    /// krane does not answer, or refuses.
    pub async fn exec(
        &self,
        input: impl Stream<Item = ExecInput> + Send + 'static,
    ) -> Result<Streaming<ExecOutput>, Status> {
        within(BEGIN, async { self.inner.clone().exec(input).await }).await
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    let answer = tokio::time::timeout(limit, call).await.map_err(|_| {
        Status::unavailable(format!("krane does not answer within {} s", limit.as_secs()))
    })?;
    answer.map(Response::into_inner)
}
