//! What krane knows of containers and the engine cannot be asked for.

use std::collections::{HashMap, HashSet};

use launchway_proto::krane::v1::{DeploymentStatus, Instance, NotReadyReason};
use launchway_workflows::ids::DeploymentId;

use super::{
    observe::Run,
    probing::{ByRun, key},
};

/// See the module.
#[derive(Default)]
pub(super) struct State {
    /// What the checks of running instances have found.
    pub(super) probed: HashMap<DeploymentId, ByRun>,
    /// Names of containers by id.
    pub(super) names: HashMap<String, String>,
    /// Why krane has ended a container.
    pub(super) verdicts: HashMap<String, String>,
    /// Containers that are to get no requests any more.
    pub(super) withdrawn: HashSet<String>,
    /// Instances to come, whose image is being pulled.
    pub(super) pulls: HashMap<DeploymentId, Vec<Instance>>,
}

impl State {
    /// Adds what the engine does not know. True: somebody asks this run already,
    /// or nobody has to.
    pub(super) fn complete(
        &mut self,
        instance: &mut Instance,
        container: &str,
        id: &DeploymentId,
        run: Option<&Run>,
    ) -> bool {
        self.names.insert(container.to_owned(), instance.id.clone());
        let mut asked = true;
        if let Some(run) = run {
            let runs = self.probed.entry(id.clone()).or_default();
            let probed = runs.entry(key(run)).or_default();
            probed.show(instance);
            asked = std::mem::replace(&mut probed.asked, true);
        } else if let Some(verdict) = self.verdicts.get(container) {
            instance.message.clone_from(verdict);
            instance.set_reason(NotReadyReason::ProbeFailing);
        }
        if self.withdrawn.contains(container) {
            instance.ready = false;
            instance.set_status(DeploymentStatus::Terminating);
        }
        asked
    }

    /// Forgets runs and containers that are gone.
    pub(super) fn keep_only(
        &mut self,
        id: &DeploymentId,
        present: &[Instance],
        runs: &HashSet<String>,
    ) {
        if let Some(known) = self.probed.get_mut(id) {
            known.retain(|run, _| runs.contains(run));
        }
        let prefix = format!("launchway-{}-", id.as_str().replace('_', "-"));
        let State { names, verdicts, probed, .. } = self;
        names.retain(|container, name| {
            let keep = !name.starts_with(&prefix) || present.iter().any(|one| one.id == *name);
            if !keep {
                verdicts.remove(container);
            }
            keep
        });
        if probed.get(id).is_some_and(HashMap::is_empty) {
            probed.remove(id);
        }
    }
}
