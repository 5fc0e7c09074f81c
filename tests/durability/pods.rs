//! What an installation has done in a cluster of the tests.

use std::collections::HashSet;

use launchway_workflows::ids::DeploymentId;
use serde_json::Value;

use crate::apiserver::{Behaviour, TestCluster};

const DEPLOYMENT: &str = "launchway.dev/deployment";
const TASK: &str = "launchway.dev/task";

/// Every image answers, and as a task it ends well.
pub struct Pods {
    pub cluster: TestCluster,
}

impl Pods {
    pub fn start() -> Self {
        let cluster = TestCluster::start();
        cluster.script_others(Behaviour::serve());
        Self { cluster }
    }

    /// The deployment of each instance that is to stay.
    fn running(&self) -> Vec<String> {
        let pods = self.cluster.list("pods");
        let stays = |pod: &&Value| {
            let meta = &pod["metadata"];
            meta["deletionTimestamp"].is_null() && meta["labels"][TASK].is_null()
        };
        let of = |pod: &Value| pod["metadata"]["labels"][DEPLOYMENT].as_str().map(str::to_owned);
        pods.iter().filter(stays).filter_map(of).collect()
    }

    pub fn instances(&self, of: &DeploymentId) -> u32 {
        let count = self.running().iter().filter(|id| *id == of.as_str()).count();
        u32::try_from(count).unwrap()
    }

    pub fn deployed(&self) -> HashSet<String> {
        self.running().into_iter().collect()
    }

    /// How often a task of the deployment was started.
    pub fn releases(&self, of: &DeploymentId) -> usize {
        let started = self.cluster.started();
        let own = |labels: &&Value| labels[DEPLOYMENT] == *of.as_str() && !labels[TASK].is_null();
        started.iter().filter(own).count()
    }

    pub fn has_task(&self, of: &DeploymentId) -> bool {
        let jobs = self.cluster.list("jobs");
        jobs.iter().any(|job| job["metadata"]["labels"][DEPLOYMENT] == *of.as_str())
    }

    /// Everything but pods that deployments have there, by whose it is.
    pub fn owned(&self) -> HashSet<String> {
        let store = self.cluster.shared.store();
        let of =
            |value: &Value| value["metadata"]["labels"][DEPLOYMENT].as_str().map(str::to_owned);
        store.all().filter_map(|(_, value)| of(value)).collect()
    }
}
