//! Tasks: a job of one pod that runs once. Whoever asks again joins it.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use launchway_proto::krane::v1::{
    LogLine, NotReadyReason, TaskEnded, TaskEvent, TaskStarted, task_event::Event,
};
use launchway_workflows::ids::DeploymentId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    KubernetesBackend,
    call::{CallError, call},
    checks::check_variables,
    lines::{Lines, Source, asked},
    monitor::{Monitor, now_ms},
    names::{self, keys},
    objects::{self, Root},
    patching::put,
    report,
    settings::Patience,
    trouble,
};
use crate::krane::backend::{BackendError, Feed, Label, TaskSpec};

/// Events that a reader may lag behind.
const EVENTS: usize = 256;
/// A pod is followed by the watch; after this long without it the job is asked.
const ASK_JOB: Duration = Duration::from_secs(1);
/// From the end of its output until its end must be known.
const END: Duration = Duration::from_secs(30);
/// What stands for the code of a task that never ran.
const NEVER_RAN: i32 = 125;

type Sender = mpsc::Sender<Result<TaskEvent, BackendError>>;

impl KubernetesBackend {
    pub(super) async fn start_task(&self, spec: TaskSpec) -> Result<Feed<TaskEvent>, BackendError> {
        check_variables(&spec.env)?;
        let name = names::task(&spec.deployment_id, spec.task_id.as_str());
        let namespace = names::namespace(&self.settings.namespace_prefix, &spec.namespace);
        let jobs = self.api::<Job>(&namespace);
        let known = call("Job", || jobs.get_opt(&name)).await?;
        let (job, joined) = match known {
            Some(job) => (job, true),
            None if spec.join_only => return Err(BackendError::UnknownTask(spec.task_id)),
            None => match self.make_task(&spec).await? {
                Some(job) => (job, false),
                None => (call("Job", || jobs.get(&name)).await?, true),
            },
        };
        let (events, feed) = mpsc::channel(EVENTS);
        let follower = Follower {
            monitor: self.monitor.clone(),
            pods: self.api(&namespace),
            patience: self.settings.patience,
            uid: job.metadata.uid.unwrap_or_default(),
            jobs,
            name,
            joined,
            spec: Arc::new(spec),
        };
        tokio::spawn(async move {
            if let Err(error) = follower.follow(&events).await {
                let _ = events.send(Err(error)).await;
            }
        });
        Ok(ReceiverStream::new(feed).boxed())
    }

    /// `None`: somebody else has just made it.
    async fn make_task(&self, spec: &TaskSpec) -> Result<Option<Job>, BackendError> {
        let namespace = self.namespace_of_task(&spec.namespace).await?;
        let root = objects::task_root(&self.style, spec, &namespace);
        let labels = root.labels().clone();
        let root = Root::of(&put(&self.api(&namespace), &root).await?);
        let secret: Secret = objects::variables(&root, &labels, &spec.env);
        put(&self.api(&namespace), &secret).await?;
        let job = objects::job(&self.style, &root, spec);
        let api = self.api::<Job>(&namespace);
        // Never an apply: a job that is there is this very task.
        let params = PostParams::default();
        match call("Job", || api.create(&params, &job)).await {
            Ok(job) => Ok(Some(job)),
            Err(CallError::Exists(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn remove_task(
        &self,
        id: &DeploymentId,
        task: &Label,
    ) -> Result<(), BackendError> {
        let of = names::deployment_selector(&self.style.owner, id);
        self.delete_roots(&format!("{of},{}={task}", keys::TASK)).await
    }
}

/// How it has begun.
enum Begun {
    Running(Box<Pod>),
    Never(TaskEnded),
    /// Nobody reads any more.
    Unread,
}

/// Follows one task for one reader.
struct Follower {
    monitor: Monitor,
    patience: Patience,
    jobs: Api<Job>,
    pods: Api<Pod>,
    name: String,
    /// Of the job.
    uid: String,
    joined: bool,
    spec: Arc<TaskSpec>,
}

impl Follower {
    async fn follow(&self, events: &Sender) -> Result<(), BackendError> {
        let send =
            |event| async move { events.send(Ok(TaskEvent { event: Some(event) })).await.is_ok() };
        let pod = match self.begun(events).await? {
            Begun::Running(pod) => pod,
            Begun::Never(ended) => {
                send(Event::Ended(ended)).await;
                return Ok(());
            }
            Begun::Unread => return Ok(()),
        };
        let at = started_at(&pod);
        if !send(Event::Started(TaskStarted { at, joined: self.joined })).await {
            return Ok(());
        }
        if !self.output(&pod, events).await? {
            return Ok(());
        }
        let ended = tokio::time::timeout(END, self.end()).await.map_err(|_| {
            BackendError::Unavailable(format!(
                "how task `{}` ended is not known",
                self.spec.task_id
            ))
        })??;
        send(Event::Ended(ended)).await;
        Ok(())
    }

    /// Waits until it runs, or will not.
    async fn begun(&self, events: &Sender) -> Result<Begun, BackendError> {
        let look = |pod: &Pod| {
            if report::runs(pod) || report::last_end(pod).is_some() {
                return Some(Begun::Running(Box::new(pod.clone())));
            }
            never_ran(pod, &self.patience).map(Begun::Never)
        };
        loop {
            if let Some(ended) = self.ended_unseen().await? {
                return Ok(Begun::Never(ended));
            }
            tokio::select! {
                begun = self.pod_as(look) => if let Some(begun) = begun { return Ok(begun) },
                () = events.closed() => return Ok(Begun::Unread),
            }
        }
    }

    /// What is looked for in its pod, once it shows; `None`: not for a while, so that
    /// the job should be asked.
    async fn pod_as<T>(&self, look: impl Fn(&Pod) -> Option<T>) -> Option<T> {
        let seen =
            self.monitor.until(|state| state.task_pod(&self.uid).and_then(&look).ok_or(ASK_JOB));
        tokio::time::timeout(ASK_JOB, seen).await.ok()
    }

    async fn pod(&self) -> Result<Option<Pod>, BackendError> {
        let params = ListParams::default().labels(&format!("{}={}", keys::JOB, self.name));
        let mut found = call("Pods", || self.pods.list(&params)).await?.items;
        found.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
        Ok(found.into_iter().next())
    }

    /// The job's own word, where its pod is gone.
    async fn ended_unseen(&self) -> Result<Option<TaskEnded>, BackendError> {
        let Some(job) = call("Job", || self.jobs.get_opt(&self.name)).await? else {
            return Err(BackendError::UnknownTask(self.spec.task_id.clone()));
        };
        let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
        let failed = conditions.iter().find(|one| one.type_ == "Failed" && one.status == "True");
        let Some(failed) = failed else { return Ok(None) };
        if self.pod().await?.is_some() {
            return Ok(None);
        }
        let message = failed.message.clone().unwrap_or_default();
        Ok(Some(TaskEnded {
            exit_code: NEVER_RAN,
            message: format!("its pod is gone: {message}"),
            ..TaskEnded::default()
        }))
    }

    /// False: nobody reads any more.
    async fn output(&self, pod: &Pod, events: &Sender) -> Result<bool, BackendError> {
        let params = asked(true, None, 0);
        let name = pod.name_any();
        let reading = call("Pod log", || self.pods.log_stream(&name, &params)).await;
        let reading = match reading {
            Ok(reading) => reading,
            // The node is gone with it; how it ended may still be known.
            Err(error) => {
                let text = format!("(its output cannot be read: {error})");
                let line = LogLine { text, ..LogLine::default() };
                let event = TaskEvent { event: Some(Event::Line(line)) };
                return Ok(events.send(Ok(event)).await.is_ok());
            }
        };
        let source = Source { name, ..Source::default() };
        let mut lines = Lines::new(Box::pin(reading), source);
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = events.closed() => return Ok(false),
            };
            let Some((_, line)) = line else { return Ok(true) };
            if events.send(Ok(TaskEvent { event: Some(Event::Line(line)) })).await.is_err() {
                return Ok(false);
            }
        }
    }

    async fn end(&self) -> Result<TaskEnded, BackendError> {
        loop {
            if let Some(ended) = self.pod_as(ended).await {
                return Ok(ended);
            }
            if let Some(ended) = self.ended_unseen().await? {
                return Ok(ended);
            }
        }
    }
}

fn started_at(pod: &Pod) -> i64 {
    let running = report::container(pod).and_then(|status| status.state.as_ref()?.running.as_ref());
    let time = match running {
        Some(running) => running.started_at.as_ref(),
        None => report::last_end(pod).and_then(|end| end.started_at.as_ref()),
    };
    time.map_or(0, |time| time.0.as_millisecond())
}

/// How it ended, once it has.
fn ended(pod: &Pod) -> Option<TaskEnded> {
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    let timed_out = reason == Some("DeadlineExceeded");
    let end = report::last_end(pod);
    // A pod that ran out of time has failed before its container has ended.
    if report::runs(pod) || (end.is_none() && !report::is_over(pod)) {
        return None;
    }
    let evicted = trouble::of(pod)
        .filter(|why| why.reason == NotReadyReason::Evicted && end.is_none() && !timed_out);
    Some(TaskEnded {
        exit_code: end.map_or(NEVER_RAN, |end| end.exit_code),
        oom_killed: end.is_some_and(report::is_out_of_memory),
        timed_out,
        message: evicted.map(|why| why.message).unwrap_or_default(),
    })
}

/// What will not run however long one waits.
fn never_ran(pod: &Pod, patience: &Patience) -> Option<TaskEnded> {
    let why = trouble::of(pod)?;
    let hopeless = why.reason == NotReadyReason::Evicted || why.is_hopeless(patience, now_ms());
    let known = ended(pod).unwrap_or_default();
    hopeless.then_some(TaskEnded { exit_code: NEVER_RAN, message: why.message, ..known })
}
