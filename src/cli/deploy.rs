//! `deploy` and `watch`.

use std::{path::Path, time::Duration};

use launchway_proto::ctrl::v1::{
    CreateDeploymentRequest, Deployment, WatchDeploymentRequest, create_deployment_request::Source,
    deployment_event::Event,
};
use launchway_workflows::names::PRODUCTION;
use serde_json::json;

use super::{
    Exit, Failure,
    args::{DeployArgs, Global},
    connect::{Api, connect},
    project::{self, ProjectFile},
    render::{Renderer, emit, print},
    source::{BuildSource, branch, commit},
};
use crate::{pack, run_options};

/// Pauses between attempts to reach the control API again.
const REWATCH: Duration = Duration::from_millis(200);
/// How long the control API may be away while a deployment is followed.
const MAX_AWAY: u32 = 300;

pub(super) async fn deploy(global: &Global, args: DeployArgs) -> Result<Exit, Failure> {
    let mut renderer = Renderer::of(global);
    let file = project::read(&args.path)?;
    let project = project::name(global, &file, &args.path)?;
    let source = BuildSource::new(&args.path, &args.build, &file)?;
    let run = project::run_options(&file, args.port, args.replicas)?;
    let mut api = connect(global).await?;
    let git = if args.image.is_some() { None } else { pack::git::detect(&args.path).await };
    let build_options = Some(source.options());
    let (source, content_hash) = match &args.image {
        Some(image) => (Source::DockerImage(image.clone()), None),
        None => {
            let (context, hash) = source.upload(&mut api, &project, &renderer).await?;
            (Source::BuildContext(context), Some(hash))
        }
    };
    let request = CreateDeploymentRequest {
        project_id: project,
        branch: branch(&args.build, git.as_ref()),
        environment_slug: environment(global, args.prod, &file),
        source: Some(source),
        git_commit: commit(&args.build, git),
        keyspace_id: None,
        idempotency_key: args.build.idempotency_key.clone(),
        content_hash,
        build_options,
        run_options: Some(run_options::to_proto(&run)),
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

pub(super) fn environment(global: &Global, production: bool, file: &ProjectFile) -> String {
    if production {
        return PRODUCTION.to_owned();
    }
    global.environment.clone().or_else(|| file.environment.clone()).unwrap_or_default()
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
        "live" | "built" | "ready" | "retiring" | "retired" => Exit::Success,
        "cancelled" => Exit::Cancelled,
        "superseded" => Exit::Superseded,
        _ => Exit::of_failure(deployment.failure.as_ref().map_or(1, |failure| failure.exit_code)),
    }
}

/// The directory whose project a verb without a path means.
pub(super) fn here() -> &'static Path {
    Path::new(".")
}
