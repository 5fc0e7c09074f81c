//! One way to call the API server: every call ends in time, and what a server
//! that is busy, restarting or overtaken says is tried again, within bounds.

use std::time::Duration;

use kube::{Error, core::Status};
use launchway_proto::krane::v1::NotReadyReason;
use tokio::time::{Instant, sleep, timeout};

use crate::{http::deepest, krane::backend::BackendError};

/// Longest single request.
const ONE: Duration = Duration::from_secs(15);
/// Longest call with its retries: an API server's restart.
const ALL: Duration = Duration::from_secs(45);
/// First and longest pause between tries; a server that names one is obeyed.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(15);
/// A conflict is settled by the next try or two, or it never is.
const CONFLICTS: u32 = 8;

/// Why a call failed, as callers must tell it apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// There is one of this name already.
    #[error("{0}")]
    Exists(String),
    /// Somebody else has set these fields.
    #[error("{0}")]
    Owned(String),
    /// It has changed since it was read.
    #[error("{0}")]
    Moved(String),
    /// A quota is used up.
    #[error("{0}")]
    Quota(String),
    /// We may not.
    #[error("{0}; apply deploy/kubernetes/rbac.yaml, and see `launchway doctor`")]
    Forbidden(String),
    /// The server refuses the object.
    #[error("{0}")]
    Refused(String),
    /// It does not answer, or not in time.
    #[error("{0}")]
    Unavailable(String),
}

impl From<CallError> for BackendError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotFound(_) | CallError::Moved(_) | CallError::Unavailable(_) => {
                Self::Unavailable(format!("Kubernetes: {error}"))
            }
            CallError::Quota(message) => {
                Self::NotReady { reason: NotReadyReason::QuotaExceeded, message }
            }
            error => Self::Rejected(format!("Kubernetes: {error}")),
        }
    }
}

/// What to do about an answer.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// This is how it is.
    GiveUp(CallError),
    /// Again after this pause, or after one of ours.
    Again(CallError, Option<Duration>),
    /// Again with what is there now.
    Conflict(CallError),
}

/// Calls until there is an answer to keep.
pub(super) async fn call<T, Fut>(what: &str, ask: impl Fn() -> Fut) -> Result<T, CallError>
where
    Fut: Future<Output = kube::Result<T>>,
{
    repeat(what, CONFLICTS, ask).await
}

/// Calls until there is an answer to keep; a conflict is one.
pub(super) async fn call_once<T, Fut>(what: &str, ask: impl Fn() -> Fut) -> Result<T, CallError>
where
    Fut: Future<Output = kube::Result<T>>,
{
    repeat(what, 0, ask).await
}

async fn repeat<T, Fut>(
    what: &str,
    most_conflicts: u32,
    ask: impl Fn() -> Fut,
) -> Result<T, CallError>
where
    Fut: Future<Output = kube::Result<T>>,
{
    let deadline = Instant::now() + ALL;
    let (mut pause, mut conflicts) = (PAUSE, 0);
    loop {
        let next = match timeout(ONE, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => judge(what, &error),
            Err(_) => {
                let text = format!("{what}: no answer within {} s", ONE.as_secs());
                Next::Again(CallError::Unavailable(text), None)
            }
        };
        let (error, asked) = match next {
            Next::GiveUp(error) => return Err(error),
            Next::Conflict(error) if conflicts == most_conflicts => return Err(error),
            Next::Conflict(error) => {
                conflicts += 1;
                (error, None)
            }
            Next::Again(error, asked) => (error, asked),
        };
        let wait = asked.unwrap_or(pause).min(LONGEST_ASKED_PAUSE);
        if Instant::now() + wait > deadline {
            return Err(error);
        }
        tracing::debug!(what, %error, "calling the API server again");
        sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn judge(what: &str, error: &Error) -> Next {
    let Error::Api(status) = error else {
        let unusable =
            matches!(error, Error::SerdeError(_) | Error::BuildRequest(_) | Error::HttpError(_));
        let text = format!("{what}: {}", deepest(error));
        return match unusable {
            true => Next::GiveUp(CallError::Refused(text)),
            false => Next::Again(CallError::Unavailable(text), None),
        };
    };
    let text = format!("{what}: {}", status.message);
    match status.code {
        404 => Next::GiveUp(CallError::NotFound(text)),
        409 if status.is_already_exists() => Next::GiveUp(CallError::Exists(text)),
        409 if has_cause(status, "FieldManagerConflict") => Next::GiveUp(CallError::Owned(text)),
        409 => Next::Conflict(CallError::Moved(text)),
        // It goes away, and can be made anew then.
        403 if has_cause(status, "NamespaceTerminating") => {
            Next::Again(CallError::Unavailable(text), None)
        }
        403 if is_quota(&status.message) => Next::GiveUp(CallError::Quota(text)),
        403 => Next::GiveUp(CallError::Forbidden(text)),
        // A token that is being renewed is read again within a minute.
        401 | 408 | 500.. => Next::Again(CallError::Unavailable(text), asked_pause(status)),
        429 => Next::Again(CallError::Unavailable(text), asked_pause(status)),
        _ => Next::GiveUp(CallError::Refused(text)),
    }
}

/// Whether a message is that of the quota's admission.
pub(super) fn is_quota(message: &str) -> bool {
    message.contains("exceeded quota")
}

fn has_cause(status: &Status, reason: &str) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == reason)
}

fn asked_pause(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: serde_json::Value) -> Next {
        let status: Status = serde_json::from_value(status).unwrap();
        judge("Deployment x", &Error::Api(Box::new(status)))
    }

    #[test]
    fn what_waiting_cannot_help_is_not_tried_again() {
        let quota = answer(json!({"code": 403, "reason": "Forbidden",
            "message": "pods \"x\" is forbidden: exceeded quota: launchway, requested: pods=1"}));
        assert!(matches!(quota, Next::GiveUp(CallError::Quota(_))), "{quota:?}");
        let denied = answer(json!({"code": 403, "reason": "Forbidden", "message":
            "deployments.apps is forbidden: User \"u\" cannot patch resource \"deployments\""}));
        let Next::GiveUp(error @ CallError::Forbidden(_)) = denied else { panic!("{denied:?}") };
        assert!(error.to_string().contains("rbac.yaml"), "{error}");
        let invalid = answer(json!({"code": 422, "reason": "Invalid", "message": "no"}));
        assert!(matches!(invalid, Next::GiveUp(CallError::Refused(_))), "{invalid:?}");
        let owned = answer(json!({"code": 409, "reason": "Conflict", "message": "conflict",
            "details": {"causes": [{"reason": "FieldManagerConflict", "message": "kubectl"}]}}));
        assert!(matches!(owned, Next::GiveUp(CallError::Owned(_))), "{owned:?}");
    }

    #[test]
    fn what_passes_is_tried_again_when_the_server_says() {
        let busy = answer(json!({"code": 429, "reason": "TooManyRequests", "message": "busy",
            "details": {"retryAfterSeconds": 3}}));
        let Next::Again(_, Some(pause)) = busy else { panic!("{busy:?}") };
        assert_eq!(pause, Duration::from_secs(3));
        let moved = answer(json!({"code": 409, "reason": "Conflict", "message": "modified"}));
        assert!(matches!(moved, Next::Conflict(_)), "{moved:?}");
        let going = answer(json!({"code": 403, "reason": "Forbidden", "message": "terminating",
            "details": {"causes": [{"reason": "NamespaceTerminating", "message": "x"}]}}));
        assert!(matches!(going, Next::Again(..)), "{going:?}");
    }
}
