//! Whose fault a failed build is, read from what the builder says.

use bollard::errors::Error;
use bollard_buildkit_proto::google::rpc;
use launchway_workflows::error::{ErrorCode, StepError};
use prost::Message;
use tonic::{Code, Status};

use super::redact::Redactor;

/// What a builder says when its own store or network fails, whatever is built:
/// a snapshot that its garbage collection took, a bridge that is gone.
const OWN_TROUBLE: [&str; 4] = [
    "failed to stat active key",
    "during finalize",
    "failed to create endpoint",
    "failed to get reader from content store",
];

/// BuildKit's answer to a solve as a step's error.
pub(super) fn of_status(
    status: &Status,
    redactor: &Redactor,
    dockerfile: &str,
    tail: Vec<String>,
) -> StepError {
    if is_of_transport(status) || status.code() == Code::Unavailable {
        let message = redactor.clean(status.message()).into_owned();
        return lost(&message);
    }
    let message = redactor.clean(status.message()).into_owned();
    let message = match line_in_dockerfile(status) {
        Some((file, line)) => format!("{file}:{line}: {message}"),
        None => message,
    };
    of_message(message, dockerfile, tail)
}

/// Known causes outside the Dockerfile come first; what remains is the user's.
fn of_message(message: String, dockerfile: &str, tail: Vec<String>) -> StepError {
    let lower = message.to_ascii_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if has(&["no space left on device"]) {
        return StepError::transient(ErrorCode::BuilderOutOfDisk, message);
    }
    if has(&[
        "no active session",
        "session healthcheck failed",
        "context canceled",
        "job not found",
    ]) {
        return lost(&message);
    }
    if has(&OWN_TROUBLE) {
        return StepError::transient(
            ErrorCode::BuilderUnavailable,
            format!("the builder is in trouble of its own: {message}"),
        );
    }
    if has(&["exporting multiple references"]) {
        return StepError::permanent(
            ErrorCode::BuildFailed,
            format!(
                "this engine keeps images of one platform only: give one platform, or build with a current \
                 Docker engine, a buildkitd or Depot ({message})"
            ),
        );
    }
    if has(&["failed to push", "failed to export cache", "failed to copy"]) {
        return of_push(message);
    }
    if is_of_context(&lower) {
        return StepError::transient(ErrorCode::ContextUnreachable, message);
    }
    if has(&["failed to read dockerfile"]) && has(&["no such file or directory", "not found"]) {
        return StepError::permanent(
            ErrorCode::DockerfileMissing,
            format!("the build context has no `{dockerfile}`: {message}"),
        );
    }
    if has(&[
        "pull access denied",
        "failed to resolve source metadata",
        "failed to load cache key",
        "manifest unknown",
        "failed to do request",
        "failed to authorize",
    ]) || is_of_from(&lower)
    {
        return StepError::permanent(ErrorCode::BaseImageUnavailable, message);
    }
    StepError::permanent(ErrorCode::BuildFailed, message).with_log_tail(tail)
}

/// Docker 20.10, of a FROM that its registry does not have.
fn is_of_from(lower: &str) -> bool {
    lower.contains("failed to create llb definition") && lower.ends_with("not found")
}

fn is_of_context(lower: &str) -> bool {
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    has(&[
        "failed to read downloaded context",
        "error downloading",
        "invalid response status",
        "failed to load http source",
        "/contexts/",
    ]) || (lower.contains("context") && has(&["connection refused", "no such host", "i/o timeout"]))
        || (lower.contains("get \"http") && !lower.contains("/v2/"))
}

/// A registry's answer to a push, in the words of an engine or of BuildKit.
pub(super) fn of_push(message: String) -> StepError {
    let lower = message.to_ascii_lowercase();
    // Digests contain any digits: numbers alone say nothing.
    let refused = ["401 ", "403 ", "unauthorized", "denied", "no basic auth credentials"];
    if refused.iter().any(|text| lower.contains(text)) {
        return StepError::permanent(ErrorCode::RegistryAuth, message);
    }
    StepError::transient(ErrorCode::RegistryUnavailable, message)
}

/// Whether the builder's cache is at fault: building without it may help.
pub(super) fn is_of_cache(error: &StepError) -> bool {
    let failure = error.failure();
    failure.code == ErrorCode::BuilderUnavailable
        && failure.message.contains("failed to stat active key")
}

/// BuildKit is gone, or has forgotten the build.
fn lost(message: &str) -> StepError {
    let message = format!("BuildKit was lost in the middle of the build: {message}");
    StepError::transient(ErrorCode::BuilderUnavailable, message)
}

/// Whether the connection failed, rather than what was asked over it.
pub(super) fn is_of_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Where in the Dockerfile it failed: BuildKit attaches the place as JSON.
fn line_in_dockerfile(status: &Status) -> Option<(String, u64)> {
    let details = rpc::Status::decode(status.details()).ok()?.details;
    let source = details.iter().find(|detail| detail.type_url.contains("errdefs.Source"))?;
    let source: serde_json::Value = serde_json::from_slice(&source.value).ok()?;
    let file = source.pointer("/info/filename")?.as_str()?.to_owned();
    let line = source.pointer("/ranges/0/start/line")?.as_u64()?;
    Some((file, line))
}

/// An error of the exchange with the engine.
pub(super) fn of_engine(error: &Error) -> StepError {
    let message = Redactor::default().clean(&error.to_string()).into_owned();
    match error {
        Error::DockerResponseServerError { status_code: 400, .. } => {
            StepError::permanent(ErrorCode::BuildFailed, message)
        }
        _ => StepError::transient(
            ErrorCode::BuilderUnavailable,
            format!("the Docker engine failed: {message}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen on 28.5 while images were removed beside a build, and on 20.10
    /// without its bridge.
    #[test]
    fn a_builders_own_trouble_is_not_the_users_and_is_tried_again() {
        for said in [
            "failed to commit xepg to kcim during finalize: failed to stat active key during commit: \
             snapshot xepg does not exist: not found",
            "executor failed running [/bin/sh -c make]: failed to create endpoint v5iu on network \
             bridge: could not find bridge docker0",
        ] {
            let error = of_message(said.to_owned(), "Dockerfile", Vec::new());
            assert!(matches!(error, StepError::Transient(_)), "{error:?}");
            assert_eq!(error.failure().code, ErrorCode::BuilderUnavailable, "{error:?}");
            assert_eq!(is_of_cache(&error), said.contains("snapshot"), "{error:?}");
        }
    }

    /// A digest may contain any number.
    #[test]
    fn a_registry_that_is_down_does_not_refuse_the_login() {
        let said = "failed to push r:5000/a/b:t: failed to do request: Head \
            \"https://r:5000/v2/a/b/blobs/sha256:1401a403\": connect: connection refused";
        let error = of_message(said.to_owned(), "Dockerfile", Vec::new());
        assert_eq!(error.failure().code, ErrorCode::RegistryUnavailable, "{error:?}");
        let refused = of_push("unauthorized: authentication required".to_owned());
        assert_eq!(refused.failure().code, ErrorCode::RegistryAuth, "{refused:?}");
    }
}
