//! Verbs that ask: one answer, as text or as one JSON object.

use launchway_proto::ctrl::v1::{
    Deployment, Environment, Eviction, Failure as Failed, GetDeploymentRequest,
    ListDeploymentsRequest, ListProjectsRequest, Project,
};
use launchway_workflows::app::RunOptions;
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::{Global, ListArgs},
    connect::{Api, connect},
    deploy::here,
    project,
    render::{emit, print, some, table},
    time::{ago, now_ms},
};
use crate::run_options;

pub(super) async fn list(global: &Global, args: ListArgs) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let request = ListDeploymentsRequest {
        project_id: global.project.clone().unwrap_or_default(),
        environment_slug: global.environment.clone().unwrap_or_default(),
        limit: args.limit,
        branch: args.branch.unwrap_or_default(),
        state: args.status.unwrap_or_default(),
    };
    let answer = api.deployments.list_deployments(request).await;
    let deployments = answer.map_err(|status| Failure::of_call(&status))?.into_inner().deployments;
    if global.json {
        let deployments: Vec<Value> = deployments.iter().map(deployment_json).collect();
        emit(&json!({"type": "result", "deployments": deployments}));
        return Ok(Exit::Success);
    }
    let now = now_ms();
    let rows: Vec<Vec<String>> = deployments
        .into_iter()
        .map(|deployment| {
            vec![
                deployment.id.clone(),
                deployment.project_slug.clone(),
                deployment.environment_slug.clone(),
                state(&deployment),
                ago(deployment.created_at, now),
                deployment.git_commit_sha.chars().take(7).collect(),
                url_or_reason(&deployment),
            ]
        })
        .collect();
    table(&["ID", "PROJECT", "ENVIRONMENT", "STATUS", "CREATED", "COMMIT", "URL OR REASON"], &rows);
    Ok(Exit::Success)
}

/// `live`, or `live, evicted` of one that has its domains and does not run.
fn state(deployment: &Deployment) -> String {
    match &deployment.eviction {
        Some(eviction) => format!("{}, {}", deployment.state, eviction.state),
        None => deployment.state.clone(),
    }
}

/// Where it answers; one that answers nowhere says why in a few words.
fn url_or_reason(deployment: &Deployment) -> String {
    if !deployment.url.is_empty() {
        return deployment.url.clone();
    }
    if deployment.state == "built" {
        return deployment.image_name.clone();
    }
    match &deployment.failure {
        Some(failure) if deployment.state == "failed" => match failure.step.as_str() {
            "" => failure.code.clone(),
            step => format!("{} at {step}", failure.code),
        },
        _ => match deployment.stalled_since {
            Some(_) => format!("stalled: {}", deployment.stalled_why),
            None => String::new(),
        },
    }
}

pub(super) async fn get(api: &mut Api, id: &str) -> Result<Deployment, Failure> {
    let request = GetDeploymentRequest { deployment_id: id.to_owned() };
    let answer = api.deployments.get_deployment(request).await;
    let found = answer.map_err(|status| Failure::of_call(&status))?.into_inner().deployment;
    found.ok_or_else(|| {
        Failure::new(Exit::Internal, "the control API answered without a deployment")
    })
}

pub(super) async fn open(global: &Global, id: Option<&str>) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let deployment = match id {
        Some(id) => get(&mut api, id).await?,
        None => newest(global, &mut api).await?,
    };
    if deployment.url.is_empty() {
        let (id, state) = (&deployment.id, &deployment.state);
        return Err(Failure::new(
            Exit::Refused,
            format!("deployment {id} is {state} and has no URL yet"),
        ));
    }
    match global.json {
        true => {
            emit(&json!({"type": "result", "deployment_id": deployment.id, "url": deployment.url}))
        }
        false => print(&deployment.url),
    }
    // Without a desktop there is nothing to open it with: the URL was printed.
    let desktop = std::env::var_os("DISPLAY").or_else(|| std::env::var_os("WAYLAND_DISPLAY"));
    if desktop.is_some() {
        let _ = tokio::process::Command::new("xdg-open").arg(&deployment.url).status().await;
    }
    Ok(Exit::Success)
}

async fn newest(global: &Global, api: &mut Api) -> Result<Deployment, Failure> {
    let file = project::read(here())?;
    let project = project::name(global, &file, here())?;
    let request = ListDeploymentsRequest {
        project_id: project.clone(),
        environment_slug: global.environment.clone().unwrap_or_default(),
        limit: 1,
        branch: String::new(),
        state: "live".to_owned(),
    };
    let answer = api.deployments.list_deployments(request).await;
    let found = answer.map_err(|status| Failure::of_call(&status))?.into_inner().deployments;
    found.into_iter().next().ok_or_else(|| {
        Failure::new(Exit::Refused, format!("project `{project}` has no live deployment: deploy it, or name another with --project"))
    })
}

pub(super) async fn projects(global: &Global) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let answer = api.projects.list_projects(ListProjectsRequest {}).await;
    let projects = answer.map_err(|status| Failure::of_call(&status))?.into_inner().projects;
    if global.json {
        let projects: Vec<Value> = projects.iter().map(project_json).collect();
        emit(&json!({"type": "result", "projects": projects}));
        return Ok(Exit::Success);
    }
    let rows: Vec<Vec<String>> = projects.into_iter().flat_map(project_rows).collect();
    table(&["PROJECT", "ENVIRONMENT", "LIVE", "URL"], &rows);
    Ok(Exit::Success)
}

fn project_json(project: &Project) -> Value {
    let environments: Vec<Value> = project
        .environments
        .iter()
        .map(|environment| {
            json!({
                "environment": environment.slug, "pinned": environment.pinned,
                "live": some(&environment.live_deployment_id), "url": some(&environment.url),
            })
        })
        .collect();
    json!({
        "project_id": project.id, "project": project.slug, "created_at": project.created_at,
        "environments": environments,
    })
}

fn project_rows(project: Project) -> Vec<Vec<String>> {
    if project.environments.is_empty() {
        return vec![vec![project.slug, "none yet".to_owned()]];
    }
    let row = |environment: Environment| {
        let pinned = if environment.pinned { " (pinned)" } else { "" };
        let live = match environment.live_deployment_id.as_str() {
            "" => "nothing".to_owned(),
            id => format!("{id}{pinned}"),
        };
        vec![project.slug.clone(), environment.slug, live, environment.url]
    };
    project.environments.into_iter().map(row).collect()
}

pub(super) fn version(global: &Global) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match global.json {
        true => emit(&json!({"type": "result", "version": version})),
        false => print(&format!("launchway {version}")),
    }
    Ok(Exit::Success)
}

/// A deployment as the CLI contract has it.
pub(super) fn deployment_json(deployment: &Deployment) -> Value {
    let steps: Vec<Value> = deployment
        .steps
        .iter()
        .map(|step| {
            json!({
                "name": step.name, "status": step.status, "attempt": step.attempt,
                "tries": step.tries, "started_at": step.started_at, "ended_at": step.ended_at,
                "message": some(&step.message), "error": some(&step.error_message),
                "error_code": some(&step.error_code),
            })
        })
        .collect();
    let attempts: Vec<Value> = deployment
        .attempts
        .iter()
        .map(|attempt| {
            json!({
                "attempt": attempt.attempt, "status": attempt.state,
                "invocation_id": some(&attempt.invocation_id),
                "started_at": attempt.started_at, "ended_at": attempt.ended_at,
                "failure": attempt.failure.as_ref().map(failure_json),
            })
        })
        .collect();
    json!({
        "deployment_id": deployment.id,
        "project": deployment.project_slug,
        "environment": deployment.environment_slug,
        "environment_id": deployment.environment_id,
        "status": deployment.state,
        "url": some(&deployment.url),
        "domains": deployment.hostnames,
        "image": some(&deployment.rootfs_image_id),
        "digest": some(&deployment.image_digest),
        "image_name": some(&deployment.image_name),
        "branch": deployment.git_branch,
        "commit": some(&deployment.git_commit_sha),
        "invocation_id": some(&deployment.invocation_id),
        "attempt": deployment.attempt,
        "restarted_at_step": some(&deployment.restarted_at_step),
        "restarted_why": some(&deployment.restarted_why),
        "cancel_requested": deployment.cancel_requested,
        "stalled_since": deployment.stalled_since,
        "stalled_why": some(&deployment.stalled_why),
        "eviction": deployment.eviction.as_ref().map(eviction_json),
        "created_at": deployment.created_at,
        "run": run_json(deployment),
        "variables": variables(deployment),
        "steps": steps,
        "failure": deployment.failure.as_ref().map(failure_json),
        "attempts": attempts,
        "warnings": deployment.warnings,
    })
}

fn eviction_json(eviction: &Eviction) -> Value {
    json!({
        "state": eviction.state, "since": eviction.since,
        "start_failure": some(&eviction.start_failure),
    })
}

/// How it runs, in the words that `run_options` has over HTTP, with every process
/// by name.
fn run_json(deployment: &Deployment) -> Value {
    let Some(options) = recorded(deployment) else { return Value::Null };
    json!({"options": options, "processes": options.all_processes()})
}

/// What is recorded with it.
pub(super) fn recorded(deployment: &Deployment) -> Option<RunOptions> {
    run_options::from_proto(deployment.run_options.clone()?).ok()
}

/// Names, in order.
pub(super) fn variables(deployment: &Deployment) -> Vec<&str> {
    let mut names: Vec<&str> =
        deployment.environment_variables.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn failure_json(failure: &Failed) -> Value {
    json!({
        "step": failure.step, "code": failure.code, "message": failure.message,
        "log_tail": failure.log_tail, "remedy": failure.remedy,
        "rolled_back": failure.rolled_back, "left_behind": failure.left_behind,
    })
}
