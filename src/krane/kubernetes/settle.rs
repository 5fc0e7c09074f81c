//! From an apply until its pods have what they need to start: whatever waiting
//! cannot help is the apply's own error.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt;
use launchway_workflows::ids::DeploymentId;

use super::{
    monitor::{Monitor, now_ms},
    names::keys,
    report,
    state::{Key, State, key_of},
    trouble::{self, Trouble},
};
use crate::krane::backend::BackendError;

/// Longest wait, pulls included: within what the caller waits.
const LIMIT: Duration = Duration::from_secs(540);
/// Longest wait for what replaces instances that are ready.
const ROLLOUT: Duration = Duration::from_secs(120);

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

/// Whether it is done. The outer error: it cannot be; the inner: not yet, and to be
/// looked at again after this long.
type Progress = Result<Result<(), Duration>, BackendError>;

/// Nothing but a change can help.
const A_CHANGE: Duration = Duration::MAX;

/// Waits until every workload's pods are placed and their images are there, or
/// until it is clear that they will not be.
pub(super) async fn settle(
    monitor: &Monitor,
    id: &DeploymentId,
    applied: &[Applied],
) -> Result<(), BackendError> {
    let replaces = applied.iter().any(|one| one.replaces);
    let limit = if replaces { ROLLOUT } else { LIMIT };
    let look = |state: &mut State| {
        let now = now_ms();
        let mut all = Ok(());
        for one in applied {
            match progress(state, id, one, now) {
                Ok(Ok(())) => {}
                Ok(Err(rest)) => all = Err(all.err().unwrap_or(A_CHANGE).min(rest)),
                Err(error) => return Ok(Err(error)),
            }
        }
        all.map(Ok)
    };
    match tokio::time::timeout(limit, monitor.until(look)).await {
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

fn progress(state: &State, id: &DeploymentId, applied: &Applied, now: i64) -> Progress {
    let Some(workload) = state.workload(&applied.key) else { return Ok(Err(A_CHANGE)) };
    let observed = workload.status.as_ref().and_then(|status| status.observed_generation);
    if observed.unwrap_or(0) < applied.generation {
        return Ok(Err(A_CHANGE));
    }
    let wait = |trouble: Option<Trouble>| match trouble {
        Some(trouble) => trouble.wait(&applied.image, &state.patience, now),
        None => Ok(A_CHANGE),
    };
    let mut rest = wait(trouble::of_workload(workload))?;
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
        rest = rest.min(wait(trouble::of(pod))?);
        done &= match (applied.replaces, report::readiness(pod, now)) {
            (true, Ok(ready)) => ready || failed(pod)?,
            (true, Err(moment)) => {
                rest = rest.min(moment);
                failed(pod)?
            }
            (false, _) => {
                report::runs(pod) || report::last_end(pod).is_some() || report::is_over(pod)
            }
        };
    }
    done &= !applied.replaces || old.is_empty();
    Ok(if done { Ok(()) } else { Err(rest) })
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
