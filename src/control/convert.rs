//! Views of the database as messages of the API.

use std::time::Duration;

use launchway_proto::ctrl::v1 as proto;
use launchway_workflows::{
    app::{Check, RunOptions},
    engine::undo::Undone,
    error::StepFailure,
    names::PRODUCTION,
    ports::EvictionRecord,
    status::DeploymentStatus,
};

use crate::{
    config::Gateway,
    run_options,
    store::{AttemptView, BuildLogLine, DeploymentView, StepView},
};

/// The coarse status of the original contract.
pub(super) fn status(status: DeploymentStatus) -> proto::DeploymentStatus {
    use DeploymentStatus as S;
    use proto::DeploymentStatus as P;
    match status {
        S::Pending | S::Queued | S::Retrying => P::Pending,
        S::Building | S::Pushing => P::Building,
        S::Deploying | S::Checking => P::Deploying,
        S::Routing => P::Network,
        S::Live | S::Built | S::Ready | S::Retiring | S::Retired => P::Ready,
        S::Failed | S::Cancelled | S::Superseded => P::Failed,
    }
}

/// What of the configuration is part of how deployments are shown.
pub(super) struct Shown<'a> {
    /// For their URLs.
    pub gateway: &'a Gateway,
    /// Idle timeout of those, except of production, that say nothing; zero: never.
    pub idle_timeout: Duration,
}

impl Shown<'_> {
    /// As recorded, else as configured: the same that `Store::idle` goes by.
    fn idle_timeout(&self, view: &DeploymentView) -> Duration {
        match view.run_options.idle_timeout_ms {
            Some(ms) => Duration::from_millis(ms.into()),
            None if view.environment_slug == PRODUCTION => Duration::ZERO,
            None => self.idle_timeout,
        }
    }
}

/// A deployment as clients see it. Values of variables are never part of it.
pub(super) fn deployment(view: DeploymentView, shown: &Shown<'_>) -> proto::Deployment {
    let topology = Some(topology(&view.run_options, shown.idle_timeout(&view)));
    let image_name = view.image().map(|image| image.full_name()).unwrap_or_default();
    let commit = view.git_commit.unwrap_or_default();
    let domain = view.environment_domain.or(view.commit_domain);
    let url = domain.map(|domain| shown.gateway.url_of(&domain)).unwrap_or_default();
    let mut warnings = view.warnings;
    // Said of a deployment that waits for its promotion, not of one that had it.
    if view.status == DeploymentStatus::Ready {
        warnings.extend(view.routed.and_then(|routed| routed.withheld));
    }
    let (restarted_at_step, restarted_why) = view.restarted.unwrap_or_default();
    let (stalled_since, stalled_why) = view.stalled.unzip();
    let names = view.variables.into_iter().map(|name| (name, String::new()));
    proto::Deployment {
        id: view.id.to_string(),
        workspace_id: view.workspace_id,
        project_id: view.project_id,
        environment_id: view.environment_id,
        git_commit_sha: commit.commit_sha,
        git_branch: view.branch,
        status: status(view.status).into(),
        error_message: view.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
        environment_variables: names.collect(),
        topology,
        run_options: Some(run_options::to_proto(&view.run_options)),
        created_at: view.created_at,
        updated_at: view.updated_at,
        hostnames: view.domains,
        rootfs_image_id: view.image_reference.unwrap_or_default(),
        build_id: view.build_id.to_string(),
        steps: view.steps.into_iter().map(step).collect(),
        git_commit_message: commit.commit_message,
        git_commit_author_handle: commit.author_handle,
        git_commit_author_avatar_url: commit.author_avatar_url,
        git_commit_timestamp: commit.timestamp,
        state: view.status.to_string(),
        attempt: view.attempt,
        project_slug: view.project_slug,
        environment_slug: view.environment_slug,
        url,
        image_digest: view.image_digest.unwrap_or_default(),
        image_name,
        invocation_id: view.invocation_id.map(|id| id.0).unwrap_or_default(),
        failure: view.failure.map(|cause| failure(cause, view.undone)),
        git_dirty: commit.dirty,
        warnings,
        attempts: view.attempts.into_iter().map(attempt).collect(),
        restarted_at_step,
        restarted_why,
        stalled_since,
        stalled_why: stalled_why.unwrap_or_default(),
        cancel_requested: view.cancel_requested,
        eviction: view.eviction.map(eviction),
    }
}

fn eviction(record: EvictionRecord) -> proto::Eviction {
    proto::Eviction {
        state: record.state.to_string(),
        since: record.since,
        start_failure: record.start_failure.map(|cause| cause.to_string()).unwrap_or_default(),
    }
}

fn topology(options: &RunOptions, idle_timeout: Duration) -> proto::Topology {
    let number = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
    let process = options.main_process();
    let path = match process.health.map(|health| health.check) {
        None => "/".to_owned(),
        Some(Check::Path(path)) => path,
        Some(Check::Tcp | Check::Command(_)) => String::new(),
    };
    let replicas = number(process.replicas.into());
    proto::Topology {
        cpu_millicores: number(process.cpu_millicores.into()),
        memory_mb: number(process.memory_mib),
        regions: vec![proto::RegionalConfig {
            region: "local".to_owned(),
            min_instances: replicas,
            max_instances: replicas,
        }],
        // Rounded up: 0 is never.
        idle_timeout_seconds: number(idle_timeout.as_millis().div_ceil(1000) as u64),
        health_check_path: path,
        port: process.port.map_or(0, i32::from),
    }
}

fn attempt(view: AttemptView) -> proto::DeploymentAttempt {
    proto::DeploymentAttempt {
        attempt: view.attempt,
        state: view.status.to_string(),
        invocation_id: view.invocation_id.map(|id| id.0).unwrap_or_default(),
        failure: view.failure.map(|cause| failure(cause, view.undone)),
        started_at: view.started_at,
        ended_at: view.ended_at,
    }
}

fn failure(cause: StepFailure, undone: Vec<Undone>) -> proto::Failure {
    let (failed, done): (Vec<_>, Vec<_>) = undone.into_iter().partition(|undone| undone.failed);
    let notes = |undone: Vec<Undone>| undone.into_iter().map(|undone| undone.note).collect();
    proto::Failure {
        step: cause.step.map(|step| step.to_string()).unwrap_or_default(),
        code: cause.code.to_string(),
        message: cause.message,
        log_tail: cause.log_tail,
        remedy: cause.code.remedy().to_owned(),
        exit_code: u32::from(cause.code.exit_code()),
        rolled_back: notes(done),
        left_behind: notes(failed),
    }
}

fn step(step: StepView) -> proto::DeploymentStep {
    proto::DeploymentStep {
        status: step.status,
        message: step.message,
        error_message: step.error_message.unwrap_or_default(),
        created_at: step.started_at,
        name: step.name,
        attempt: step.attempt,
        tries: step.tries,
        started_at: step.started_at,
        ended_at: step.ended_at,
        error_code: step.error_code.unwrap_or_default(),
    }
}

pub(super) fn log_line(line: BuildLogLine) -> proto::BuildLogLine {
    proto::BuildLogLine {
        cursor: line.cursor,
        attempt: line.attempt,
        at: line.at,
        vertex: line.vertex,
        kind: line.kind,
        text: line.text,
        duration_ms: line.duration_ms,
    }
}
