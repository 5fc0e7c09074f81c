//! Why a deployment is where it is: the database's and Restate's view of it,
//! put together for [`why`].

use std::time::Duration;

use launchway_proto::ctrl::v1::ExplainDeploymentResponse;
use launchway_workflows::{
    error::{ErrorCode, StepFailure},
    model::{QueuePolicy, Source},
    ports::WorkflowState,
    status::DeploymentStatus,
    step::Step,
    why::{self, Environment, Facts, RestateView, Running},
};
use tonic::Status;

use super::Control;
use crate::{
    restate::{RestateError, admin::InvocationRow, workflows::state_of},
    store::{DeploymentView, StepView, now_ms},
};

/// Longest wait for Restate: a person waits for the answer, and "it does not
/// answer" is one.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn explain(
    control: &Control,
    id: &str,
) -> Result<ExplainDeploymentResponse, Status> {
    let view = control.find(id).await?;
    let asked = tokio::time::timeout(PATIENCE, invocation(control, &view)).await;
    let restate = match asked {
        Ok(Ok(Some(row))) => RestateView::Known {
            state: state_of(&row.status),
            tries: row.retry_count,
            last_failure: row.last_failure,
        },
        Ok(Ok(None)) => RestateView::Forgotten,
        Ok(Err(RestateError::Unavailable { url, reason })) => {
            RestateView::Silent(format!("{url}: {reason}"))
        }
        Ok(Err(error)) => RestateView::Silent(error.to_string()),
        Err(_) => RestateView::Silent(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    // Read after Restate has answered: an invocation that ends in between must
    // not look as if its deployment had lost it.
    let view = match gone(&restate) {
        true => control.find(id).await?,
        false => view,
    };
    let facts = facts(control, view, restate);
    let explanation = why::explain(&facts, &control.limits);
    Ok(ExplainDeploymentResponse {
        deployment_id: facts.deployment_id.to_string(),
        state: explanation.state.to_string(),
        waiting_for: explanation.waiting_for,
        since: explanation.since,
        next: explanation.next,
        remedy: explanation.remedy,
        paragraph: explanation.paragraph,
    })
}

fn gone(restate: &RestateView) -> bool {
    matches!(
        restate,
        RestateView::Forgotten | RestateView::Known { state: WorkflowState::Completed, .. }
    )
}

/// The workflow that runs it; of one that has ended, the one that a retry would
/// continue.
async fn invocation(
    control: &Control,
    view: &DeploymentView,
) -> Result<Option<InvocationRow>, RestateError> {
    let unowned = matches!(view.status, DeploymentStatus::Pending | DeploymentStatus::Retrying);
    let owner = match &view.invocation_id {
        Some(owner) if !unowned && !view.status.is_settled() => Some(owner.clone()),
        _ => control.workflows.newest(&view.id).await?.map(|workflow| workflow.invocation),
    };
    match owner {
        Some(owner) => control.admin.invocation(&owner.0).await,
        None => Ok(None),
    }
}

fn facts(control: &Control, view: DeploymentView, restate: RestateView) -> Facts {
    let present: Vec<&StepView> =
        view.steps.iter().filter(|step| step.attempt == view.attempt).collect();
    let last_step = present.last().and_then(|step| step.name.parse().ok());
    let running = present.iter().rev().find_map(|step| running(step, view.status));
    let entered = match view.status {
        DeploymentStatus::Live => view.live_at.unwrap_or(view.updated_at),
        DeploymentStatus::Pending => view.created_at,
        _ => view.updated_at,
    };
    let url = |domain: Option<String>| domain.map(|domain| control.gateway.url_of(&domain));
    Facts {
        status: view.status,
        entered,
        attempt: view.attempt,
        project: view.project_slug,
        environment: Environment {
            name: view.environment_slug,
            url: url(view.environment_domain),
            live: view.environment_live,
            pinned: view.environment_pinned,
            supersedes: view.queue_policy == QueuePolicy::SupersedeQueued.as_str(),
        },
        own_url: url(view.commit_domain),
        builds: matches!(view.source, Source::BuildContext(_)),
        running,
        last_step,
        eviction: view.eviction,
        stalled: view.stalled,
        cancelling: view.cancel_requested,
        failure: view.failure,
        undone: view.undone,
        restarted: view.restarted,
        withheld: view.routed.and_then(|routed| routed.withheld),
        restate,
        now: now_ms(),
        deployment_id: view.id,
    }
}

/// The end of a step that calls another service is recorded by the next one:
/// past the commit point only what follows it can run.
fn running(view: &StepView, status: DeploymentStatus) -> Option<Running> {
    let step: Step = view.name.parse().ok()?;
    let possible = !status.is_settled() || step > Step::AssignDomains;
    (view.status == "running" && possible).then(|| Running {
        step,
        started_at: view.started_at,
        tries: view.tries,
        message: view.message.clone(),
        failure: failure(view),
    })
}

fn failure(view: &StepView) -> Option<StepFailure> {
    let name = view.error_code.as_deref()?;
    let code = ErrorCode::ALL.iter().find(|code| code.name() == name)?;
    Some(StepFailure::new(*code, view.error_message.clone().unwrap_or_default()))
}
