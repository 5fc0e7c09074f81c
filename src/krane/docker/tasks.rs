//! Commands that run once, each in a container of its own. The container is
//! kept until it is deleted: that it exists is the record of the start, and its
//! state says how it ended, whoever was killed meanwhile.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::{
    Docker,
    models::{ContainerInspectResponse, ContainerState},
};
use futures::StreamExt;
use launchway_proto::krane::v1::{TaskEnded, TaskEvent, TaskStarted, task_event::Event};
use launchway_workflows::ids::DeploymentId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    containers::{task_name, task_request},
    failed,
    image::Image,
    is_not_found, labels, list, make,
    monitor::lock,
    observe::millis,
    output::{Reading, Source, lines},
    remove, stop,
};
use crate::krane::{
    backend::{BackendError, Feed, Label, TaskSpec},
    turns::Turn,
};

/// From SIGTERM to SIGKILL.
const GRACE: i32 = 5;
/// Events on their way; a slow reader holds only itself back.
const QUEUE: usize = 256;

/// See the module; cheap to clone.
#[derive(Clone)]
pub(super) struct Tasks(Arc<Shared>);

struct Shared {
    docker: Docker,
    owner: String,
    /// Containers whose time limit is kept.
    timed: Mutex<HashSet<String>>,
}

/// A task's container that was started.
pub(super) struct Started {
    name: String,
    /// Milliseconds since the epoch.
    at: i64,
}

impl Tasks {
    pub(super) fn new(docker: Docker, owner: String) -> Self {
        Self(Arc::new(Shared { docker, owner, timed: Mutex::default() }))
    }

    /// The task, if it was started.
    pub(super) async fn started(
        &self,
        id: &DeploymentId,
        task: &Label,
    ) -> Result<Option<Started>, BackendError> {
        let name = task_name(id, task);
        let found = self.inspect(&name).await?;
        let started = found.as_ref().and_then(|found| started_at(found.state.as_ref()?));
        if let (Some(found), Some(at)) = (&found, started) {
            self.keep_time(found, at);
        }
        Ok(started.map(|at| Started { name, at }))
    }

    /// Starts it. Callers of the same task take turns.
    pub(super) async fn start(
        &self,
        spec: &TaskSpec,
        image: &Image,
        network: &str,
        turn: Turn,
    ) -> Result<Started, BackendError> {
        let docker = &self.0.docker;
        let turn = Arc::new(turn);
        let (options, body) = task_request(spec, &self.0.owner, network, image);
        let name = options.name.clone().unwrap_or_default();
        if let Err(error) = make(docker, options, body, Arc::clone(&turn)).await {
            // It has not run and never will.
            if matches!(error, BackendError::Rejected(_)) {
                remove(docker, &name).await?;
            }
            return Err(error);
        }
        tracing::info!(deployment = %spec.deployment_id, task = %spec.task_id, "task started");
        let started = self.started(&spec.deployment_id, &spec.task_id).await?;
        started.ok_or_else(|| BackendError::Unavailable(format!("`{name}` is gone already")))
    }

    /// What it prints and how it ends.
    pub(super) fn follow(&self, started: Started, joined: bool, task: &Label) -> Feed<TaskEvent> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (this, process) = (self.clone(), task.to_string());
        tokio::spawn(async move {
            let first = Event::Started(TaskStarted { at: started.at, joined });
            if sender.send(event(first)).await.is_err() {
                return;
            }
            let following = this.pass_on(&started.name, process, &sender);
            let ended = tokio::select! {
                ended = following => ended,
                () = sender.closed() => return,
            };
            let _ = sender.send(ended.and_then(|ended| event(Event::Ended(ended)))).await;
        });
        ReceiverStream::new(receiver).boxed()
    }

    async fn pass_on(
        &self,
        name: &str,
        process: String,
        sender: &mpsc::Sender<Result<TaskEvent, BackendError>>,
    ) -> Result<TaskEnded, BackendError> {
        let source = Source { name: name.to_owned(), process, replica: 0 };
        let reading = Reading { follow: true, ..Reading::default() };
        let mut output = std::pin::pin!(lines(&self.0.docker, source, reading));
        while let Some(line) = output.next().await {
            let (_, line) = line.map_err(|error| failed(&error))?;
            if sender.send(event(Event::Line(line))).await.is_err() {
                break;
            }
        }
        // Its exit code comes as an error here; the state has it below.
        let _ = self.0.docker.wait_container(name, None).next().await;
        let found = self.inspect(name).await?;
        let found = found.ok_or_else(|| BackendError::Rejected(format!("`{name}` was deleted")))?;
        match ended(&found) {
            Some(ended) => Ok(ended),
            None => Err(BackendError::Unavailable(format!("`{name}` cannot be followed"))),
        }
    }

    /// The namespace it was in, if there was one.
    pub(super) async fn delete(
        &self,
        id: &DeploymentId,
        task: &Label,
    ) -> Result<Option<String>, BackendError> {
        let name = task_name(id, task);
        let Some(found) = self.inspect(&name).await? else { return Ok(None) };
        self.end(&name).await?;
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        Ok(labels::namespace_in(&labels).map(str::to_owned))
    }

    /// All tasks of a deployment; the namespaces they were in.
    pub(super) async fn delete_all(&self, id: &DeploymentId) -> Result<Vec<String>, BackendError> {
        let labels =
            [labels::owned_by(&self.0.owner), labels::of_deployment(id), labels::TASKS.to_owned()];
        let all = list(&self.0.docker, &labels).await?;
        futures::future::try_join_all(all.iter().map(|task| self.end(super::id_of(task)))).await?;
        let own = all.into_iter().filter_map(|task| task.labels);
        Ok(own.filter_map(|own| labels::namespace_in(&own).map(str::to_owned)).collect())
    }

    async fn end(&self, container: &str) -> Result<(), BackendError> {
        stop(&self.0.docker, container, GRACE).await?;
        remove(&self.0.docker, container).await
    }

    /// Keeps the time limits of what another krane, or this one before a restart
    /// of the engine, has started.
    pub(super) async fn take_up(&self) -> Result<(), BackendError> {
        let labels = [labels::owned_by(&self.0.owner), labels::TASKS.to_owned()];
        for task in list(&self.0.docker, &labels).await? {
            let Some(found) = self.inspect(super::id_of(&task)).await? else { continue };
            if let Some(at) = found.state.as_ref().and_then(started_at) {
                self.keep_time(&found, at);
            }
        }
        Ok(())
    }

    /// Ends it at its time limit, in the background.
    fn keep_time(&self, found: &ContainerInspectResponse, started_at: i64) {
        let running = found.state.as_ref().and_then(|state| state.running).unwrap_or_default();
        let (Some(id), Some(limit), true) = (&found.id, limit_of(found), running) else { return };
        if !lock(&self.0.timed).insert(id.clone()) {
            return;
        }
        let since = jiff::Timestamp::now().as_millisecond().saturating_sub(started_at);
        let left = limit.saturating_sub(Duration::from_millis(u64::try_from(since).unwrap_or(0)));
        let (this, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let mut waiting = std::pin::pin!(this.0.docker.wait_container(&id, None));
            if tokio::time::timeout(left, waiting.next()).await.is_err() {
                tracing::info!(container = id, "ended: the task's time is over");
                if let Err(error) = stop(&this.0.docker, &id, GRACE).await {
                    tracing::warn!(container = id, %error, "cannot end a task in time");
                }
            }
            lock(&this.0.timed).remove(&id);
        });
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, BackendError> {
        match self.0.docker.inspect_container(name, None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }
}

fn event(event: Event) -> Result<TaskEvent, BackendError> {
    Ok(TaskEvent { event: Some(event) })
}

fn started_at(state: &ContainerState) -> Option<i64> {
    millis(state.started_at.as_deref())
}

fn limit_of(found: &ContainerInspectResponse) -> Option<Duration> {
    labels::time_limit_in(found.config.as_ref()?.labels.as_ref()?)
}

/// `None`: it runs.
fn ended(found: &ContainerInspectResponse) -> Option<TaskEnded> {
    let state = found.state.as_ref()?;
    if state.running.unwrap_or_default() {
        return None;
    }
    let took = millis(state.finished_at.as_deref()).zip(started_at(state));
    let took = took.and_then(|(end, start)| u64::try_from(end.saturating_sub(start)).ok());
    let timed_out =
        took.zip(limit_of(found)).is_some_and(|(took, limit)| Duration::from_millis(took) >= limit);
    Some(TaskEnded {
        exit_code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
        oom_killed: state.oom_killed.unwrap_or_default(),
        timed_out,
        message: state.error.clone().unwrap_or_default(),
    })
}
