//! What a case does to a krane, and what it waits for.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures::StreamExt;
use launchway_proto::krane::v1::{
    CreateDeploymentRequest, DeleteDeploymentRequest, DeleteTaskRequest, DeploymentRequest,
    ExecInput, ExecStart, Found, GetDeploymentRequest, HealthCheck, Instance,
    ListDeploymentsRequest, LogLine, Process, RunTaskRequest, StreamLogsRequest, TaskEnded,
    TaskEvent, TaskStarted, WatchInstancesRequest, exec_input, exec_output, task_event,
};
use launchway_workflows::ids::{DeploymentId, EnvironmentId};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::harness::{Client, Harness, connect, sh};

/// Longest wait for anything: runtimes that schedule take their time.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A namespace of a case's own.
pub struct World<'h> {
    pub harness: &'h dyn Harness,
    pub namespace: String,
    made: Mutex<Vec<(String, String)>>,
}

/// A task as it was seen, from start to end.
#[derive(Debug)]
pub struct Ran {
    pub started: TaskStarted,
    pub lines: Vec<LogLine>,
    pub ended: TaskEnded,
}

impl Ran {
    pub fn texts(&self) -> Vec<&str> {
        self.lines.iter().map(|line| line.text.as_str()).collect()
    }
}

/// What a command in an instance gave.
#[derive(Debug, Default)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: Option<i32>,
}

impl<'h> World<'h> {
    pub fn new(harness: &'h dyn Harness) -> Self {
        let namespace = EnvironmentId::generate().to_string();
        Self { harness, namespace, made: Mutex::default() }
    }

    /// Another namespace of the same krane.
    pub fn elsewhere(&self) -> World<'h> {
        World::new(self.harness)
    }

    pub async fn krane(&self) -> Client {
        connect(&self.harness.url()).await
    }

    /// One replica of the image's own command.
    pub fn request(&self) -> DeploymentRequest {
        let deployment_id = DeploymentId::generate().to_string();
        self.made.lock().unwrap().push((self.namespace.clone(), deployment_id.clone()));
        DeploymentRequest {
            namespace: self.namespace.clone(),
            deployment_id,
            image: self.harness.image(),
            replicas: 1,
            memory_size_mib: 64,
            env: HashMap::from([("GREETING".to_owned(), "hello".to_owned())]),
            port: 8080,
            health: Some(HealthCheck { interval_ms: 50, ..HealthCheck::default() }),
            project_id: "prj_conformance".to_owned(),
            stop_grace_seconds: 1,
            ..DeploymentRequest::default()
        }
    }

    /// One process that runs this script.
    pub fn scripted(&self, script: &str) -> DeploymentRequest {
        let request = self.request();
        let web = Process {
            name: "web".to_owned(),
            command: sh(script),
            replicas: 1,
            port: 8080,
            health: request.health.clone(),
            ..Process::default()
        };
        DeploymentRequest { processes: vec![web], ..request }
    }

    pub async fn try_apply(&self, request: &DeploymentRequest) -> Result<(), Status> {
        let request = CreateDeploymentRequest { deployment: Some(request.clone()) };
        let mut krane = self.krane().await;
        let applied = timeout(PATIENCE, krane.create_deployment(request)).await;
        applied.expect("an apply ends").map(drop)
    }

    pub async fn apply(&self, request: &DeploymentRequest) {
        self.try_apply(request).await.unwrap();
    }

    /// Applies and returns the instances once all are ready.
    pub async fn deploy(&self, request: &DeploymentRequest) -> Vec<Instance> {
        self.apply(request).await;
        self.ready(&request.deployment_id, replicas(request)).await
    }

    pub async fn get(&self, id: &str) -> Vec<Instance> {
        let (namespace, deployment_id) = (self.namespace.clone(), id.to_owned());
        let request = GetDeploymentRequest { namespace, deployment_id };
        self.krane().await.get_deployment(request).await.unwrap().into_inner().instances
    }

    pub async fn delete(&self, id: &str) {
        let (namespace, deployment_id) = (self.namespace.clone(), id.to_owned());
        let request = DeleteDeploymentRequest { namespace, deployment_id };
        let mut krane = self.krane().await;
        let deleted = timeout(PATIENCE, krane.delete_deployment(request)).await;
        deleted.expect("a delete ends").unwrap();
    }

    pub async fn watch(&self, id: &str) -> Watch {
        let (namespace, deployment_id) = (self.namespace.clone(), id.to_owned());
        let request = WatchInstancesRequest { namespace, deployment_id };
        let changes = self.krane().await.watch_instances(request).await.unwrap().into_inner();
        Watch { changes, last: Vec::new() }
    }

    /// The instances once they are as wanted.
    pub async fn until(&self, id: &str, wanted: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
        self.watch(id).await.until(wanted).await
    }

    pub async fn ready(&self, id: &str, count: usize) -> Vec<Instance> {
        self.until(id, |all| all.len() == count && all.iter().all(|one| one.ready)).await
    }

    /// The body that an instance answers with.
    pub async fn body(&self, instance: &Instance) -> String {
        if !self.harness.reaches_instances() {
            return self.body_from_inside(instance).await;
        }
        let answer = self.harness.get(&instance.address, "/").await;
        let (status, body) = answer.unwrap_or_else(|| panic!("{instance:?} does not answer"));
        assert_eq!(status, 200, "{body}");
        body.trim().to_owned()
    }

    async fn body_from_inside(&self, instance: &Instance) -> String {
        let made = self.made.lock().unwrap().clone();
        for (_, id) in made {
            if self.get(&id).await.iter().any(|one| one.id == instance.id) {
                let ask = "/busybox wget -q -O - http://127.0.0.1:$PORT/";
                let (process, replica) = (instance.process.clone(), Some(instance.replica));
                let start = ExecStart { process, replica, ..self.exec_of(&id, ask) };
                let said = self.try_exec(start, Vec::new()).await.unwrap();
                assert_eq!(said.exit_code, Some(0), "{instance:?} does not answer: {said:?}");
                return said.stdout.trim().to_owned();
            }
        }
        panic!("{instance:?} is nobody's")
    }

    pub fn logs_of(&self, id: &str) -> StreamLogsRequest {
        let (namespace, deployment_id) = (self.namespace.clone(), id.to_owned());
        StreamLogsRequest { namespace, deployment_id, ..StreamLogsRequest::default() }
    }

    /// All lines of a request that does not follow.
    pub async fn logs(&self, request: StreamLogsRequest) -> Vec<LogLine> {
        let lines = self.krane().await.stream_logs(request).await.unwrap().into_inner();
        let lines = timeout(PATIENCE, lines.map(Result::unwrap).collect()).await;
        lines.expect("logs that are not followed end")
    }

    pub fn task(&self, id: &str, task_id: &str, script: &str) -> RunTaskRequest {
        RunTaskRequest {
            namespace: self.namespace.clone(),
            deployment_id: id.to_owned(),
            task_id: task_id.to_owned(),
            project_id: "prj_conformance".to_owned(),
            image: self.harness.image(),
            command: sh(script),
            memory_size_mib: 64,
            time_limit_seconds: 60,
            ..RunTaskRequest::default()
        }
    }

    pub async fn begin_task(
        &self,
        request: &RunTaskRequest,
    ) -> Result<Streaming<TaskEvent>, Status> {
        let mut krane = self.krane().await;
        let begun = timeout(PATIENCE, krane.run_task(request.clone())).await;
        begun.expect("a task begins").map(tonic::Response::into_inner)
    }

    pub async fn run_task(&self, request: &RunTaskRequest) -> Ran {
        let events = self.begin_task(request).await.unwrap();
        timeout(PATIENCE, to_its_end(events)).await.expect("a task ends")
    }

    pub async fn delete_task(&self, id: &str, task_id: &str) {
        let request = DeleteTaskRequest {
            namespace: self.namespace.clone(),
            deployment_id: id.to_owned(),
            task_id: task_id.to_owned(),
        };
        self.krane().await.delete_task(request).await.unwrap();
    }

    pub fn exec_of(&self, id: &str, script: &str) -> ExecStart {
        ExecStart {
            namespace: self.namespace.clone(),
            deployment_id: id.to_owned(),
            command: sh(script),
            ..ExecStart::default()
        }
    }

    pub async fn try_exec(
        &self,
        start: ExecStart,
        input: Vec<exec_input::Input>,
    ) -> Result<Said, Status> {
        let first = exec_input::Input::Start(start);
        let messages = std::iter::once(first).chain(input);
        let messages = messages.map(|input| ExecInput { input: Some(input) });
        // The connection stays open after the last one.
        let messages = futures::stream::iter(messages).chain(futures::stream::pending());
        let mut output = self.krane().await.exec(messages).await?.into_inner();
        let mut said = Said::default();
        while let Some(message) = timeout(PATIENCE, output.message()).await.expect("it ends")? {
            match message.output.unwrap() {
                exec_output::Output::Stdout(bytes) => {
                    said.stdout.push_str(&String::from_utf8_lossy(&bytes));
                }
                exec_output::Output::Stderr(bytes) => {
                    said.stderr.push_str(&String::from_utf8_lossy(&bytes));
                }
                exec_output::Output::ExitCode(code) => said.exit_code = Some(code),
            }
        }
        Ok(said)
    }

    /// What a script without input prints.
    pub async fn exec(&self, id: &str, script: &str) -> Said {
        self.try_exec(self.exec_of(id, script), Vec::new()).await.unwrap()
    }

    /// What krane finds of this deployment.
    pub async fn found(&self, id: &str) -> Vec<Found> {
        let request = ListDeploymentsRequest { sizes: false };
        let found = self.krane().await.list_deployments(request).await.unwrap().into_inner().found;
        found.into_iter().filter(|found| found.deployment_id == id).collect()
    }

    pub async fn clean_up(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        for (namespace, deployment_id) in made {
            let request = DeleteDeploymentRequest { namespace, deployment_id };
            let _ = timeout(PATIENCE, self.krane().await.delete_deployment(request)).await;
        }
    }
}

async fn to_its_end(mut events: Streaming<TaskEvent>) -> Ran {
    let first = events.message().await.unwrap().and_then(|event| event.event);
    let Some(task_event::Event::Started(started)) = first else {
        panic!("the first event is that it started, not {first:?}");
    };
    let mut lines = Vec::new();
    loop {
        let event = events.message().await.unwrap().and_then(|event| event.event);
        match event.expect("the last event is how it ended") {
            task_event::Event::Started(_) => panic!("it started twice"),
            task_event::Event::Line(line) => lines.push(line),
            task_event::Event::Ended(ended) => {
                assert!(events.message().await.unwrap().is_none(), "nothing follows the end");
                return Ran { started, lines, ended };
            }
        }
    }
}

/// Changes of a deployment's instances.
pub struct Watch {
    changes: Streaming<launchway_proto::krane::v1::InstancesChanged>,
    last: Vec<Instance>,
}

impl Watch {
    /// The next change.
    pub async fn next(&mut self) -> Vec<Instance> {
        let change = self.changes.message().await.unwrap().expect("a watch does not end");
        self.last.clone_from(&change.instances);
        change.instances
    }

    pub async fn until(&mut self, wanted: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
        let begun = Instant::now();
        loop {
            let Ok(instances) =
                timeout(PATIENCE.saturating_sub(begun.elapsed()), self.next()).await
            else {
                panic!("waited in vain, the last were {:#?}", self.last);
            };
            if wanted(&instances) {
                return instances;
            }
        }
    }
}

pub fn replicas(request: &DeploymentRequest) -> usize {
    let all: u32 = match request.processes.as_slice() {
        [] => request.replicas,
        processes => processes.iter().map(|process| process.replicas).sum(),
    };
    all as usize
}

/// Looks again and again until there is something to see.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
