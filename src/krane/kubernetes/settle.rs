//! From an apply until its pods have what they need to start: whatever waiting
//! cannot help is the apply's own error.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt;
use launchway_workflows::ids::DeploymentId;

use super::{
    call::is_quota,
    monitor::{Monitor, now_ms},
    names::keys,
    report,
    state::{Key, State, key_of, refusal},
    trouble::{self, Trouble},
};
use crate::krane::backend::BackendError;

/// Longest wait, pulls included: within what the caller waits.
const LIMIT: Duration = Duration::from_secs(540);
/// Longest wait for what replaces instances that are ready.
const ROLLOUT: Duration = Duration::from_secs(120);
/// How long a pull may fail of what may pass.
const PULLS: Duration = Duration::from_secs(45);
/// How often what is a matter of time is looked at.
const TICK: Duration = Duration::from_secs(1);

/// A workload that was applied.
pub(super) struct Applied {
    key: Key,
    image: String,
    generation: i64,
    spec: String,
    /// `None`: an autoscaler's business.
    replicas: Option<i32>,
    /// Ready instances are being replaced: their successors must be ready.
    pub(super) replaces: bool,
}

impl Applied {
    pub(super) fn new(workload: &Deployment, image: &str, replaces: bool) -> Self {
        let spec = workload.spec.clone().unwrap_or_default();
        Self {
            key: key_of(workload),
            image: image.to_owned(),
            generation: workload.metadata.generation.unwrap_or_default(),
            spec: spec_of(spec.template.metadata.as_ref()),
            replicas: spec.replicas,
            replaces,
        }
    }
}

/// The hash of what a pod was made from.
pub(super) fn spec_of(
    meta: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
) -> String {
    let notes = meta.and_then(|meta| meta.annotations.as_ref());
    notes.and_then(|notes| notes.get(keys::SPEC).cloned()).unwrap_or_default()
}

#[derive(Debug)]
enum Progress {
    Waiting,
    Done,
}

/// Waits until every workload's pods are placed and their images are there, or
/// until it is clear that they will not be.
pub(super) async fn settle(
    monitor: &Monitor,
    id: &DeploymentId,
    applied: &[Applied],
    patience: Duration,
) -> Result<(), BackendError> {
    let replaces = applied.iter().any(|one| one.replaces);
    let limit = if replaces { ROLLOUT } else { LIMIT };
    let look = |state: &mut State| {
        let now = now_ms();
        let mut done = true;
        for one in applied {
            match progress(state, id, one, patience, now) {
                Ok(Progress::Done) => {}
                Ok(Progress::Waiting) => done = false,
                Err(error) => return Some(Err(error)),
            }
        }
        done.then_some(Ok(()))
    };
    match tokio::time::timeout(limit, monitor.until(TICK, look)).await {
        Ok(result) => result,
        Err(_) if replaces => Err(BackendError::Rejected(format!(
            "what was to replace the ready instances was not ready within {} s",
            ROLLOUT.as_secs()
        ))),
        Err(_) => Err(BackendError::Unavailable(format!(
            "the instances were not started within {} s",
            LIMIT.as_secs()
        ))),
    }
}

fn progress(
    state: &State,
    id: &DeploymentId,
    applied: &Applied,
    patience: Duration,
    now: i64,
) -> Result<Progress, BackendError> {
    let Some(workload) = state.workload(&applied.key) else { return Ok(Progress::Waiting) };
    let observed = workload.status.as_ref().and_then(|status| status.observed_generation);
    if observed.unwrap_or(0) < applied.generation {
        return Ok(Progress::Waiting);
    }
    if let Some(message) = refusal(workload) {
        return Err(refused(message));
    }
    let process = workload.labels().get(keys::PROCESS);
    let ours: Vec<&Pod> = state
        .pods_of(id)
        .into_iter()
        .filter(|pod| pod.labels().get(keys::PROCESS) == process && !report::is_going(pod))
        .collect();
    let (wanted, old): (Vec<&Pod>, Vec<&Pod>) =
        ours.into_iter().partition(|pod| spec_of(Some(&pod.metadata)) == applied.spec);
    let replicas = usize::try_from(applied.replicas.unwrap_or(1)).unwrap_or(0);
    let mut done = wanted.iter().filter(|pod| !report::is_over(pod)).count() >= replicas;
    for pod in wanted {
        if let Some(found) = trouble::of(pod) {
            hopeless(found, &applied.image, patience, now)?;
        }
        done &= match applied.replaces {
            true => report::readiness(pod, now) == Ok(true) || failed(pod)?,
            false => report::runs(pod) || report::last_end(pod).is_some() || report::is_over(pod),
        };
    }
    done &= !applied.replaces || old.is_empty();
    Ok(if done { Progress::Done } else { Progress::Waiting })
}

fn refused(message: &str) -> BackendError {
    let remedy = if is_quota(message) {
        "; the environment's limits are kubernetes.max_*, and may have been changed in the cluster"
    } else {
        ""
    };
    BackendError::Rejected(format!("the cluster makes no instance: {message}{remedy}"))
}

fn hopeless(
    trouble: Trouble,
    image: &str,
    patience: Duration,
    now: i64,
) -> Result<(), BackendError> {
    let over =
        |since: i64, limit: Duration| u128::from((now - since).unsigned_abs()) >= limit.as_millis();
    match trouble {
        Trouble::Image { message, hopeless: true, .. } => {
            Err(BackendError::ImageUnavailable { image: image.to_owned(), reason: message })
        }
        Trouble::Image { message, since, .. } if over(since, PULLS) => {
            Err(BackendError::Unavailable(format!("image `{image}` cannot be pulled: {message}")))
        }
        Trouble::Refused(message) => Err(BackendError::Rejected(message)),
        Trouble::Unschedulable { message, since } if over(since, patience) => {
            let waited = patience.as_secs();
            Err(BackendError::Rejected(format!("{message} (for {waited} s)")))
        }
        Trouble::Image { .. } | Trouble::Unschedulable { .. } | Trouble::Evicted(_) => Ok(()),
    }
}

/// A successor that has ended will not be ready.
fn failed(pod: &Pod) -> Result<bool, BackendError> {
    match report::last_end(pod) {
        None => Ok(false),
        Some(end) => Err(BackendError::Rejected(format!(
            "{}, which was to replace a ready instance, ended with code {}",
            pod.name_any(),
            end.exit_code
        ))),
    }
}
