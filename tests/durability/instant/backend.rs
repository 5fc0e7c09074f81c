//! Instances that are ready at once, or after `$LAUNCHWAY_INSTANT_READY_AFTER`
//! milliseconds, and outlive krane. A set is made one by
//! one, so that it can be seen half-made. Tasks end at once: with the code that
//! their command `exit CODE` names, else with 0.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use launchway::krane::{
    Backend, BackendError, Feed, InstanceSpec, Instances, Label, Table, TaskSpec,
};
use launchway_proto::krane::v1::{
    DeploymentStatus, Instance, LogLine, TaskEnded, TaskEvent, TaskStarted, task_event,
};
use launchway_workflows::{engine::failpoint, ids::DeploymentId};

use crate::world::World;

const INSTANCES: &str = "instances";
/// Named by the deployment and the task, with the exit code.
const TASKS: &str = "tasks";

pub struct InstantBackend {
    world: World,
    table: Arc<Table>,
    ready_after: Option<Duration>,
}

impl InstantBackend {
    /// Takes up what an earlier krane has left.
    pub fn new(world: World) -> Self {
        let ready_after = std::env::var("LAUNCHWAY_INSTANT_READY_AFTER").ok();
        let ready_after = ready_after.and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let this = Self { world, table: Arc::default(), ready_after };
        for id in this.world.ids(INSTANCES) {
            if let Ok(id) = id.parse() {
                this.table.set(&id, this.instances(&id, true));
            }
        }
        this.table.mark_synced();
        this
    }

    /// The file has the namespace and how many there are.
    fn instances(&self, id: &DeploymentId, ready: bool) -> Instances {
        let content = self.world.get(INSTANCES, id.as_str()).unwrap_or_default();
        let (namespace, count) = content.split_once(' ').unwrap_or_default();
        let count: u32 = count.parse().unwrap_or(0);
        let instances = (1..=count).map(|number| Instance {
            id: format!("{id}-{number}"),
            address: "127.0.0.1:9".to_owned(),
            status: DeploymentStatus::Running.into(),
            ready,
            routed: true,
            process: "web".to_owned(),
            replica: number - 1,
            ..Instance::default()
        });
        Instances { namespace: namespace.to_owned(), instances: Arc::new(instances.collect()) }
    }
}

#[async_trait]
impl Backend for InstantBackend {
    async fn apply(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        let id = &spec.deployment_id;
        self.world.note("apply", id.as_str());
        let present = u32::try_from(self.instances(id, true).instances.len()).unwrap_or(0);
        if spec.replicas() < present {
            self.world.note("fewer", id.as_str());
        }
        for count in present.min(spec.replicas())..=spec.replicas() {
            self.world.set(INSTANCES, id.as_str(), &format!("{} {count}", spec.namespace));
            if count == 1 {
                failpoint::reach_at(id, "apply", "during").await;
            }
        }
        let ready = self.instances(id, true);
        let Some(after) = self.ready_after else {
            self.table.set(id, ready);
            return Ok(());
        };
        self.table.set(id, self.instances(id, false));
        let (table, world, id) = (Arc::clone(&self.table), self.world.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if world.get(INSTANCES, id.as_str()).is_some() {
                table.set(&id, ready);
            }
        });
        Ok(())
    }

    async fn get(&self, id: &DeploymentId) -> Result<Vec<Instance>, BackendError> {
        Ok(self.table.get(id).instances.to_vec())
    }

    async fn delete(&self, id: &DeploymentId) -> Result<(), BackendError> {
        if self.world.remove(INSTANCES, id.as_str()) {
            self.world.note("delete", id.as_str());
        }
        self.table.set(id, Instances::default());
        Ok(())
    }

    fn table(&self) -> &Arc<Table> {
        &self.table
    }

    async fn run_task(&self, spec: TaskSpec) -> Result<Feed<TaskEvent>, BackendError> {
        let (id, name) = (&spec.deployment_id, format!("{}-{}", spec.deployment_id, spec.task_id));
        let joined = self.world.get(TASKS, &name).is_some();
        if !joined && spec.join_only {
            return Err(BackendError::UnknownTask(spec.task_id));
        }
        if !joined {
            let code = spec.command.iter().skip_while(|word| *word != "exit").nth(1);
            self.world.set(TASKS, &name, code.map_or("0", String::as_str));
            // What must not be done twice.
            self.world.note("task", id.as_str());
            failpoint::reach_at(id, "task", "during").await;
        }
        let code = self.world.get(TASKS, &name).and_then(|code| code.parse().ok()).unwrap_or(0);
        let line =
            |text: String| LogLine { stream: "stdout".to_owned(), text, ..LogLine::default() };
        let said = [line(format!("ran {}", spec.command.join(" "))), line("done".to_owned())];
        let ended = TaskEnded { exit_code: code, ..TaskEnded::default() };
        let events = [task_event::Event::Started(TaskStarted { at: 0, joined })]
            .into_iter()
            .chain(said.map(task_event::Event::Line))
            .chain([task_event::Event::Ended(ended)]);
        let events = events.map(|event| Ok(TaskEvent { event: Some(event) }));
        Ok(futures::stream::iter(events.collect::<Vec<_>>()).boxed())
    }

    async fn delete_task(&self, id: &DeploymentId, task: &Label) -> Result<(), BackendError> {
        if self.world.remove(TASKS, &format!("{id}-{task}")) {
            self.world.note("delete-task", id.as_str());
        }
        Ok(())
    }
}
