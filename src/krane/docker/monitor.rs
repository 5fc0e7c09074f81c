//! Keeps the table true: follows the engine's events, probes what is not
//! ready, and reads everything afresh after a restart of either side.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    Docker,
    errors::Error,
    models::{
        ContainerSummary, ContainerSummaryStateEnum, ContainerUpdateBody, RestartPolicy,
        RestartPolicyNameEnum,
    },
    query_parameters::EventsOptionsBuilder,
};
use futures::StreamExt;
use launchway_proto::krane::v1::{DeploymentStatus, Instance};
use launchway_workflows::ids::DeploymentId;

use super::{
    Labels, list,
    observe::{Observed, observe},
};
use crate::krane::{
    BackendError,
    probe::{Prober, pauses},
    table::{Instances, Table},
};

/// Pause before the engine's events are asked for again.
const RECONNECT: Duration = Duration::from_millis(500);
/// Longest wait for the first probes of adopted instances.
const FIRST_PROBES: Duration = Duration::from_secs(3);
const PROBE_CHECK: Duration = Duration::from_millis(5);

/// What the probes of a running container have found.
#[derive(Default, Clone)]
struct Probed {
    ready: bool,
    attempts: u32,
    message: String,
}

struct Shared {
    docker: Docker,
    owner: String,
    table: Arc<Table>,
    prober: Prober,
    /// By container and start time: a restarted one is probed anew.
    probed: Mutex<HashMap<String, Probed>>,
    probing: Mutex<HashSet<String>>,
    /// One reading of a deployment at a time: a later one sees more.
    reading: tokio::sync::Mutex<()>,
}

/// See the module; cheap to clone. The background task ends with the last clone.
#[derive(Clone)]
pub(super) struct Monitor(Arc<Shared>);

impl Monitor {
    pub(super) fn start(docker: Docker, owner: String, table: Arc<Table>, prober: Prober) -> Self {
        let shared = Shared {
            docker,
            owner,
            table,
            prober,
            probed: Mutex::default(),
            probing: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
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
        let _turn = self.0.reading.lock().await;
        let labels = [Labels::owner(&self.0.owner), Labels::deployment(id)];
        match list(&self.0.docker, &labels).await {
            Ok(containers) => self.publish(id, &containers).await,
            Err(error) => tracing::warn!(deployment = %id, %error, "cannot read the instances"),
        }
    }

    /// Follows events until the engine goes away.
    async fn follow(&self) {
        let filters = HashMap::from([
            ("label", vec![Labels::owner(&self.0.owner)]),
            ("type", vec!["container".to_owned()]),
            ("event", ["start", "die", "destroy", "oom"].map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let mut events = std::pin::pin!(self.0.docker.events(Some(options)));
        // Subscribed before reading, so that nothing falls between the two.
        let first = futures::poll!(events.next());
        if !self.read_all().await {
            return;
        }
        let mut next = match first {
            std::task::Poll::Ready(event) => event,
            std::task::Poll::Pending => events.next().await,
        };
        while let Some(Ok(event)) = next {
            let labels = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
            if let Some(id) = Labels::deployment_in(&labels) {
                self.refresh(&id).await;
            }
            next = events.next().await;
        }
        tracing::warn!("the engine's events have ended; following them again");
    }

    async fn read_all(&self) -> bool {
        let turn = self.0.reading.lock().await;
        let containers = match self.revived().await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(%error, "cannot read the instances; trying again");
                return false;
            }
        };
        let mut by_deployment: HashMap<DeploymentId, Vec<ContainerSummary>> =
            self.0.table.all().into_iter().map(|(id, _)| (id, Vec::new())).collect();
        for container in containers {
            if let Some(id) = Labels::deployment_of(&container) {
                by_deployment.entry(id).or_default().push(container);
            }
        }
        for (id, containers) in &by_deployment {
            self.publish(id, containers).await;
        }
        drop(turn);
        self.first_probes().await;
        self.0.table.mark_synced();
        true
    }

    /// All containers; those that ended unseen before they were ready are started
    /// once more. Whether it was the engine that ended with them or they by
    /// themselves cannot be told, and shows by itself.
    async fn revived(&self) -> Result<Vec<ContainerSummary>, BackendError> {
        let labels = [Labels::owner(&self.0.owner)];
        let containers = list(&self.0.docker, &labels).await?;
        let mut revived = false;
        for container in containers.iter().filter(|container| is_exited(container)) {
            let id = container.id.as_deref().unwrap_or_default();
            if was_ready(&self.0.docker, id).await.unwrap_or(true) {
                continue;
            }
            match self.0.docker.start_container(id, None).await {
                Ok(()) => tracing::info!(container = name_of(container), "started once more"),
                Err(error) => {
                    tracing::warn!(container = name_of(container), %error, "cannot start it once more");
                }
            }
            revived = true;
        }
        if revived { list(&self.0.docker, &labels).await } else { Ok(containers) }
    }

    /// Adopted instances may well be serving: nothing is reported before each
    /// was probed once, or the route feed would take their traffic away.
    async fn first_probes(&self) {
        let unprobed = || {
            let running = |instance: &Instance| {
                !instance.address.is_empty() && !instance.ready && instance.probe_attempts == 0
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

    async fn publish(&self, id: &DeploymentId, containers: &[ContainerSummary]) {
        let reading = containers.iter().map(|container| observe(&self.0.docker, container));
        let observed = match futures::future::try_join_all(reading).await {
            Ok(observed) => observed,
            Err(error) => {
                return tracing::warn!(deployment = %id, %error, "cannot read the instances");
            }
        };
        let (mut instances, mut unready) = (Vec::new(), Vec::new());
        for (container, observed) in containers.iter().zip(observed) {
            if let Observed::Running { address } = &observed
                && !self.probed(container, address).ready
            {
                unready.push((container, address.clone()));
            }
            instances.extend(self.instance(container, observed));
        }
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        let namespace = containers.first().and_then(Labels::namespace_of).unwrap_or_default();
        self.0.table.set(id, Instances { namespace, instances: Arc::new(instances) });
        // Only now: a probe ends when the table does not have its instance.
        for (container, address) in unready.into_iter().filter(|(_, address)| !address.is_empty()) {
            self.probe(id, container, address);
        }
    }

    fn probed(&self, container: &ContainerSummary, address: &str) -> Probed {
        lock(&self.0.probed).get(&key_of(container, address)).cloned().unwrap_or_default()
    }

    fn instance(&self, container: &ContainerSummary, observed: Observed) -> Option<Instance> {
        let id = name_of(container);
        match observed {
            Observed::Gone => None,
            Observed::Starting => {
                let status = DeploymentStatus::Pending.into();
                Some(Instance { id, status, ..Instance::default() })
            }
            Observed::Running { address } => {
                let probed = self.probed(container, &address);
                Some(Instance {
                    id,
                    address,
                    status: DeploymentStatus::Running.into(),
                    ready: probed.ready,
                    message: probed.message,
                    probe_attempts: probed.attempts,
                    ..Instance::default()
                })
            }
            Observed::Ended { exit_code, error, oom_killed, tail } => Some(Instance {
                id,
                status: DeploymentStatus::Terminating.into(),
                exit_code: Some(exit_code),
                message: error,
                oom_killed,
                log_tail: tail,
                ..Instance::default()
            }),
        }
    }

    /// Probes in the background until the instance is ready or gone.
    fn probe(&self, id: &DeploymentId, container: &ContainerSummary, address: String) {
        let key = key_of(container, &address);
        if !lock(&self.0.probing).insert(key.clone()) {
            return;
        }
        let (this, id) = (self.clone(), id.clone());
        let health = Labels::health(container);
        let container = container.id.clone().unwrap_or_default();
        tokio::spawn(async move {
            for pause in pauses(&health) {
                let result = this.0.prober.probe(&address, &health).await;
                let ready = result.is_ok();
                {
                    let mut probed = lock(&this.0.probed);
                    let probed = probed.entry(key.clone()).or_default();
                    probed.attempts += 1;
                    probed.ready = ready;
                    probed.message = result.err().unwrap_or_default();
                }
                if ready {
                    this.refresh(&id).await;
                    this.keep_running(&container).await;
                    break;
                }
                if !this.runs_at(&id, &address) {
                    lock(&this.0.probed).remove(&key);
                    break;
                }
                this.note_probe(&id, &address, &key);
                tokio::time::sleep(pause).await;
            }
            lock(&this.0.probing).remove(&key);
        });
    }

    fn runs_at(&self, id: &DeploymentId, address: &str) -> bool {
        self.0.table.get(id).instances.iter().any(|instance| instance.address == address)
    }

    /// Shows the last probe without asking the engine again.
    fn note_probe(&self, id: &DeploymentId, address: &str, key: &str) {
        let probed = lock(&self.0.probed).get(key).cloned().unwrap_or_default();
        self.0.table.modify(id, |instances| {
            for instance in instances.iter_mut().filter(|instance| instance.address == address) {
                instance.message.clone_from(&probed.message);
                instance.probe_attempts = probed.attempts;
            }
        });
    }

    /// What was ready once is the engine's to keep running, over restarts of its
    /// own too, whatever it exits with: a server that is told to stop by its
    /// engine exits with 0. Not "unless stopped": an engine that was killed takes
    /// what it finds running for stopped by a person (Docker 20.10).
    async fn keep_running(&self, container: &str) {
        let policy =
            RestartPolicy { name: Some(RestartPolicyNameEnum::ALWAYS), maximum_retry_count: None };
        let update =
            ContainerUpdateBody { restart_policy: Some(policy), ..ContainerUpdateBody::default() };
        if let Err(error) = self.0.docker.update_container(container, update).await {
            tracing::warn!(container, %error, "cannot set the restart policy");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

fn key_of(container: &ContainerSummary, address: &str) -> String {
    format!("{}@{address}", container.id.as_deref().unwrap_or_default())
}

fn name_of(container: &ContainerSummary) -> String {
    let names = container.names.as_deref().unwrap_or_default();
    names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default()
}
