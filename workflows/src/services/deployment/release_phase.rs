//! From an image to moved domains: `deploy-to-krane, await-ready,
//! assign-domains`, and what follows the commit point.

use std::{sync::Arc, time::Duration};

use restate_sdk::prelude::*;

use super::release_command;
use crate::{
    domains,
    engine::{
        core::Core,
        failpoint::{self, Point},
        readiness::ReadyVerdict,
        run::bounded_run,
        running::run_spec,
        steps::{Done, StepLimits, Steps, Stop},
        undo::Undos,
    },
    error::StepError,
    model::{DeploymentPlan, Instance, Routed},
    services::{
        retirement::RetirementClient,
        routing::{AssignRequest, Assigned, RoutingClient},
        waits::{ReadyRequest, WaitsClient, readiness_wait},
    },
    status::DeploymentStatus,
    step::Step,
};

/// Pulling a large image and starting it, once.
pub(crate) const APPLY_LIMIT: Duration = Duration::from_secs(600);
const APPLY: StepLimits = StepLimits { tries: 30, time_limit: APPLY_LIMIT, held: true };
/// Readiness that comes within it costs no call of another service. A cancel is
/// heard that much later.
const MOMENT: Duration = Duration::from_millis(250);

pub(super) async fn deploy_to_krane(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    plan: &DeploymentPlan,
    image: String,
) -> Result<(), Stop> {
    undos.register(Step::DeployToKrane, plan);
    let plan = plan.clone();
    steps
        .run(
            Step::DeployToKrane,
            Some(DeploymentStatus::Deploying),
            APPLY,
            move |core| async move {
                if plan.has_release {
                    release_command::tidy(&core, &plan).await?;
                }
                let inputs = core.store.run_inputs(&plan.deployment_id).await?;
                core.runtime.apply(&run_spec(&core, &plan, &image, inputs)?).await?;
                Ok(Done::with(()))
            },
        )
        .await
}

/// Most are ready within a moment, or have ended by then. The race of readiness
/// against time is run in `Waits`: a completed race in this journal could not be
/// restarted from a later step.
pub(super) async fn await_ready(steps: &Steps<'_, '_>, plan: &DeploymentPlan) -> Result<(), Stop> {
    let request = ReadyRequest {
        deployment_id: plan.deployment_id.clone(),
        namespace: plan.environment_id.to_string(),
    };
    let (checking, looked_at) = (Some(DeploymentStatus::Checking), request.clone());
    let look = |core| async move { look(core, looked_at).await };
    if steps.look(Step::AwaitReady, checking, look).await? {
        return Ok(());
    }
    match steps.ctx().service_client::<WaitsClient>().ready(Json(request)).call().await {
        Ok(Json(ReadyVerdict::Ready)) => {
            steps.end(Step::AwaitReady).await;
            Ok(())
        }
        Ok(Json(ReadyVerdict::Failed(failure))) => Err(Stop::Failed(failure.at(Step::AwaitReady))),
        Err(error) => Err(Stop::from_terminal(&error, Step::AwaitReady)),
    }
}

/// Whether they are ready already.
async fn look(core: Arc<Core>, request: ReadyRequest) -> Result<bool, StepError> {
    let id = request.deployment_id.clone();
    let wait = readiness_wait(&core, request, String::new()).await?;
    let Some(verdict) = core.readiness.decided_within(&wait, MOMENT).await else {
        return Ok(false);
    };
    failpoint::reach(&id, Step::AwaitReady, Point::During).await;
    match verdict {
        ReadyVerdict::Ready => Ok(true),
        ReadyVerdict::Failed(failure) => Err(StepError::Permanent(failure)),
    }
}

pub(super) async fn assign_domains(
    steps: &Steps<'_, '_>,
    plan: &DeploymentPlan,
) -> Result<Routed, Stop> {
    steps.begin(Step::AssignDomains, Some(DeploymentStatus::Routing)).await?;
    let request = AssignRequest {
        deployment_id: plan.deployment_id.clone(),
        claims: domains::claims(plan, &steps.core().settings.apex),
    };
    let assigned = steps
        .ctx()
        .object_client::<RoutingClient>(plan.environment_id.as_str())
        .assign(Json(request))
        .call()
        .await;
    match assigned {
        Ok(Json(Assigned::Routed(routed))) => {
            failpoint::reach(steps.deployment_id(), Step::AssignDomains, Point::Journaled).await;
            Ok(routed)
        }
        Ok(Json(Assigned::Failed(failure))) => Err(Stop::Failed(failure.at(Step::AssignDomains))),
        Err(error) => Err(Stop::from_terminal(&error, Step::AssignDomains)),
    }
}

/// Stores the application's OpenAPI description where there is one.
pub(super) async fn scrape_openapi(steps: &Steps<'_, '_>) {
    let id = steps.deployment_id().clone();
    let limits = StepLimits { tries: 2, ..StepLimits::CALL };
    let scraped = steps
        .run(Step::ScrapeOpenapi, None, limits, move |core| async move {
            let Some(namespace) = core.store.run_target(&id).await? else {
                return Ok(Done::skipped((), "the deployment has no instances"));
            };
            let instances = core.runtime.instances(&namespace, &id).await?;
            let routed = |instance: &&Instance| instance.ready && !instance.address.is_empty();
            let Some(instance) = instances.iter().find(routed) else {
                return Ok(Done::skipped((), "no instance that gets requests is ready"));
            };
            match core.scraper.scrape(&instance.address).await? {
                None => Ok(Done::skipped((), "the application has no OpenAPI description")),
                Some(spec) => {
                    core.store.record_openapi(&id, &spec).await?;
                    Ok(Done::with(()))
                }
            }
        })
        .await;
    warn_only(steps, Step::ScrapeOpenapi, scraped).await;
}

/// Schedules the retirement of what the domains have left behind.
pub(super) async fn retire_previous(steps: &Steps<'_, '_>) {
    let id = steps.deployment_id().clone();
    let keep = steps.core().settings.keep_running;
    let candidates = steps
        .run(Step::RetirePrevious, None, StepLimits::CALL, move |core| async move {
            let candidates = core.store.retirement_candidates(&id, keep).await?;
            match candidates.is_empty() {
                true => Ok(Done::skipped(candidates, "there is nothing to retire")),
                false => Ok(Done::with(candidates)),
            }
        })
        .await;
    let delay = steps.core().settings.retire_after;
    match candidates {
        Ok(candidates) => candidates.into_iter().for_each(|candidate| {
            let key = candidate.deployment_id.as_str();
            let retirement = steps.ctx().object_client::<RetirementClient>(key);
            retirement.retire(Json(candidate.clone())).send_after(delay);
        }),
        Err(stop) => warn_only(steps, Step::RetirePrevious, Err(stop)).await,
    }
}

/// After the commit point a failure is a warning: the deployment serves.
async fn warn_only(steps: &Steps<'_, '_>, step: Step, result: Result<(), Stop>) {
    let Err(Stop::Failed(failure)) = result else { return };
    let warning = format!("{step} failed after the domains had moved: {}", failure.message);
    tracing::warn!(deployment = %steps.deployment_id(), %step, code = %failure.code, "{warning}");
    let (core, id) = (Arc::clone(steps.core()), steps.deployment_id().clone());
    let noted = bounded_run!(steps.ctx(), "note-warning", move || async move {
        Ok(core.store.add_warning(&id, &warning).await?)
    });
    if let Err(error) = noted.await {
        tracing::warn!(deployment = %steps.deployment_id(), %error, "cannot note the warning");
    }
}
