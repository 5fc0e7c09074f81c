//! Leaves exactly the wanted containers, and takes away the others in an order in
//! which there are always some that are ready.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bollard::models::ContainerSummary;
use futures::{StreamExt, TryStreamExt, stream};
use launchway_proto::krane::v1::{DeploymentStatus, Instance, NotReadyReason};
use launchway_workflows::ids::DeploymentId;

use super::{
    DockerBackend,
    containers::{Wanted, place},
    id_of, image,
    image::Image,
    instances_of,
    labels::Own,
    make,
    monitor::lock,
    name_of, remove, stop,
};
use crate::krane::{
    backend::{BackendError, InstanceSpec},
    turns::Turn,
};

/// Containers that are made or removed at once.
const AT_ONCE: usize = 8;
/// Longest wait for those that replace others to be ready.
const REPLACE_LIMIT: Duration = Duration::from_secs(300);
/// From the word that an instance gets no requests any more until it is told to
/// end: the gateways must have heard it.
const WITHDRAWN: Duration = Duration::from_millis(300);

type Container = (ContainerSummary, Own);

impl DockerBackend {
    pub(super) async fn apply_all(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        let id = &spec.deployment_id;
        let turn = Arc::new(self.turns.take(id).await);
        let image = self.image_of(spec).await?;
        let network = self.network(id, &spec.namespace).await?;
        let wanted = Wanted::all(spec, &image);
        let present = instances_of(&self.docker, &self.owner, id).await?;
        let (kept, surplus): (Vec<Container>, Vec<Container>) =
            present.into_iter().partition(|(container, own)| {
                is_alive(container) && wanted.iter().any(|one| one.is(own))
            });
        let missing: Vec<&Wanted<'_>> =
            wanted.iter().filter(|one| !kept.iter().any(|(_, own)| one.is(own))).collect();
        // A dead one may have the name that its successor is to have.
        let (dead, surplus): (Vec<Container>, Vec<Container>) =
            surplus.into_iter().partition(|(container, _)| !is_alive(container));
        self.remove_all(&dead).await?;
        self.start_all(&missing, &network, &turn).await?;
        self.monitor.refresh(id).await;
        if !surplus.is_empty() {
            self.replace(spec, &surplus, &wanted, &missing).await?;
            self.monitor.refresh(id).await;
        }
        tracing::info!(deployment = %id, replicas = spec.replicas(), "applied");
        Ok(())
    }

    /// The image, with the instances to come shown while it is pulled.
    async fn image_of(&self, spec: &InstanceSpec) -> Result<Image, BackendError> {
        let (id, namespace) = (&spec.deployment_id, spec.namespace.as_str());
        let coming = |message: &str| -> Vec<Instance> {
            let of_process = spec.processes.iter().flat_map(|process| {
                (0..process.replicas).map(|replica| Instance {
                    id: place(id, &process.name, replica),
                    status: DeploymentStatus::Pending.into(),
                    message: message.to_owned(),
                    reason: NotReadyReason::ImagePull.into(),
                    process: process.name.to_string(),
                    replica,
                    ..Instance::default()
                })
            });
            of_process.collect()
        };
        let _shown = Pulling { backend: self, id, namespace };
        let tell = |message: &str| self.monitor.show_pull(id, namespace, coming(message));
        image::find(&self.docker, self.login.as_ref(), &spec.image, tell).await
    }

    async fn start_all(
        &self,
        missing: &[&Wanted<'_>],
        network: &str,
        turn: &Arc<Turn>,
    ) -> Result<(), BackendError> {
        let starting = stream::iter(missing.iter().copied()).map(Ok);
        let started = starting
            .try_for_each_concurrent(AT_ONCE, |wanted| {
                let (options, body) = wanted.request(&self.owner, network);
                make(&self.docker, options, body, Arc::clone(turn))
            })
            .await;
        if let Err(BackendError::Rejected(_)) = started {
            // None of these ever serves; what was there before goes on.
            self.remove_named(missing).await;
        }
        started
    }

    async fn remove_named(&self, wanted: &[&Wanted<'_>]) {
        for one in wanted {
            if let Err(error) = remove(&self.docker, &one.name()).await {
                tracing::warn!(container = one.name(), %error, "cannot remove it");
            }
        }
    }

    /// Removes the surplus, once what takes its place is ready.
    async fn replace(
        &self,
        spec: &InstanceSpec,
        surplus: &[Container],
        wanted: &[Wanted<'_>],
        made: &[&Wanted<'_>],
    ) -> Result<(), BackendError> {
        let id = &spec.deployment_id;
        if let Err(why) = self.successors_ready(spec, surplus, wanted).await {
            // What an apply that was cut off has made, too.
            let known = self.known(id);
            let ready = |name: String| known.iter().any(|one| one.ready && one.id == name);
            let vain = wanted.iter().filter(|one| !ready(one.name()));
            self.remove_named(&made.iter().copied().chain(vain).collect::<Vec<_>>()).await;
            return Err(BackendError::Rejected(format!(
                "{why}; the instances that were there before go on"
            )));
        }
        let containers: Vec<String> =
            surplus.iter().map(|(container, _)| id_of(container).to_owned()).collect();
        let names: HashSet<String> = surplus.iter().map(|(one, _)| name_of(one)).collect();
        let serve = |one: &Instance| one.ready && one.routed && names.contains(&one.id);
        let served = self.known(id).iter().any(serve);
        let _withdrawn = self.monitor.withdraw(id, &containers).await;
        if served {
            tokio::time::sleep(WITHDRAWN).await;
        }
        self.remove_all(surplus).await
    }

    /// Of each process that is wanted as many are ready as before, or as are
    /// wanted. What was not ready needs no successor.
    async fn successors_ready(
        &self,
        spec: &InstanceSpec,
        surplus: &[Container],
        wanted: &[Wanted<'_>],
    ) -> Result<(), String> {
        let old: HashSet<String> =
            surplus.iter().map(|(container, _)| name_of(container)).collect();
        let new: HashSet<String> = wanted.iter().map(Wanted::name).collect();
        let mut watched = self.table.watch(&spec.deployment_id);
        let decided = watched.wait_for(|present| {
            let failed = |one: &Instance| new.contains(&one.id) && one.exit_code.is_some();
            let still_ready =
                |one: &&Instance| one.ready && old.contains(&one.id) && spec.has(&one.process);
            let needed = present.instances.iter().any(|one| still_ready(&one));
            let failed = present.instances.iter().any(failed);
            !needed || failed || spec.enough_ready(&present.instances, &old)
        });
        match tokio::time::timeout(REPLACE_LIMIT, decided).await {
            Ok(Ok(present)) => {
                let ended = present
                    .instances
                    .iter()
                    .find(|one| new.contains(&one.id) && one.exit_code.is_some());
                let still = present.instances.iter().any(|one| one.ready && old.contains(&one.id));
                match ended.filter(|_| still) {
                    None => Ok(()),
                    Some(one) => Err(format!(
                        "instance {} ended with code {} before it was ready: {}",
                        one.id,
                        one.exit_code.unwrap_or_default(),
                        one.log_tail.last().cloned().unwrap_or_default()
                    )),
                }
            }
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(format!(
                "the new instances were not ready within {} s",
                REPLACE_LIMIT.as_secs()
            )),
        }
    }

    /// Returns when the instances and tasks are gone.
    pub(super) async fn delete_all(&self, id: &DeploymentId) -> Result<(), BackendError> {
        // Before the turn: an apply that waits for successors waits no longer.
        let present = instances_of(&self.docker, &self.owner, id).await?;
        let containers: Vec<String> =
            present.iter().map(|(container, _)| id_of(container).to_owned()).collect();
        let withdrawn = self.monitor.withdraw(id, &containers).await;
        let _turn = self.turns.take(id).await;
        let present = instances_of(&self.docker, &self.owner, id).await?;
        let mut namespaces: HashSet<String> =
            present.iter().map(|(_, own)| own.namespace.clone()).collect();
        self.remove_all(&present).await?;
        namespaces.extend(self.tasks.delete_all(id).await?);
        namespaces.extend(lock(&self.namespaces).remove(id));
        for namespace in namespaces {
            self.remove_network_if_empty(&namespace).await;
        }
        drop(withdrawn);
        self.monitor.refresh(id).await;
        tracing::info!(deployment = %id, instances = present.len(), "deleted");
        Ok(())
    }

    async fn remove_all(&self, containers: &[Container]) -> Result<(), BackendError> {
        let all = stream::iter(containers).map(Ok);
        let removing = all.try_for_each_concurrent(None, |(container, own)| async move {
            stop(&self.docker, id_of(container), own.grace).await?;
            remove(&self.docker, id_of(container)).await
        });
        removing.await
    }

    fn known(&self, id: &DeploymentId) -> Vec<Instance> {
        self.table.get(id).instances.to_vec()
    }
}

impl InstanceSpec {
    fn has(&self, process: &str) -> bool {
        self.processes.iter().any(|one| one.name.as_str() == process && one.replicas > 0)
    }

    /// Of each process as many are ready without the old ones as were with them.
    fn enough_ready(&self, present: &[Instance], old: &HashSet<String>) -> bool {
        let ready = |process: &str, of_old: bool| {
            let counts = |one: &&Instance| {
                one.ready && one.process == process && old.contains(&one.id) == of_old
            };
            u32::try_from(present.iter().filter(counts).count()).unwrap_or(u32::MAX)
        };
        self.processes.iter().all(|process| {
            let name = process.name.as_str();
            let before = ready(name, true);
            before == 0 || ready(name, false) >= process.replicas.min(before)
        })
    }
}

/// Shows the instances to come until it is dropped.
struct Pulling<'a> {
    backend: &'a DockerBackend,
    id: &'a DeploymentId,
    namespace: &'a str,
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        self.backend.monitor.show_pull(self.id, self.namespace, Vec::new());
    }
}

/// It runs, or is about to.
fn is_alive(container: &ContainerSummary) -> bool {
    use bollard::models::ContainerSummaryStateEnum as State;
    matches!(container.state, Some(State::RUNNING | State::RESTARTING | State::PAUSED))
}
