//! What a cluster cannot do, said before or as soon as it shows.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;

use crate::krane::backend::{BackendError, InstanceSpec};

/// What a Secret can hold is a MiB, names included.
const MOST_VARIABLES: usize = 1 << 20;

/// What no cluster could run.
pub(super) fn check(spec: &InstanceSpec) -> Result<(), BackendError> {
    if spec.image.starts_with("sha256:") {
        return Err(BackendError::ImageUnavailable {
            image: spec.image.clone(),
            reason: "it is in a Docker engine, and Kubernetes pulls: set registry.host".to_owned(),
        });
    }
    check_variables(&spec.env)
}

/// Clusters before 1.33, and those that have not switched it on, forget it.
pub(super) fn check_stop_signal(
    spec: &InstanceSpec,
    made: &Deployment,
) -> Result<(), BackendError> {
    let Some(signal) = &spec.stop_signal else { return Ok(()) };
    let containers = made.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let container = containers.and_then(|pod| pod.containers.first());
    let kept = container.and_then(|container| container.lifecycle.as_ref()?.stop_signal.as_ref());
    if kept == Some(signal) {
        return Ok(());
    }
    Err(BackendError::Rejected(format!(
        "this cluster cannot set the stop signal {signal} (it needs ContainerStopSignals): set it in \
         the Dockerfile (STOPSIGNAL)"
    )))
}

pub(super) fn check_variables(env: &BTreeMap<String, String>) -> Result<(), BackendError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if let Some(name) = env.keys().find(|name| name.is_empty() || !name.chars().all(allowed)) {
        return Err(BackendError::Rejected(format!(
            "the variable `{name}` cannot be set on Kubernetes: its name may have letters, digits, _, - and ."
        )));
    }
    let size: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MOST_VARIABLES {
        return Err(BackendError::Rejected(format!(
            "the variables have {size} bytes, and Kubernetes takes {MOST_VARIABLES}: put large ones into a file of the image"
        )));
    }
    Ok(())
}
