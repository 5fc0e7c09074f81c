//! Verbs that change a deployment that exists: retry, redeploy, cancel,
//! rollback, promote.

use std::time::Duration;

use launchway_proto::ctrl::v1::{
    CancelDeploymentRequest, PromoteRequest, RedeployRequest, ReleasedDeployment,
    RetryDeploymentRequest, RollbackRequest,
};
use serde_json::json;

use super::{
    Exit, Failure,
    args::{CancelArgs, FollowArgs, Global, RetryArgs},
    connect::connect,
    deploy::{announce, follow, settled},
    project,
    render::{Renderer, emit, print},
};

/// Undos are bounded; this is longer than all of them together.
const CANCEL_LIMIT: Duration = Duration::from_secs(900);

pub(super) async fn retry(global: &Global, args: RetryArgs) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let request = RetryDeploymentRequest {
        deployment_id: args.id.clone(),
        from: args.from.unwrap_or_default(),
    };
    let answer = api.deployments.retry_deployment(request).await;
    let retried = answer.map_err(|status| Failure::of_call(&status))?.into_inner();
    let mut renderer = Renderer::of(global).since_attempt(retried.attempt);
    let (attempt, from, why) = (retried.attempt, &retried.from, &retried.why);
    renderer.note(&format!("attempt {attempt} begins at {from}: {why}"));
    if args.follow.detach {
        announce(global, &args.id, "retrying");
        return Ok(Exit::Success);
    }
    follow(&mut api, &args.id, &mut renderer, args.follow.wait_timeout.get()).await
}

pub(super) async fn redeploy(
    global: &Global,
    id: String,
    args: FollowArgs,
) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let request = RedeployRequest { deployment_id: id, idempotency_key: None };
    let answer = api.deployments.redeploy(request).await;
    let id = answer.map_err(|status| Failure::of_call(&status))?.into_inner().deployment_id;
    if args.detach {
        announce(global, &id, "pending");
        return Ok(Exit::Success);
    }
    let mut renderer = Renderer::of(global);
    renderer.note(&format!("deployment {id}"));
    follow(&mut api, &id, &mut renderer, args.wait_timeout.get()).await
}

/// Done when it is `cancelled`: when everything it had started is taken back.
pub(super) async fn cancel(global: &Global, args: CancelArgs) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let request = CancelDeploymentRequest { deployment_id: args.id.clone() };
    let answer = api.deployments.cancel_deployment(request).await;
    let asked = answer.map_err(|status| Failure::of_call(&status))?.into_inner().asked;
    let mut renderer = Renderer::of(global).quiet();
    match asked {
        true => renderer.note(&format!("deployment {} is asked to end", args.id)),
        false => renderer.note(&format!("deployment {} is cancelled already", args.id)),
    }
    if args.detach {
        announce(global, &args.id, "cancelling");
        return Ok(Exit::Success);
    }
    let waiting = tokio::time::timeout(CANCEL_LIMIT, settled(&mut api, &args.id, &mut renderer));
    let deployment = waiting.await.map_err(|_| {
        let again = format!("it has not ended yet: follow it with launchway watch {}", args.id);
        Failure::new(Exit::StillRunning, again)
    })??;
    let undone = deployment.failure.clone().unwrap_or_default();
    for line in undone.rolled_back.iter() {
        renderer.note(line);
    }
    for line in undone.left_behind.iter() {
        renderer.warning(line);
    }
    match global.json {
        true => renderer.result(&deployment),
        false => print(&deployment.state),
    }
    if deployment.state == "cancelled" {
        return Ok(Exit::Success);
    }
    let (id, state) = (&args.id, &deployment.state);
    let message = format!("deployment {id} ended as {state} before it could be cancelled");
    Err(Failure::new(Exit::Refused, message))
}

pub(super) async fn rollback(global: &Global, id: Option<String>) -> Result<Exit, Failure> {
    let mut request = RollbackRequest::default();
    match id {
        Some(id) => request.target_deployment_id = id,
        None => {
            (request.project_id, request.environment_slug) = project::environment_here(global)?;
        }
    }
    let mut api = connect(global).await?;
    let answer = api.deployments.rollback(request).await;
    let released = answer.map_err(|status| Failure::of_call(&status))?.into_inner().released;
    shown(global, released, "pinned there until `launchway promote`")
}

pub(super) async fn promote(global: &Global, id: String) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let answer = api.deployments.promote(PromoteRequest { target_deployment_id: id }).await;
    let released = answer.map_err(|status| Failure::of_call(&status))?.into_inner().released;
    shown(global, released, "new deployments go live there again")
}

fn shown(
    global: &Global,
    released: Option<ReleasedDeployment>,
    what: &str,
) -> Result<Exit, Failure> {
    let released = released.unwrap_or_default();
    if global.json {
        emit(&json!({
            "type": "result", "deployment_id": released.deployment_id, "status": "live",
            "url": released.url, "previous": super::render::some(&released.previous_deployment_id),
            "started": released.started,
        }));
        return Ok(Exit::Success);
    }
    let renderer = Renderer::for_people();
    let started = if released.started { " (its instances were started first)" } else { "" };
    let previous = match released.previous_deployment_id.as_str() {
        "" => String::new(),
        id => format!(" instead of {id}"),
    };
    renderer.note(&format!("{} is live{previous}{started}; {what}", released.deployment_id));
    print(&released.url);
    Ok(Exit::Success)
}
