//! Whose fault a failed build is, read from what the engine says.

use bollard::errors::Error;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ports::BuildSpec,
};

/// The engine's message as a step's error. Known causes outside the
/// Dockerfile come first; what remains is the user's.
pub(super) fn of_build(message: &str, spec: &BuildSpec, tail: Vec<String>) -> StepError {
    let message = redact(message);
    let lower = message.to_ascii_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if has(&["no space left on device"]) {
        return StepError::transient(ErrorCode::BuilderOutOfDisk, message);
    }
    if has(&[
        "failed to read downloaded context",
        "error downloading",
        "invalid response status",
        "failed to load http source",
    ]) || (lower.contains("context")
        && has(&["connection refused", "no such host", "i/o timeout"]))
        || lower.contains("/contexts/")
    {
        return StepError::transient(ErrorCode::ContextUnreachable, message);
    }
    if (lower.contains("dockerfile") && has(&["no such file or directory", "not found"]))
        && has(&["failed to read dockerfile", "failed to solve with frontend", "lstat"])
    {
        let path = spec.dockerfile_path.as_deref().unwrap_or("Dockerfile");
        return StepError::permanent(
            ErrorCode::DockerfileMissing,
            format!("the build context has no `{path}`: {message}"),
        );
    }
    if has(&[
        "pull access denied",
        "failed to resolve source metadata",
        "manifest unknown",
        "failed to do request",
    ]) {
        return StepError::permanent(ErrorCode::BaseImageUnavailable, message);
    }
    StepError::permanent(ErrorCode::BuildFailed, message).with_log_tail(tail)
}

/// An error of the exchange with the engine.
pub(super) fn of_engine(error: &Error) -> StepError {
    let message = redact(&error.to_string());
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

/// Takes the signature out of presigned URLs.
pub(super) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("?X-Amz-").or_else(|| rest.find("?x-id=")) {
        out.push_str(&rest[..at]);
        out.push_str("?<signature>");
        let query = &rest[at..];
        let end =
            query.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(query.len());
        rest = &query[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_leave_no_trace() {
        let text = redact(
            "GET http://h/b/k?X-Amz-Signature=secret&x=y failed, http://h/k?x-id=GetObject&X-Amz-Signature=secret",
        );
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("http://h/b/k?<signature> failed"), "{text}");
    }
}
