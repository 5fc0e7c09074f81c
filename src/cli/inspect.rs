//! A deployment with its attempts and their steps, for people.

use launchway_proto::ctrl::v1::{Deployment, DeploymentStep, Failure as Failed, GetOpenapiRequest};
use launchway_workflows::app::{Check, Process};
use serde_json::json;

use super::{
    Exit, Failure,
    args::Global,
    connect::connect,
    query::{deployment_json, get, recorded, variables},
    render::{emit, failed_text, print, table},
    time::{ago, clock, duration, now_ms},
};

/// The description as the application served it.
pub(super) async fn openapi(global: &Global, id: &str) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let found = api.deployments.get_openapi(GetOpenapiRequest { deployment_id: id.to_owned() });
    let found = found.await.map_err(|status| Failure::of_call(&status))?.into_inner();
    if found.description.is_empty() {
        let message = format!(
            "deployment {id} has no OpenAPI description: the application answers with one at /openapi.yaml \
             or /openapi.json when it goes live"
        );
        return Err(Failure::new(Exit::Refused, message));
    }
    match global.json {
        true => emit(&json!({"type": "result", "openapi": found.description})),
        false => print(found.description.trim_end()),
    }
    Ok(Exit::Success)
}

pub(super) async fn inspect(global: &Global, id: &str) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let deployment = get(&mut api, id).await?;
    if global.json {
        let mut result = deployment_json(&deployment);
        result["type"] = json!("result");
        emit(&result);
        return Ok(Exit::Success);
    }
    for (name, value) in header(&deployment, now_ms()) {
        if !value.is_empty() {
            print(&format!("{name:<12} {value}"));
        }
    }
    for attempt in attempts(&deployment) {
        print("");
        show(&attempt, &deployment);
    }
    if !deployment.warnings.is_empty() {
        print("");
    }
    deployment.warnings.iter().for_each(|warning| print(&format!("warning: {warning}")));
    print(&format!("\nmore: launchway why {}", deployment.id));
    Ok(Exit::Success)
}

fn header(deployment: &Deployment, now: i64) -> Vec<(&'static str, String)> {
    let dirty = if deployment.git_dirty { " (with changes)" } else { "" };
    let commit = format!(
        "{}{dirty} {}",
        deployment.git_commit_sha,
        first_line(&deployment.git_commit_message)
    );
    let stalled = deployment
        .stalled_since
        .map(|since| format!("no progress since {}: {}", clock(since), deployment.stalled_why));
    let idle = deployment.eviction.as_ref().map(|eviction| {
        let failed = match eviction.start_failure.as_str() {
            "" => String::new(),
            cause => format!("; the last start has failed: {cause}"),
        };
        format!("{} since {}: nobody asked for it{failed}", eviction.state, clock(eviction.since))
    });
    vec![
        ("deployment", deployment.id.clone()),
        ("status", status(deployment)),
        ("stalled", stalled.unwrap_or_default()),
        ("idle", idle.unwrap_or_default()),
        ("project", deployment.project_slug.clone()),
        ("environment", deployment.environment_slug.clone()),
        ("url", deployment.url.clone()),
        ("domains", deployment.hostnames.join(", ")),
        ("image", deployment.rootfs_image_id.clone()),
        ("digest", deployment.image_digest.clone()),
        ("branch", deployment.git_branch.clone()),
        ("commit", commit.trim().to_owned()),
        ("attempt", deployment.attempt.to_string()),
        ("invocation", deployment.invocation_id.clone()),
        ("created", ago(deployment.created_at, now)),
        ("variables", variables(deployment).join(", ")),
    ]
    .into_iter()
    .chain(runs(deployment))
    .collect()
}

/// How it runs, as recorded.
fn runs(deployment: &Deployment) -> Vec<(&'static str, String)> {
    let Some(options) = recorded(deployment) else { return Vec::new() };
    let processes = options.all_processes();
    let mut rows: Vec<_> =
        processes.iter().map(|(name, one)| ("runs", process_text(name, one))).collect();
    let mut stop: Vec<String> = options.stop_signal.iter().cloned().collect();
    stop.extend(options.drain_ms.map(|ms| format!("killed after {}", duration(ms.into()))));
    rows.push(("stops", stop.join(", ")));
    let release = options.release.map(|release| release.command.join(" "));
    let serves = ["live", "ready"].contains(&deployment.state.as_str());
    let configured = deployment.topology.as_ref().filter(|_| serves);
    let configured = configured.map_or(0, |all| all.idle_timeout_seconds);
    let idle = match (options.idle_timeout_ms, configured) {
        (None, 0) => String::new(),
        (None, seconds) => {
            let after = duration(i64::from(seconds) * 1000);
            format!("after {after} without requests, as the server is configured")
        }
        (Some(0), _) => "never".to_owned(),
        (Some(ms), _) => format!("after {} without requests", duration(ms.into())),
    };
    rows.push(("evicted", idle));
    rows.push(("release", release.unwrap_or_default()));
    rows
}

/// `2 of web: 500 millicores, 256 MiB, port 3000, ready on GET /healthz`
fn process_text(name: &str, process: &Process) -> String {
    let mut parts = Vec::new();
    if process.cpu_millicores > 0 {
        parts.push(format!("{} millicores", process.cpu_millicores));
    }
    if process.memory_mib > 0 {
        parts.push(format!("{} MiB", process.memory_mib));
    }
    parts.extend(process.port.map(|port| format!("port {port}")));
    parts.extend(process.health.as_ref().map(|health| match &health.check {
        Check::Path(path) => format!("ready on GET {path}"),
        Check::Tcp => "ready on a connection".to_owned(),
        Check::Command(command) => format!("ready on `{}`", command.join(" ")),
    }));
    if !process.command.is_empty() {
        parts.push(format!("`{}`", process.command.join(" ")));
    }
    let details = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("{} of {name}{details}", process.replicas.max(1))
}

/// A failure is noted as soon as its unwinding begins.
fn status(deployment: &Deployment) -> String {
    let state = &deployment.state;
    let ended = matches!(state.as_str(), "failed" | "cancelled" | "superseded");
    match (deployment.failure.is_some(), deployment.cancel_requested) {
        _ if ended => state.clone(),
        (true, _) => format!("{state} (what it had started is being taken back)"),
        (false, true) => format!("{state} (cancellation was asked for)"),
        (false, false) => state.clone(),
    }
}

/// One attempt with the steps that really ran in it.
struct Attempt<'a> {
    number: u32,
    state: &'a str,
    failure: Option<&'a Failed>,
    steps: Vec<&'a DeploymentStep>,
}

/// Oldest first, the present one last.
fn attempts(deployment: &Deployment) -> Vec<Attempt<'_>> {
    let steps = |number: u32| {
        deployment.steps.iter().filter(move |step| step.attempt == number).collect::<Vec<_>>()
    };
    let earlier = deployment.attempts.iter().map(|attempt| Attempt {
        number: attempt.attempt,
        state: &attempt.state,
        failure: attempt.failure.as_ref(),
        steps: steps(attempt.attempt),
    });
    let present = Attempt {
        number: deployment.attempt,
        state: &deployment.state,
        failure: deployment.failure.as_ref(),
        steps: steps(deployment.attempt),
    };
    earlier.chain([present]).collect()
}

fn show(attempt: &Attempt<'_>, deployment: &Deployment) {
    if !deployment.attempts.is_empty() {
        print(&title(attempt, deployment));
    }
    let rows: Vec<Vec<String>> =
        attempt.steps.iter().map(|step| row(step, attempt.failure)).collect();
    if !rows.is_empty() {
        table(&["STEP", "STATUS", "TRIES", "STARTED", "TOOK", ""], &rows);
    }
    if let Some(failure) = attempt.failure {
        // What to do about an attempt that was followed by another is past.
        let past = Failed { remedy: String::new(), ..failure.clone() };
        let failure = if attempt.number == deployment.attempt { failure } else { &past };
        print(&format!("\n{}", failed_text(attempt.state, failure).trim_end()));
    }
}

fn title(attempt: &Attempt<'_>, deployment: &Deployment) -> String {
    let number = attempt.number;
    if number != deployment.attempt {
        return format!("attempt {number}");
    }
    // Those before it are copied, not executed: they have no rows.
    match deployment.restarted_at_step.as_str() {
        "" => format!("attempt {number}"),
        step => format!("attempt {number}, begun at {step} ({})", deployment.restarted_why),
    }
}

fn row(step: &DeploymentStep, failure: Option<&Failed>) -> Vec<String> {
    vec![
        step.name.clone(),
        step.status.clone(),
        step.tries.to_string(),
        clock(step.started_at),
        step.ended_at.map(|ended| duration(ended - step.started_at)).unwrap_or_default(),
        reason(step, failure),
    ]
}

/// A failure that is told in full below is only named in the table.
fn reason(step: &DeploymentStep, failure: Option<&Failed>) -> String {
    let below = failure.is_some_and(|failure| failure.message == step.error_message);
    match step.error_message.as_str() {
        "" => first_line(&step.message).to_owned(),
        _ if below => step.error_code.clone(),
        error if step.message.is_empty() => first_line(error).to_owned(),
        error => format!("{}: {}", first_line(&step.message), first_line(error)),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use launchway_proto::ctrl::v1::DeploymentAttempt;

    use super::*;

    fn step(name: &str, attempt: u32, error: &str) -> DeploymentStep {
        DeploymentStep {
            name: name.to_owned(),
            attempt,
            error_message: error.to_owned(),
            error_code: if error.is_empty() { String::new() } else { "not-ready".to_owned() },
            ..DeploymentStep::default()
        }
    }

    fn retried() -> Deployment {
        let failure = Failed { message: "502".to_owned(), ..Failed::default() };
        Deployment {
            attempt: 2,
            state: "checking".to_owned(),
            restarted_at_step: "deploy-to-krane".to_owned(),
            restarted_why: "stopped the instances".to_owned(),
            steps: vec![step("await-ready", 1, "502"), step("await-ready", 2, "")],
            attempts: vec![DeploymentAttempt {
                attempt: 1,
                state: "failed".to_owned(),
                failure: Some(failure),
                ..DeploymentAttempt::default()
            }],
            ..Deployment::default()
        }
    }

    #[test]
    fn each_attempt_is_shown_with_its_own_steps_and_failure() {
        let deployment = retried();
        let shown = attempts(&deployment);
        let numbers: Vec<_> =
            shown.iter().map(|it| (it.number, it.steps.len(), it.failure.is_some())).collect();
        assert_eq!(numbers, [(1, 1, true), (2, 1, false)]);
        assert_eq!(title(&shown[0], &deployment), "attempt 1");
        assert!(title(&shown[1], &deployment).contains("deploy-to-krane (stopped the instances)"));
    }

    #[test]
    fn a_failure_is_named_in_the_table_and_told_once() {
        let deployment = retried();
        let shown = attempts(&deployment);
        assert_eq!(reason(shown[0].steps[0], shown[0].failure), "not-ready");
        let retrying = DeploymentStep {
            message: "will be tried again".to_owned(),
            ..step("build-image", 1, "gone\nmore")
        };
        assert_eq!(reason(&retrying, None), "will be tried again: gone");
    }

    #[test]
    fn a_deployment_that_unwinds_says_so() {
        let mut deployment = Deployment { state: "building".to_owned(), ..Deployment::default() };
        assert_eq!(status(&deployment), "building");
        deployment.cancel_requested = true;
        assert!(status(&deployment).contains("was asked for"));
        deployment.failure = Some(Failed::default());
        assert!(status(&deployment).contains("being taken back"));
        deployment.state = "cancelled".to_owned();
        assert_eq!(status(&deployment), "cancelled");
    }
}
