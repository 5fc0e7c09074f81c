//! `deploy` and `watch`.

use std::{collections::HashMap, path::Path, time::Duration};

use launchway_proto::ctrl::v1::{
    BuildContext, BuildOptions, CreateDeploymentRequest, Deployment, GenerateUploadUrlRequest,
    GitCommitInfo, RunOptions, WatchDeploymentRequest, create_deployment_request::Source,
    deployment_event::Event,
};

use serde_json::json;

use super::{
    Exit, Failure,
    args::{DeployArgs, Global},
    connect::{Api, connect},
    project::{self, ProjectFile},
    render::{Renderer, emit, print},
};
use crate::pack::{self, PackOptions, PackedContext, git::GitState};

/// Above this the user is told what is going on.
const LARGE: u64 = 100 * 1024 * 1024;
/// The store refuses more by default; refused here before it is uploaded.
const MAX_PACKED: u64 = 2 * 1024 * 1024 * 1024;
/// Pauses between attempts to reach the control API again.
const REWATCH: Duration = Duration::from_millis(200);
/// How long the control API may be away while a deployment is followed.
const MAX_AWAY: u32 = 300;

pub(super) async fn deploy(global: &Global, args: DeployArgs) -> Result<Exit, Failure> {
    let mut renderer = Renderer::of(global);
    let file = project::read(&args.path)?;
    let project = project::name(global, &file, &args.path)?;
    let build_args = build_args(&args.build_args)?;
    let secrets = build_secrets(&args.build_secrets)?;
    let mut api = connect(global).await?;
    let git = if args.image.is_some() { None } else { pack::git::detect(&args.path).await };
    let (source, content_hash) = match &args.image {
        Some(image) => (Source::DockerImage(image.clone()), None),
        None => {
            let mut context = packed(&args, &file, &build_args, &renderer).await?;
            let path = uploaded(&mut api, &project, &mut context, &renderer).await?;
            let dockerfile_path = args.dockerfile.clone().or_else(|| file.dockerfile.clone());
            let source =
                Source::BuildContext(BuildContext { build_context_path: path, dockerfile_path });
            (source, Some(context.content_hash))
        }
    };
    let request = CreateDeploymentRequest {
        project_id: project,
        branch: args
            .branch
            .clone()
            .or(git.as_ref().map(|git| git.branch.clone()))
            .unwrap_or_default(),
        environment_slug: environment(global, &args, &file),
        source: Some(source),
        git_commit: commit(&args, git),
        keyspace_id: None,
        idempotency_key: args.idempotency_key.clone(),
        content_hash,
        build_options: Some(BuildOptions {
            target: args.target.clone().or(file.target),
            platform: args.platform.clone(),
            build_args,
            no_cache: args.no_cache,
            secrets,
        }),
        run_options: Some(RunOptions {
            port: u32::from(args.port.or(file.port).unwrap_or(0)),
            replicas: args.replicas.or(file.replicas).unwrap_or(0),
            ..RunOptions::default()
        }),
        queue_policy: file.queue,
    };
    let created = api.deployments.create_deployment(request).await;
    let created = created.map_err(|status| Failure::of_call(&status))?.into_inner();
    let id = created.deployment_id;
    if !created.created {
        renderer.note(&format!("the idempotency key already has deployment {id}"));
    }
    if args.follow.detach {
        announce(global, &id, "pending");
        return Ok(Exit::Success);
    }
    renderer.note(&format!("deployment {id}"));
    follow(&mut api, &id, &mut renderer, args.follow.wait_timeout.get()).await
}

/// The result of a verb that does not wait.
pub(super) fn announce(global: &Global, id: &str, status: &str) {
    match global.json {
        true => emit(&json!({"type": "result", "deployment_id": id, "status": status})),
        false => print(id),
    }
}

pub(super) async fn watch(global: &Global, id: &str) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    follow(&mut api, id, &mut Renderer::of(global), Duration::MAX).await
}

fn environment(global: &Global, args: &DeployArgs, file: &ProjectFile) -> String {
    if args.prod {
        return "production".to_owned();
    }
    global.environment.clone().or_else(|| file.environment.clone()).unwrap_or_default()
}

fn build_args(given: &[String]) -> Result<HashMap<String, String>, Failure> {
    given
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Failure::usage(format!("--build-arg {text}: give NAME=VALUE"))),
        })
        .collect()
}

/// Reads build secrets here, where their files are.
fn build_secrets(given: &[String]) -> Result<HashMap<String, String>, Failure> {
    given.iter().map(|text| build_secret(text).map_err(Failure::usage)).collect()
}

fn build_secret(text: &str) -> Result<(String, String), String> {
    let rule = || format!("--build-secret {text}: give id=ID,src=FILE or id=ID,env=NAME");
    let mut parts = HashMap::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(rule)?;
        parts.insert(key, value);
    }
    let id = parts.remove("id").filter(|id| !id.is_empty()).ok_or_else(rule)?;
    let problem = |source: &str, error: String| format!("--build-secret {id}: {source}: {error}");
    let secret = match (parts.remove("src"), parts.remove("env"), parts.is_empty()) {
        (Some(file), None, true) => {
            std::fs::read_to_string(file).map_err(|error| problem(file, error.to_string()))?
        }
        (None, Some(name), true) => {
            std::env::var(name).map_err(|error| problem(name, error.to_string()))?
        }
        _ => return Err(rule()),
    };
    Ok((id.to_owned(), secret))
}

fn commit(args: &DeployArgs, git: Option<GitState>) -> Option<GitCommitInfo> {
    let git = git.map(|git| GitCommitInfo {
        commit_sha: git.sha,
        commit_message: git.message,
        author_handle: git.author,
        author_avatar_url: String::new(),
        timestamp: git.timestamp,
        dirty: git.dirty,
    });
    match &args.commit {
        Some(sha) => Some(GitCommitInfo { commit_sha: sha.clone(), ..git.unwrap_or_default() }),
        None => git,
    }
}

async fn packed(
    args: &DeployArgs,
    file: &ProjectFile,
    build_args: &HashMap<String, String>,
    renderer: &Renderer,
) -> Result<PackedContext, Failure> {
    let dockerfile = args.dockerfile.clone().or_else(|| file.dockerfile.clone());
    let dockerfile = dockerfile.unwrap_or_else(|| "Dockerfile".to_owned());
    let mut build_inputs: Vec<(String, String)> =
        build_args.iter().map(|(name, value)| (format!("arg:{name}"), value.clone())).collect();
    build_inputs.sort();
    build_inputs.push(("dockerfile".to_owned(), dockerfile.clone()));
    build_inputs.push(("target".to_owned(), args.target.clone().unwrap_or_default()));
    build_inputs.push(("platform".to_owned(), args.platform.clone().unwrap_or_default()));
    let options =
        PackOptions { dir: args.path.clone(), dockerfile, build_inputs, max_bytes: MAX_PACKED };
    let context = pack::pack(options, |_| ()).await.map_err(Failure::usage)?;
    for path in &context.skipped {
        renderer.warning(&format!("`{}` is not a file and was left out", path.display()));
    }
    if context.size > LARGE {
        let size = context.size / (1024 * 1024);
        renderer.warning(&format!(
            "the context has {size} MiB packed: .dockerignore may leave something out"
        ));
    }
    Ok(context)
}

async fn uploaded(
    api: &mut Api,
    project: &str,
    context: &mut PackedContext,
    renderer: &Renderer,
) -> Result<String, Failure> {
    let request = GenerateUploadUrlRequest {
        unkey_project_id: project.to_owned(),
        size: context.size,
        sha256: context.sha256.clone(),
    };
    let granted = api.builds.generate_upload_url(request).await;
    let granted = granted.map_err(|status| Failure::of_call(&status))?.into_inner();
    renderer.begin_bytes("uploading", context.size);
    let sent =
        pack::upload(context, &granted.upload_url, &granted.headers, |sent| renderer.bytes(sent))
            .await;
    renderer.end_bytes();
    sent.map_err(|error| Failure::new(Exit::Internal, error))?;
    renderer.note(&format!("uploaded {} files, {} bytes", context.entries, context.size));
    Ok(granted.build_context_path)
}

/// Shows the deployment until it is settled. Ctrl-C detaches: the work is done
/// by the server.
pub(super) async fn follow(
    api: &mut Api,
    id: &str,
    renderer: &mut Renderer,
    wait: Duration,
) -> Result<Exit, Failure> {
    let detached = |why: &str| {
        Failure::new(
            Exit::StillRunning,
            format!("{why}; the deployment goes on. Follow it again with: launchway watch {id}"),
        )
    };
    let deployment = tokio::select! {
        settled = settled(api, id, renderer) => settled?,
        () = tokio::time::sleep(wait.min(Duration::from_secs(365 * 24 * 3600))) => {
            return Err(detached("the wait is over"));
        }
        _ = tokio::signal::ctrl_c() => return Err(detached("detached")),
    };
    for warning in &deployment.warnings {
        renderer.warning(warning);
    }
    renderer.failed(&deployment);
    renderer.result(&deployment);
    Ok(exit_of(&deployment))
}

pub(super) async fn settled(
    api: &mut Api,
    id: &str,
    renderer: &mut Renderer,
) -> Result<Deployment, Failure> {
    let (mut cursor, mut away) = (0, 0);
    loop {
        let request =
            WatchDeploymentRequest { deployment_id: id.to_owned(), after_build_log: cursor };
        let interrupted = match api.deployments.watch_deployment(request).await {
            Ok(events) => {
                let mut events = events.into_inner();
                away = 0;
                let mut last = None;
                loop {
                    match events.message().await {
                        Ok(Some(event)) => match event.event {
                            Some(Event::Deployment(deployment)) => {
                                renderer.deployment(&deployment);
                                last = Some(deployment);
                            }
                            Some(Event::BuildLog(line)) => {
                                cursor = line.cursor;
                                renderer.build_log(&line);
                            }
                            None => {}
                        },
                        // The server ends the stream once it is settled.
                        Ok(None) => match last.take() {
                            Some(deployment) if is_settled(&deployment) => return Ok(deployment),
                            _ => break tonic::Status::unavailable("the stream ended early"),
                        },
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        away += 1;
        await_return(&interrupted, away, renderer).await?;
    }
}

/// Waits before the next look at a control API that is away.
///
/// # Errors
/// It refused the call, or is away for too long.
pub(super) async fn await_return(
    interrupted: &tonic::Status,
    away: u32,
    renderer: &Renderer,
) -> Result<(), Failure> {
    let gone = matches!(
        interrupted.code(),
        tonic::Code::Unavailable
            | tonic::Code::Unknown
            | tonic::Code::Cancelled
            | tonic::Code::Internal
    );
    if !gone || away > MAX_AWAY {
        return Err(Failure::of_call(interrupted));
    }
    if away == 1 {
        renderer.note("the control API is away; waiting for it");
    }
    tokio::time::sleep(REWATCH).await;
    Ok(())
}

fn is_settled(deployment: &Deployment) -> bool {
    deployment
        .state
        .parse()
        .is_ok_and(|state: launchway_workflows::status::DeploymentStatus| state.is_settled())
}

fn exit_of(deployment: &Deployment) -> Exit {
    match deployment.state.as_str() {
        "live" | "ready" | "retiring" | "retired" => Exit::Success,
        "cancelled" => Exit::Cancelled,
        "superseded" => Exit::Superseded,
        _ => Exit::of_failure(deployment.failure.as_ref().map_or(1, |failure| failure.exit_code)),
    }
}

/// The directory whose project a verb without a path means.
pub(super) fn here() -> &'static Path {
    Path::new(".")
}
