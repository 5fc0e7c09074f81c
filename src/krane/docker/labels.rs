//! What a container says about itself: krane keeps nothing else, so that
//! another krane finds everything again.

use std::{collections::HashMap, time::Duration};

use launchway_workflows::{app::WEB, ids::DeploymentId};

use crate::krane::backend::{Check, Health, InstanceSpec, ProcessSpec, TaskSpec};

const OWNER: &str = "launchway.owner";
const DEPLOYMENT: &str = "launchway.deployment";
const PROJECT: &str = "launchway.project";
const ENVIRONMENT: &str = "launchway.environment";
/// Of instances only.
const REPLICA: &str = "launchway.replica";
/// Absent on containers from before there were several: `web`.
const PROCESS: &str = "launchway.process";
const SPEC: &str = "launchway.spec";
const PORT: &str = "launchway.port";
const GRACE: &str = "launchway.stop-grace";
/// Absent on containers from before there were several: HTTP.
const HEALTH_CHECK: &str = "launchway.health.check";
const HEALTH_PATH: &str = "launchway.health.path";
const HEALTH_PORT: &str = "launchway.health.port";
const HEALTH_COMMAND: &str = "launchway.health.command";
const HEALTH_TIMEOUT: &str = "launchway.health.timeout-ms";
const HEALTH_INTERVAL: &str = "launchway.health.interval-ms";
const HEALTH_START: &str = "launchway.health.start-period-ms";
/// Of tasks only.
const TASK: &str = "launchway.task";
const TIME_LIMIT: &str = "launchway.task.time-limit-ms";

pub(super) type LabelMap = HashMap<String, String>;

/// An instance, as its labels have it.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) deployment: DeploymentId,
    pub(super) namespace: String,
    pub(super) process: String,
    pub(super) replica: u32,
    /// Hash of what it was made from.
    pub(super) spec: String,
    pub(super) port: Option<u16>,
    /// Seconds from the stop signal to SIGKILL.
    pub(super) grace: i32,
    pub(super) health: Health,
}

impl Own {
    /// `None`: it is no instance. Containers that people start from an image of
    /// ours inherit some of our labels, but not all.
    pub(super) fn of(labels: &LabelMap) -> Option<Self> {
        let text = |name: &str| labels.get(name).map(String::as_str);
        let port = text(PORT).and_then(|text| text.parse().ok());
        Some(Self {
            deployment: text(DEPLOYMENT)?.parse().ok()?,
            namespace: text(ENVIRONMENT)?.to_owned(),
            process: text(PROCESS).unwrap_or(WEB).to_owned(),
            replica: text(REPLICA)?.parse().ok()?,
            spec: text(SPEC).unwrap_or_default().to_owned(),
            port,
            grace: text(GRACE).and_then(|text| text.parse().ok()).unwrap_or(10),
            health: health(labels, port),
        })
    }
}

fn health(labels: &LabelMap, own: Option<u16>) -> Health {
    let text = |name: &str| labels.get(name).map(String::as_str);
    let millis = |name: &str| text(name)?.parse().ok().map(Duration::from_millis);
    let port = text(HEALTH_PORT).and_then(|text| text.parse().ok());
    let check = match text(HEALTH_CHECK) {
        Some("tcp") => Check::Tcp { port: port.or(own) },
        Some("stays-up") => Check::StaysUp,
        Some("command") => {
            let command = text(HEALTH_COMMAND).and_then(|text| serde_json::from_str(text).ok());
            Check::Command(command.unwrap_or_default())
        }
        _ => Check::Http { path: text(HEALTH_PATH).unwrap_or("/").to_owned(), port },
    };
    Health {
        check,
        timeout: millis(HEALTH_TIMEOUT).unwrap_or(Duration::from_secs(2)),
        interval: millis(HEALTH_INTERVAL).unwrap_or(Duration::from_millis(500)),
        start_period: millis(HEALTH_START),
    }
}

/// The labels of an instance.
pub(super) fn of_instance(
    spec: &InstanceSpec,
    process: &ProcessSpec,
    port: Option<u16>,
    owner: &str,
    replica: u32,
    digest: &str,
) -> LabelMap {
    let mut all = vec![
        (OWNER, owner.to_owned()),
        (DEPLOYMENT, spec.deployment_id.to_string()),
        (PROJECT, spec.project_id.clone()),
        (ENVIRONMENT, spec.namespace.to_string()),
        (PROCESS, process.name.to_string()),
        (REPLICA, replica.to_string()),
        (SPEC, digest.to_owned()),
        (GRACE, spec.stop_grace.as_secs().to_string()),
        (HEALTH_TIMEOUT, process.health.timeout.as_millis().to_string()),
        (HEALTH_INTERVAL, process.health.interval.as_millis().to_string()),
    ];
    all.extend(port.map(|port| (PORT, port.to_string())));
    all.extend(process.health.start_period.map(|at| (HEALTH_START, at.as_millis().to_string())));
    let (check, port) = match &process.health.check {
        Check::Http { path, port } => {
            all.push((HEALTH_PATH, path.clone()));
            ("http", *port)
        }
        Check::Tcp { port } => ("tcp", *port),
        Check::Command(command) => {
            all.push((HEALTH_COMMAND, serde_json::json!(command).to_string()));
            ("command", None)
        }
        Check::StaysUp => ("stays-up", None),
    };
    all.push((HEALTH_CHECK, check.to_owned()));
    all.extend(port.map(|port| (HEALTH_PORT, port.to_string())));
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The labels of a task.
pub(super) fn of_task(spec: &TaskSpec, owner: &str) -> LabelMap {
    [
        (OWNER, owner.to_owned()),
        (DEPLOYMENT, spec.deployment_id.to_string()),
        (PROJECT, spec.project_id.clone()),
        (ENVIRONMENT, spec.namespace.to_string()),
        (TASK, spec.task_id.to_string()),
        (TIME_LIMIT, spec.time_limit.as_millis().to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The labels of a namespace's network.
pub(super) fn of_network(owner: &str, namespace: &str) -> LabelMap {
    [(OWNER, owner), (ENVIRONMENT, namespace)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Everything of an installation.
pub(super) fn owned_by(owner: &str) -> String {
    format!("{OWNER}={owner}")
}

/// Everything in a namespace.
pub(super) fn in_namespace(namespace: &str) -> String {
    format!("{ENVIRONMENT}={namespace}")
}

/// Everything of a deployment.
pub(super) fn of_deployment(id: &DeploymentId) -> String {
    format!("{DEPLOYMENT}={id}")
}

/// Instances.
pub(super) const INSTANCES: &str = REPLICA;
/// Tasks.
pub(super) const TASKS: &str = TASK;

pub(super) fn deployment_in(labels: &LabelMap) -> Option<DeploymentId> {
    labels.get(DEPLOYMENT)?.parse().ok()
}

pub(super) fn namespace_in(labels: &LabelMap) -> Option<&str> {
    labels.get(ENVIRONMENT).map(String::as_str)
}

pub(super) fn task_in(labels: &LabelMap) -> Option<&str> {
    labels.get(TASK).map(String::as_str)
}

pub(super) fn time_limit_in(labels: &LabelMap) -> Option<Duration> {
    labels.get(TIME_LIMIT)?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As krane made them when there was one process and one kind of check.
    #[test]
    fn a_container_of_an_earlier_krane_is_an_instance_of_web() {
        let id = DeploymentId::generate();
        let labels = [
            (DEPLOYMENT, id.as_str()),
            (ENVIRONMENT, "env_x"),
            (REPLICA, "1"),
            (PORT, "3000"),
            (HEALTH_PATH, "/up"),
            (HEALTH_TIMEOUT, "1000"),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let own = Own::of(&labels).unwrap();
        assert_eq!((own.process.as_str(), own.replica, own.port), (WEB, 1, Some(3000)));
        assert_eq!(own.health.check, Check::Http { path: "/up".to_owned(), port: None });
        assert_eq!(own.health.timeout, Duration::from_secs(1));
        assert_eq!((own.health.start_period, own.grace), (None, 10));
    }
}
