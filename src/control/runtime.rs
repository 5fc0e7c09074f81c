//! `ctrl.v1.RuntimeService`: krane's, for deployments of the caller's workspace.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use launchway_proto::{
    ctrl::v1::{
        ExecCommandRequest, ExecCommandStart, RunCommandRequest, RunCommandResponse,
        StreamRuntimeLogsRequest, StreamRuntimeLogsResponse, exec_command_request,
        runtime_service_server::RuntimeService,
    },
    krane::v1::{
        DeleteTaskRequest, ExecInput, ExecOutput, ExecStart, Instance, RunTaskRequest,
        StreamLogsRequest, exec_input,
    },
};
use launchway_workflows::{
    engine::running::opened,
    model::{BuiltImage, Source},
    names::{DEFAULT_ENVIRONMENT, attended_task},
    ports::Store as _,
    status::DeploymentStatus,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{Control, deployments::unavailable};
use crate::{
    krane::KraneClient,
    store::{DeploymentFilter, DeploymentView},
};

/// Longest wait for the first message of an exec.
const START: Duration = Duration::from_secs(10);
/// Of a command that nobody ends.
const RUN_LIMIT_SECONDS: u32 = 3600;
/// Events on their way; a slow reader holds only itself back.
const QUEUE: usize = 256;
/// Tries to remove a command's container, and the pause between them. What
/// stays is a left-over that the janitor finds, as nobody attends it.
const REMOVE_TRIES: u32 = 5;
const REMOVE_PAUSE: Duration = Duration::from_secs(1);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RuntimeService for Control {
    type StreamRuntimeLogsStream = Boxed<StreamRuntimeLogsResponse>;
    type RunCommandStream = Boxed<RunCommandResponse>;
    type ExecCommandStream = Boxed<ExecOutput>;

    async fn stream_runtime_logs(
        &self,
        request: Request<StreamRuntimeLogsRequest>,
    ) -> Result<Response<Self::StreamRuntimeLogsStream>, Status> {
        let wanted = request.into_inner();
        let view = self.find(&wanted.deployment_id).await?;
        let known = self.krane.known_instances(&view.environment_id, view.id.as_str()).await?;
        let fitting = fitting(&known, &wanted.process, wanted.replica);
        if fitting == 0 && !(wanted.follow && known.is_empty() && may_run(view.status)) {
            return Err(no_instance(&view, &known, &wanted.process, wanted.replica));
        }
        let lines = self.krane.logs(StreamLogsRequest {
            namespace: view.environment_id,
            deployment_id: view.id.to_string(),
            follow: wanted.follow,
            tail: wanted.tail,
            since: wanted.since,
            replica: wanted.replica,
            process: wanted.process,
        });
        let first = StreamRuntimeLogsResponse { instances: fitting, line: None };
        let lines = lines
            .await?
            .map(|line| Ok(StreamRuntimeLogsResponse { instances: 0, line: Some(line?) }));
        Ok(Response::new(stream::iter([Ok(first)]).chain(lines).boxed()))
    }

    async fn run_command(
        &self,
        request: Request<RunCommandRequest>,
    ) -> Result<Response<Self::RunCommandStream>, Status> {
        let wanted = request.into_inner();
        let view = match wanted.deployment_id.as_str() {
            "" => self.live_one(&wanted.project_id, &wanted.environment_slug).await?,
            id => self.find(id).await?,
        };
        let task = self.task_of(&view, wanted).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let krane = self.krane.clone();
        let attended = self.demand.attend(&view.id).await;
        tokio::spawn(async move {
            let _attended = attended;
            let deployment_id = task.deployment_id.clone();
            let _ = sender.send(Ok(RunCommandResponse { deployment_id, event: None })).await;
            let removal = DeleteTaskRequest {
                namespace: task.namespace.clone(),
                deployment_id: task.deployment_id.clone(),
                task_id: task.task_id.clone(),
            };
            tokio::select! {
                () = pass_on(&krane, task, &sender) => {}
                () = sender.closed() => {}
            }
            remove(&krane, removal).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn exec_command(
        &self,
        request: Request<Streaming<ExecCommandRequest>>,
    ) -> Result<Response<Self::ExecCommandStream>, Status> {
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(START, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no start came within 10 s"))??;
        let Some(exec_command_request::Input::Start(start)) = first.and_then(|one| one.input)
        else {
            return Err(Status::invalid_argument("the first message must be `start`"));
        };
        let view = self.find(&start.deployment_id).await?;
        let known = self.krane.known_instances(&view.environment_id, view.id.as_str()).await?;
        if fitting(&known, &start.process, start.replica) == 0 {
            return Err(no_instance(&view, &known, &start.process, start.replica));
        }
        let start = ExecInput { input: Some(exec_input::Input::Start(start_of(&view, start))) };
        let rest = messages.take_while(|message| std::future::ready(message.is_ok()));
        let rest = rest.filter_map(|message| std::future::ready(message.ok().and_then(input_of)));
        let attended = self.demand.attend(&view.id).await;
        let output = self.krane.exec(stream::iter([start]).chain(rest)).await?;
        let output = output.inspect(move |_| {
            let _held = &attended;
        });
        Ok(Response::new(output.boxed()))
    }
}

impl Control {
    async fn live_one(&self, project: &str, environment: &str) -> Result<DeploymentView, Status> {
        if project.is_empty() {
            return Err(Status::invalid_argument("give deployment_id or project_id"));
        }
        let environment = if environment.is_empty() { DEFAULT_ENVIRONMENT } else { environment };
        let filter = DeploymentFilter {
            project: project.to_owned(),
            environment: environment.to_owned(),
            status: Some(DeploymentStatus::Live),
            limit: 1,
            branch: String::new(),
        };
        let found = self.store.deployments(&self.workspace, &filter).await.map_err(unavailable)?;
        found.into_iter().next().ok_or_else(|| {
            Status::not_found(format!(
                "environment `{environment}` of project `{project}` has no live deployment: deploy \
                 it, or name a deployment"
            ))
        })
    }

    /// A task with what the deployment's instances have.
    async fn task_of(
        &self,
        view: &DeploymentView,
        wanted: RunCommandRequest,
    ) -> Result<RunTaskRequest, Status> {
        if wanted.command.is_empty() {
            return Err(Status::invalid_argument("command is empty: give a program to run"));
        }
        let inputs = self.store.run_inputs(&view.id).await.map_err(unavailable)?;
        let size = inputs.options.main_process();
        let env = opened(&self.vault, &self.workspace, inputs.env).map_err(Status::internal)?;
        let env = env.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect();
        let random = Uuid::new_v4().simple().to_string();
        Ok(RunTaskRequest {
            namespace: view.environment_id.clone(),
            deployment_id: view.id.to_string(),
            task_id: attended_task(&random[..12]),
            project_id: view.project_id.clone(),
            image: image_of(view)?,
            command: wanted.command,
            env,
            cpu_millicores: size.cpu_millicores,
            memory_size_mib: size.memory_mib,
            time_limit_seconds: match wanted.time_limit_seconds {
                0 => RUN_LIMIT_SECONDS,
                seconds => seconds,
            },
            join_only: false,
            replace_entrypoint: wanted.replace_entrypoint,
        })
    }
}

fn image_of(view: &DeploymentView) -> Result<String, Status> {
    match (&view.image_reference, &view.image_digest, &view.source) {
        (Some(reference), Some(digest), _) => {
            let (reference, digest) = (reference.clone(), digest.clone());
            Ok(BuiltImage { reference, digest, local_only: view.image_local_only }.pinned())
        }
        (_, _, Source::DockerImage(reference)) => Ok(reference.clone()),
        _ => Err(Status::failed_precondition(format!(
            "deployment `{}` is {} and has no image yet",
            view.id,
            view.status.as_str()
        ))),
    }
}

async fn pass_on(
    krane: &KraneClient,
    task: RunTaskRequest,
    sender: &mpsc::Sender<Result<RunCommandResponse, Status>>,
) {
    let mut events = match krane.run_task(task).await {
        Ok(events) => events,
        Err(status) => return drop(sender.send(Err(status)).await),
    };
    loop {
        let next = match events.message().await {
            Ok(None) => return,
            Ok(event) => Ok(RunCommandResponse { deployment_id: String::new(), event }),
            Err(status) => Err(status),
        };
        let last = next.is_err();
        if sender.send(next).await.is_err() || last {
            return;
        }
    }
}

async fn remove(krane: &KraneClient, task: DeleteTaskRequest) {
    for _ in 0..REMOVE_TRIES {
        match krane.delete_task(task.clone()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(deployment = task.deployment_id, task = task.task_id, %error, "not removed yet");
            }
        }
        tokio::time::sleep(REMOVE_PAUSE).await;
    }
}

fn fitting(known: &[Instance], process: &str, replica: Option<u32>) -> u32 {
    let fits = |one: &&Instance| {
        (process.is_empty() || one.process == process)
            && replica.is_none_or(|replica| one.replica == replica)
    };
    u32::try_from(known.iter().filter(fits).count()).unwrap_or(u32::MAX)
}

/// Instances may still come.
fn may_run(status: DeploymentStatus) -> bool {
    !status.is_settled()
}

fn no_instance(
    view: &DeploymentView,
    known: &[Instance],
    process: &str,
    replica: Option<u32>,
) -> Status {
    let (id, status) = (&view.id, view.status.as_str());
    if known.is_empty() && view.eviction.is_some() {
        return Status::failed_precondition(format!(
            "deployment `{id}` is {status} and does not run, for nobody asked for it: \
             `launchway promote {id}` or a request starts it"
        ));
    }
    if known.is_empty() {
        return Status::failed_precondition(format!(
            "deployment `{id}` is {status} and does not run"
        ));
    }
    let mut names: Vec<String> =
        known.iter().map(|one| format!("{}.{}", one.process, one.replica)).collect();
    names.sort();
    let process = if process.is_empty() { "*" } else { process };
    let replica = replica.map_or_else(|| "*".to_owned(), |replica| replica.to_string());
    Status::failed_precondition(format!(
        "deployment `{id}` has no instance {process}.{replica}: it has {}",
        names.join(", ")
    ))
}

fn start_of(view: &DeploymentView, start: ExecCommandStart) -> ExecStart {
    ExecStart {
        namespace: view.environment_id.clone(),
        deployment_id: view.id.to_string(),
        process: start.process,
        replica: start.replica,
        command: start.command,
        tty: start.tty,
        size: start.size,
    }
}

fn input_of(request: ExecCommandRequest) -> Option<ExecInput> {
    use exec_command_request::Input;
    let input = match request.input? {
        Input::Start(_) => return None,
        Input::Stdin(bytes) => exec_input::Input::Stdin(bytes),
        Input::CloseStdin(close) => exec_input::Input::CloseStdin(close),
        Input::Resize(size) => exec_input::Input::Resize(size),
    };
    Some(ExecInput { input: Some(input) })
}
