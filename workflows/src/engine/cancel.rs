//! Ending a deployment on request, in whatever state it is.

use crate::{
    ids::DeploymentId,
    ports::{CancelRequest, Invocations, RestateSilent, Store, StoreError},
    status::DeploymentStatus,
};

/// The request could not be made. Always worth another try.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum CancelError {
    /// The database does not answer.
    Store(#[from] StoreError),
    /// Restate does not.
    Restate(#[from] RestateSilent),
}

/// Notes the request in the row, once, and tells the workflow. Held steps look
/// at the row, so that a build ends even while Restate is away. `None`: there
/// is no such deployment.
///
/// # Errors
/// [`CancelError`]; what is noted already is told by the reconciler then.
pub async fn cancel(
    store: &dyn Store,
    invocations: &dyn Invocations,
    id: &DeploymentId,
) -> Result<Option<CancelRequest>, CancelError> {
    if store.settled_since(id).await?.is_none() {
        return Ok(None);
    }
    let request = store.request_cancel(id).await?;
    if request == CancelRequest::Asked {
        tell(invocations, id).await?;
    }
    Ok(Some(request))
}

/// Tells the workflow that it was cancelled. One that Restate has ended already,
/// or never began, is unwound by another invocation.
pub(super) async fn tell(
    invocations: &dyn Invocations,
    id: &DeploymentId,
) -> Result<(), RestateSilent> {
    let unfinished: Vec<_> = invocations
        .unfinished()
        .await?
        .into_iter()
        .filter(|workflow| workflow.deployment_id.as_ref() == Some(id))
        .collect();
    for workflow in unfinished.iter().filter(|workflow| workflow.handler == "deploy") {
        invocations.cancel(&workflow.invocation).await?;
    }
    if unfinished.is_empty() {
        invocations.unwind(id).await?;
    }
    Ok(())
}

/// The refusal of a request that came too late.
pub fn too_late(id: &DeploymentId, status: DeploymentStatus) -> String {
    match status {
        DeploymentStatus::Failed | DeploymentStatus::Superseded => {
            format!("deployment `{id}` is {status} already: there is nothing to cancel")
        }
        _ => format!(
            "too late: the domains of deployment `{id}` have moved and it is {status}; \
             `launchway rollback` brings the previous one back"
        ),
    }
}
