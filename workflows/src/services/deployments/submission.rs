//! A submission: what may be asked for, and what it means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{BuildId, DeploymentId, InvocationId, WorkspaceId},
    model::{
        BuildContext, BuildOptions, GitCommit, NewDeployment, Purpose, QueuePolicy, RunOptions,
        Source,
    },
    names::{DEFAULT_ENVIRONMENT, truncate_chars},
    status::DeploymentStatus,
};

/// Characters kept of a commit message.
const MAX_COMMIT_MESSAGE: usize = 10_240;
/// Characters kept of an author's name.
const MAX_AUTHOR: usize = 256;
/// Characters kept of a picture's URL.
const MAX_AVATAR_URL: usize = 512;
/// Milliseconds since the epoch of 2000-01-01: less than this is seconds.
const EARLIEST_TIMESTAMP: i64 = 946_684_800_000;
/// An hour: clocks of laptops differ.
const MAX_AHEAD_MS: i64 = 3_600_000;

/// Input of `create`. Exactly one of `build_context` and `docker_image`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// `build` for an image without a deployment; default `deploy`.
    #[serde(default)]
    pub purpose: Purpose,
    /// The owner; default `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// Project id (`prj_…`) or slug; a slug is created on first use.
    pub project_id: String,
    /// Default: the project's default branch.
    #[serde(default)]
    pub branch: String,
    /// Default: `preview`.
    #[serde(default)]
    pub environment_slug: String,
    /// An uploaded context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_context: Option<BuildContext>,
    /// A prebuilt image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_image: Option<String>,
    /// The commit the source is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<GitCommit>,
    /// How to build.
    #[serde(default)]
    pub build_options: BuildOptions,
    /// How to run.
    #[serde(default)]
    pub run_options: RunOptions,
    /// Changes the project's policy for queued builds, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_policy: Option<QueuePolicy>,
    /// Default: the request's `idempotency-key` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Hash over content and build inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
}

/// Output of `create`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CreatedDeployment {
    /// The deployment of this key.
    pub deployment_id: DeploymentId,
    /// Where it is.
    pub status: DeploymentStatus,
    /// False when the key already had it.
    pub created: bool,
}

/// Checks what the database cannot and applies defaults. Without a key the
/// invocation is the key, so that a repeated run of it is no second deployment.
///
/// # Errors
/// Names the field, the rule and the remedy.
pub(super) fn validate(
    input: CreateDeployment,
    header_key: Option<String>,
    by: &InvocationId,
    now: i64,
) -> Result<NewDeployment, String> {
    let source = source_of(input.build_context, input.docker_image)?;
    if input.purpose == Purpose::Build && matches!(source, Source::DockerImage(_)) {
        return Err(
            "docker_image is given, and there is nothing to build: give build_context".to_owned()
        );
    }
    let git_commit = input.git_commit.map(|commit| trimmed(commit, now)).transpose()?;
    let idempotency_key = input
        .idempotency_key
        .or(header_key)
        .filter(|key| !key.is_empty())
        .unwrap_or_else(|| by.0.clone());
    if idempotency_key.len() > 256 {
        return Err("idempotency_key is longer than 256 bytes: use a shorter one".to_owned());
    }
    let problems = input.run_options.problems();
    if !problems.is_empty() {
        return Err(format!("run_options: {}", problems.join("; ")));
    }
    Ok(NewDeployment {
        id: DeploymentId::generate(),
        submitted_by: by.clone(),
        build_id: BuildId::generate(),
        purpose: input.purpose,
        workspace_id: input.workspace_id.unwrap_or_else(WorkspaceId::local),
        project: input.project_id,
        environment: Some(input.environment_slug)
            .filter(|slug| !slug.is_empty())
            .unwrap_or_else(|| DEFAULT_ENVIRONMENT.to_owned()),
        branch: input.branch,
        source,
        git_commit,
        build: input.build_options,
        run: input.run_options,
        queue_policy: input.queue_policy,
        idempotency_key,
        content_hash: input.content_hash.unwrap_or_default(),
    })
}

fn source_of(
    build_context: Option<BuildContext>,
    docker_image: Option<String>,
) -> Result<Source, String> {
    match (build_context, docker_image.filter(|image| !image.is_empty())) {
        (Some(context), None) if context.build_context_path.is_empty() => {
            Err("build_context.build_context_path is empty: use the path that GenerateUploadURL returned".to_owned())
        }
        (Some(context), None) => Ok(Source::BuildContext(context)),
        (None, Some(image)) => Ok(Source::DockerImage(image)),
        (Some(_), Some(_)) => {
            Err("both build_context and docker_image are given: give exactly one source".to_owned())
        }
        (None, None) => {
            Err("neither build_context nor docker_image is given: give exactly one source".to_owned())
        }
    }
}

fn trimmed(commit: GitCommit, now: i64) -> Result<GitCommit, String> {
    let at = commit.timestamp;
    if at != 0 && at < EARLIEST_TIMESTAMP {
        return Err(format!(
            "git_commit.timestamp {at} looks like seconds: give milliseconds since the epoch"
        ));
    }
    if at > now + MAX_AHEAD_MS {
        return Err(format!(
            "git_commit.timestamp {at} is more than an hour ahead of {now}: check the clock and that it is in milliseconds"
        ));
    }
    Ok(GitCommit {
        commit_message: truncate_chars(commit.commit_message.trim(), MAX_COMMIT_MESSAGE),
        author_handle: truncate_chars(commit.author_handle.trim(), MAX_AUTHOR),
        author_avatar_url: truncate_chars(commit.author_avatar_url.trim(), MAX_AVATAR_URL),
        ..commit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn check(input: CreateDeployment) -> Result<NewDeployment, String> {
        validate(input, None, &InvocationId("inv".to_owned()), NOW)
    }

    fn image() -> CreateDeployment {
        CreateDeployment {
            project_id: "hello".to_owned(),
            docker_image: Some("hello:1".to_owned()),
            ..CreateDeployment::default()
        }
    }

    fn commit(timestamp: i64) -> CreateDeployment {
        let git_commit = Some(GitCommit { timestamp, ..GitCommit::default() });
        CreateDeployment { git_commit, ..image() }
    }

    /// Checklist 54.
    #[test]
    fn exactly_one_source_is_accepted() {
        let context =
            Some(BuildContext { build_context_path: "k".to_owned(), dockerfile_path: None });
        let both = CreateDeployment { build_context: context.clone(), ..image() };
        let none = CreateDeployment { docker_image: Some(String::new()), ..image() };
        let one = CreateDeployment { build_context: context, docker_image: None, ..image() };
        assert!(check(both).unwrap_err().contains("exactly one source"));
        assert!(check(none).unwrap_err().contains("exactly one source"));
        assert!(check(one).is_ok());
    }

    /// Checklist 49.
    #[test]
    fn timestamps_in_seconds_or_far_ahead_are_refused() {
        assert!(check(commit(1_790_000_000)).unwrap_err().contains("milliseconds"));
        assert!(check(commit(NOW + MAX_AHEAD_MS + 1)).unwrap_err().contains("ahead"));
        assert!(check(commit(NOW + MAX_AHEAD_MS)).is_ok());
    }

    /// Checklist 48.
    #[test]
    fn commit_texts_are_trimmed_by_characters() {
        let message = format!("  {}", "ü".repeat(MAX_COMMIT_MESSAGE + 5));
        let commit = GitCommit { commit_message: message, ..GitCommit::default() };
        let new = check(CreateDeployment { git_commit: Some(commit), ..image() }).unwrap();
        let kept = new.git_commit.unwrap().commit_message;
        assert_eq!(kept.chars().count(), MAX_COMMIT_MESSAGE);
    }

    #[test]
    fn the_body_key_goes_before_the_header_and_that_before_the_invocation() {
        let keyed = |body: Option<&str>, header: Option<&str>| {
            let idempotency_key = body.map(str::to_owned);
            let input = CreateDeployment { idempotency_key, ..image() };
            let by = InvocationId("inv".to_owned());
            validate(input, header.map(str::to_owned), &by, NOW).unwrap().idempotency_key
        };
        assert_eq!(keyed(Some("body"), Some("header")), "body");
        assert_eq!(keyed(None, Some("header")), "header");
        // Run again after a crash it is the same submission.
        assert_eq!(keyed(None, None), "inv");
    }

    #[test]
    fn what_breaks_a_rule_about_running_is_named() {
        let run_options = RunOptions { replicas: 101, drain_ms: Some(1), ..RunOptions::default() };
        let refused = check(CreateDeployment { run_options, ..image() }).unwrap_err();
        assert!(refused.contains("replicas = 101") && refused.contains("drain = 1"), "{refused}");
    }

    #[test]
    fn environment_defaults_to_preview() {
        assert_eq!(check(image()).unwrap().environment, "preview");
    }
}
