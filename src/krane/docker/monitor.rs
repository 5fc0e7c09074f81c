//! Keeps the table true: follows the engine's events, has what is not ready
//! asked, and reads everything afresh after a restart of either side.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerSummary, ContainerSummaryStateEnum, EventMessage, RestartPolicyNameEnum},
    query_parameters::EventsOptionsBuilder,
};
use futures::{StreamExt, TryStreamExt, stream};
use launchway_proto::krane::v1::{DeploymentStatus, Instance};
use launchway_workflows::ids::DeploymentId;

use super::{
    id_of, instances_of,
    labels::{self, Own},
    list,
    observe::{Observed, observe},
    probing::key,
    state::State,
    tasks::Tasks,
};
use crate::krane::{
    backend::BackendError,
    probe::Prober,
    table::{Instances, Table},
    turns::Turns,
};

/// Pause before the engine's events are asked for again.
const RECONNECT: Duration = Duration::from_millis(500);
/// Longest wait for the first probes of adopted instances.
const FIRST_PROBES: Duration = Duration::from_secs(3);
const PROBE_CHECK: Duration = Duration::from_millis(5);
/// Deployments that are read at once after a restart.
const READERS: usize = 8;

pub(super) struct Shared {
    pub(super) docker: Docker,
    pub(super) prober: Prober,
    pub(super) table: Arc<Table>,
    pub(super) state: Mutex<State>,
    owner: String,
    tasks: Tasks,
    /// Deployments with an event that no reading has seen yet.
    dirty: Mutex<HashSet<DeploymentId>>,
    /// One reading of a deployment at a time: a later one sees more.
    readings: Turns<DeploymentId>,
}

/// See the module; cheap to clone. The background task ends with the last clone.
#[derive(Clone)]
pub(super) struct Monitor(pub(super) Arc<Shared>);

impl Monitor {
    pub(super) fn start(docker: Docker, owner: String, table: Arc<Table>, tasks: Tasks) -> Self {
        let shared = Shared {
            docker,
            prober: Prober::new(),
            table,
            state: Mutex::default(),
            owner,
            tasks,
            dirty: Mutex::default(),
            readings: Turns::default(),
        };
        let monitor = Self(Arc::new(shared));
        let weak = Arc::downgrade(&monitor.0);
        tokio::spawn(async move {
            while let Some(shared) = weak.upgrade() {
                Self(shared).follow().await;
                tokio::time::sleep(RECONNECT).await;
            }
        });
        monitor
    }

    /// Reads the deployment's containers now.
    pub(super) async fn refresh(&self, id: &DeploymentId) {
        if let Err(error) = self.read(id).await {
            tracing::warn!(deployment = %id, %error, "cannot read the instances");
        }
    }

    async fn read(&self, id: &DeploymentId) -> Result<(), BackendError> {
        let _turn = self.0.readings.take(id).await;
        lock(&self.0.dirty).remove(id);
        let containers = instances_of(&self.0.docker, &self.0.owner, id).await?;
        let reading = containers.iter().map(|(container, own)| async move {
            observe(&self.0.docker, own, id_of(container)).await
        });
        let observed = futures::future::try_join_all(reading).await;
        let observed = observed.map_err(|error| super::failed(&error))?;
        self.publish(id, containers, observed);
        Ok(())
    }

    /// A reading that is to come sees this event; several need only one.
    fn read_soon(&self, id: DeploymentId) {
        if lock(&self.0.dirty).insert(id.clone()) {
            let this = self.clone();
            tokio::spawn(async move { this.refresh(&id).await });
        }
    }

    /// Follows events until the engine goes away.
    async fn follow(&self) {
        let filters = HashMap::from([
            ("label", vec![labels::owned_by(&self.0.owner)]),
            ("type", vec!["container".to_owned()]),
            ("event", ["start", "die", "destroy", "oom"].map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let mut events = std::pin::pin!(self.0.docker.events(Some(options)));
        // Subscribed before reading, so that nothing falls between the two.
        let first = futures::poll!(events.next());
        if let Err(error) = self.read_all().await {
            return tracing::warn!(%error, "cannot read the instances; trying again");
        }
        let mut next = match first {
            std::task::Poll::Ready(event) => event,
            std::task::Poll::Pending => events.next().await,
        };
        while let Some(Ok(event)) = next {
            self.take(event);
            next = events.next().await;
        }
        tracing::warn!("the engine's events have ended; following them again");
    }

    fn take(&self, event: EventMessage) {
        let actor = event.actor.unwrap_or_default();
        let labels = actor.attributes.unwrap_or_default();
        let Some(id) =
            labels::deployment_in(&labels).filter(|_| labels::task_in(&labels).is_none())
        else {
            return;
        };
        if event.action.as_deref() == Some("die") {
            let code = labels.get("exitCode").map_or("?", String::as_str);
            self.note_death(&id, &actor.id.unwrap_or_default(), code);
        }
        self.read_soon(id);
    }

    async fn read_all(&self) -> Result<(), BackendError> {
        self.0.tasks.take_up().await?;
        let present = self.revived().await?;
        let mut ids: HashSet<DeploymentId> =
            self.0.table.all().into_iter().map(|(id, _)| id).collect();
        ids.extend(present.into_iter().map(|(_, own)| own.deployment));
        let reading = stream::iter(ids).map(Ok::<_, BackendError>);
        reading.try_for_each_concurrent(READERS, |id| async move { self.read(&id).await }).await?;
        self.first_probes().await;
        self.0.table.mark_synced();
        Ok(())
    }

    /// All containers; those that ended unseen before they were ready are started
    /// once more. Whether it was the engine that ended with them or they by
    /// themselves cannot be told, and shows by itself.
    async fn revived(&self) -> Result<Vec<(ContainerSummary, Own)>, BackendError> {
        let labels = [labels::owned_by(&self.0.owner), labels::INSTANCES.to_owned()];
        let containers = super::own(list(&self.0.docker, &labels).await?);
        for (container, own) in containers.iter().filter(|(container, _)| is_exited(container)) {
            let id = id_of(container);
            let ended = lock(&self.0.state).verdicts.contains_key(id);
            if ended || was_ready(&self.0.docker, id).await.unwrap_or(true) {
                continue;
            }
            let deployment = &own.deployment;
            match self.0.docker.start_container(id, None).await {
                Ok(()) => tracing::info!(%deployment, container = id, "started once more"),
                Err(error) => {
                    tracing::warn!(%deployment, container = id, %error, "cannot start it once more");
                }
            }
        }
        Ok(containers)
    }

    /// Adopted instances may well be serving: nothing is reported before each
    /// was probed once, or the route feed would take their traffic away.
    async fn first_probes(&self) {
        let unprobed = || {
            let running = |instance: &Instance| {
                instance.status() == DeploymentStatus::Running
                    && !instance.ready
                    && instance.probe_attempts == 0
            };
            self.0.table.all().iter().any(|(_, known)| known.instances.iter().any(running))
        };
        let probing = async {
            while unprobed() {
                tokio::time::sleep(PROBE_CHECK).await;
            }
        };
        // A hanging instance must not hold back the others.
        let _ = tokio::time::timeout(FIRST_PROBES, probing).await;
    }

    /// Puts a reading into the table, and has what is not ready asked.
    fn publish(
        &self,
        id: &DeploymentId,
        containers: Vec<(ContainerSummary, Own)>,
        observed: Vec<Option<Observed>>,
    ) {
        // Held until the table has it: what a probe finds meanwhile comes after.
        let mut state = lock(&self.0.state);
        let (mut instances, mut runs, mut unasked) = (Vec::new(), HashSet::new(), Vec::new());
        let mut namespace = self.0.table.get(id).namespace;
        for ((container, own), observed) in containers.into_iter().zip(observed) {
            let Some(Observed { mut instance, run }) = observed else { continue };
            namespace.clone_from(&own.namespace);
            let asked = state.complete(&mut instance, id_of(&container), id, run.as_ref());
            instances.push(instance);
            if let Some(run) = run {
                runs.insert(key(&run));
                unasked.extend((!asked).then_some((own, run)));
            }
        }
        state.keep_only(id, &instances, &runs);
        instances.extend(state.pulls.get(id).cloned().unwrap_or_default());
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        self.0.table.set(id, Instances { namespace, instances: Arc::new(instances) });
        drop(state);
        for (own, run) in unasked {
            self.probe(id, own, run);
        }
    }

    /// Shows these instances to come, in place of those shown before; none: the
    /// pull has ended.
    pub(super) fn show_pull(&self, id: &DeploymentId, namespace: &str, coming: Vec<Instance>) {
        let mut state = lock(&self.0.state);
        let before = state.pulls.remove(id).unwrap_or_default();
        let mut instances = self.0.table.get(id).instances.to_vec();
        instances.retain(|one| before.iter().all(|before| before.id != one.id));
        instances.extend(coming.iter().cloned());
        if !coming.is_empty() {
            state.pulls.insert(id.clone(), coming);
        }
        let namespace = namespace.to_owned();
        self.0.table.set(id, Instances { namespace, instances: Arc::new(instances) });
    }

    /// No requests for these any more, until the guard is dropped.
    pub(super) async fn withdraw(&self, id: &DeploymentId, containers: &[String]) -> Withdrawn {
        lock(&self.0.state).withdrawn.extend(containers.iter().cloned());
        let guard = Withdrawn { monitor: self.clone(), containers: containers.to_vec() };
        self.refresh(id).await;
        guard
    }
}

/// See [`Monitor::withdraw`].
pub(super) struct Withdrawn {
    monitor: Monitor,
    containers: Vec<String>,
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        let mut state = lock(&self.monitor.0.state);
        for container in &self.containers {
            state.withdrawn.remove(container);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_exited(container: &ContainerSummary) -> bool {
    container.state == Some(ContainerSummaryStateEnum::EXITED)
}

/// It has the restart policy of those.
async fn was_ready(docker: &Docker, id: &str) -> Result<bool, Error> {
    let found = docker.inspect_container(id, None).await?;
    let policy = found.host_config.and_then(|config| config.restart_policy?.name);
    Ok(policy == Some(RestartPolicyNameEnum::ALWAYS))
}
