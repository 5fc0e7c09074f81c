//! From the source to an image: `acquire-slot, presign-context, build-image,
//! release-slot, push-image`. The slot's bracket ends before the push, so that
//! a retry from the push needs neither a slot nor a build.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use restate_sdk::prelude::*;
use tokio::sync::mpsc;

use crate::{
    engine::{
        core::Core,
        failpoint::{self, Point},
        steps::{Done, StepLimits, Steps, Stop},
        undo::Undos,
    },
    error::{ErrorCode, StepError},
    ids::DeploymentId,
    model::{BuildContext, BuiltImage, DeploymentPlan, Source},
    ports::{BuildEvent, BuildSpec, Push},
    services::{
        build_slots::{BuildSlotsClient, BuildStream, SlotClaim, SlotHolder},
        waits::{SlotRequest, SlotVerdict, WaitsClient},
    },
    status::DeploymentStatus,
    step::Step,
};

/// Build events on their way to the database: enough for a burst, and a
/// builder that is faster than the database is held back.
const EVENT_QUEUE: usize = 512;
/// Events written in one transaction.
const EVENT_BATCH: usize = 256;
/// From the end of the longest build until its slot is taken back.
const LEASE_MARGIN: Duration = Duration::from_secs(300);
/// Pushes retry for minutes: registries restart.
pub(crate) const PUSH_LIMIT: Duration = Duration::from_secs(600);

/// The image to run: built here, or the one that was named.
pub(super) async fn image_of(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    plan: &DeploymentPlan,
) -> Result<String, Stop> {
    let context = match &plan.source {
        Source::DockerImage(reference) => return Ok(reference.clone()),
        Source::BuildContext(context) => context,
    };
    acquire_slot(steps, undos, plan).await?;
    presign_context(steps, plan, context).await?;
    let image = build_image(steps, undos, plan, context).await?;
    release_slot(steps, undos, plan).await?;
    push_image(steps, image).await
}

/// Most find a slot free; only who does not is sent to wait for one.
async fn acquire_slot(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    plan: &DeploymentPlan,
) -> Result<(), Stop> {
    undos.register(Step::AcquireSlot, plan);
    steps.begin(Step::AcquireSlot, Some(DeploymentStatus::Queued)).await?;
    let settings = &steps.core().settings;
    let claim = SlotClaim {
        deployment_id: plan.deployment_id.clone(),
        production: plan.production,
        limit: settings.build_concurrency,
        lease_ms: millis(settings.build_time_limit + LEASE_MARGIN),
    };
    let acquired = try_slot(steps, plan, claim).await;
    match acquired.map_err(|error| Stop::from_terminal(&error, Step::AcquireSlot))? {
        SlotVerdict::Granted(_) => {}
        SlotVerdict::Superseded(by) => return Err(Stop::Superseded(by)),
        SlotVerdict::Failed(failure) => {
            return Err(Stop::Failed(failure.at(Step::AcquireSlot)));
        }
    }
    steps.end(Step::AcquireSlot).await;
    Ok(())
}

async fn try_slot(
    steps: &Steps<'_, '_>,
    plan: &DeploymentPlan,
    claim: SlotClaim,
) -> Result<SlotVerdict, TerminalError> {
    let (id, workspace_id) = (steps.deployment_id(), plan.workspace_id.clone());
    let slots = steps.ctx().object_client::<BuildSlotsClient>(workspace_id.as_str());
    let trying = slots.try_acquire(Json(claim.clone())).call();
    failpoint::reach(id, Step::AcquireSlot, Point::During).await;
    let verdict = match trying.await? {
        Json(Some(grant)) => SlotVerdict::Granted(grant),
        Json(None) => {
            let request = SlotRequest { workspace_id, claim, stream: BuildStream::of(plan) };
            let waits = steps.ctx().service_client::<WaitsClient>();
            waits.slot(Json(request)).call().await?.0
        }
    };
    failpoint::reach(id, Step::AcquireSlot, Point::Done).await;
    let verdict = failpoint::faulty(id, "grant-slot", Ok(verdict));
    Ok(verdict.unwrap_or_else(|error| SlotVerdict::Failed(error.failure().clone())))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Only what identifies the context is journaled; its URL is signed where it
/// is used, because a journaled URL would be an expired credential on retry.
async fn presign_context(
    steps: &Steps<'_, '_>,
    plan: &DeploymentPlan,
    context: &BuildContext,
) -> Result<u64, Stop> {
    let key = context.build_context_path.clone();
    let prefix = format!("contexts/{}/", plan.project_id);
    let building = Some(DeploymentStatus::Building);
    steps
        .run(Step::PresignContext, building, StepLimits::CALL, move |core| async move {
            if !key.starts_with(&prefix) {
                let message =
                    format!("context `{key}` is not under the project's prefix `{prefix}`");
                return Err(StepError::permanent(ErrorCode::ContextMissing, message));
            }
            match core.contexts.head(&key).await? {
                Some(meta) => Ok(Done::with(meta.size)),
                None => Err(StepError::permanent(
                    ErrorCode::ContextMissing,
                    format!("the object store has no context `{key}`"),
                )),
            }
        })
        .await
}

async fn build_image(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    plan: &DeploymentPlan,
    context: &BuildContext,
) -> Result<BuiltImage, Stop> {
    undos.register(Step::BuildImage, plan);
    let limits = StepLimits::held(steps.core().settings.build_time_limit);
    let (plan, context) = (plan.clone(), context.clone());
    let image = steps
        .run(Step::BuildImage, Some(DeploymentStatus::Building), limits, move |core| async move {
            let spec = build_spec(&core, &plan, &context).await?;
            let image = find_or_build(&core, &spec).await?;
            core.store.record_image(&plan.deployment_id, &image).await?;
            Ok(Done::with(image))
        })
        .await?;
    undos.settle(Step::BuildImage);
    Ok(image)
}

async fn build_spec(
    core: &Core,
    plan: &DeploymentPlan,
    context: &BuildContext,
) -> Result<BuildSpec, StepError> {
    let lifetime = core.settings.context_url_lifetime;
    let mut labels = BTreeMap::new();
    if !plan.commit_sha.is_empty() {
        labels.insert("org.opencontainers.image.revision".to_owned(), plan.commit_sha.clone());
    }
    if !plan.source_url.is_empty() {
        labels.insert("org.opencontainers.image.source".to_owned(), plan.source_url.clone());
    }
    labels.insert("launchway.project".to_owned(), plan.project_id.to_string());
    let options = core.store.build_options(&plan.deployment_id).await?;
    let opened = options.secrets.iter().map(|(id, sealed)| {
        let opened = core.unsealer.open(&plan.workspace_id, id, sealed).map_err(|why| {
            let message = format!("the build secret `{id}` cannot be opened: {why}");
            StepError::permanent(ErrorCode::BuildFailed, message)
        })?;
        Ok((id.clone(), opened))
    });
    let secrets = opened.collect::<Result<_, StepError>>()?;
    Ok(BuildSpec {
        build_id: plan.build_id.clone(),
        deployment_id: plan.deployment_id.clone(),
        workspace_id: plan.workspace_id.clone(),
        project_id: plan.project_id.clone(),
        project_slug: plan.project_slug.clone(),
        context_url: core.contexts.presign_get(&context.build_context_path, lifetime).await?,
        dockerfile_path: context.dockerfile_path.clone(),
        options,
        secrets,
        labels,
        max_output: core.settings.build_max_output,
    })
}

/// Looks for the effect first: a worker that was killed between the end of the
/// build and its journal entry has left the image. A build that it has left
/// running is ended, so that there are never two of one id.
async fn find_or_build(core: &Arc<Core>, spec: &BuildSpec) -> Result<BuiltImage, StepError> {
    if let Some(image) = core.builder.find_image(spec).await? {
        tracing::info!(build = %spec.build_id, "the image of this build exists already");
        return Ok(image);
    }
    core.builder.abort(&spec.build_id).await?;
    ensure_room(core).await?;
    let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
    let writing = tokio::spawn(write_log(Arc::clone(core), spec.deployment_id.clone(), receiver));
    let built = core.builder.build(spec, sender).await;
    // The channel is closed now: the log is complete before the step ends.
    if let Err(error) = writing.await {
        tracing::warn!(deployment = %spec.deployment_id, %error, "the build log is incomplete");
    }
    built
}

/// A disk that runs full ends more than one build.
async fn ensure_room(core: &Core) -> Result<(), StepError> {
    let least = core.settings.build_min_free;
    let lacking = async || core.builder.room().await.filter(|room| room.free < least);
    if lacking().await.is_none() {
        return Ok(());
    }
    core.builder.make_room().await?;
    match lacking().await {
        None => Ok(()),
        Some(room) => Err(StepError::transient(
            ErrorCode::BuilderOutOfDisk,
            format!(
                "{} has {} MiB free, and a build needs {} MiB (`build.min_free_bytes`); the builder's cache \
                 was given up already: `launchway gc` removes what nobody needs",
                room.path,
                room.free >> 20,
                least >> 20
            ),
        )),
    }
}

async fn write_log(core: Arc<Core>, id: DeploymentId, mut events: mpsc::Receiver<BuildEvent>) {
    let mut batch = Vec::with_capacity(EVENT_BATCH);
    while events.recv_many(&mut batch, EVENT_BATCH).await > 0 {
        if let Err(error) = core.store.append_build_log(&id, &batch).await {
            // A build is not failed for its log; the gap is said once.
            tracing::warn!(deployment = %id, %error, lost = batch.len(), "build output was lost");
        }
        batch.clear();
    }
}

/// One-way: nobody has to wait for the slot to be free.
async fn release_slot(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    plan: &DeploymentPlan,
) -> Result<(), Stop> {
    steps.begin(Step::ReleaseSlot, None).await?;
    let holder = SlotHolder { deployment_id: plan.deployment_id.clone(), awakeable_id: None };
    let slots = steps.ctx().object_client::<BuildSlotsClient>(plan.workspace_id.as_str());
    failpoint::reach(steps.deployment_id(), Step::ReleaseSlot, Point::During).await;
    slots.release(Json(holder)).send();
    failpoint::reach(steps.deployment_id(), Step::ReleaseSlot, Point::Done).await;
    undos.settle(Step::AcquireSlot);
    steps.end(Step::ReleaseSlot).await;
    Ok(())
}

async fn push_image(steps: &Steps<'_, '_>, image: BuiltImage) -> Result<String, Stop> {
    let id = steps.deployment_id().clone();
    let limits = StepLimits::held(PUSH_LIMIT);
    steps
        .run(Step::PushImage, Some(DeploymentStatus::Pushing), limits, move |core| async move {
            match core.builder.push(&image).await? {
                Push::Skipped(why) => Ok(Done::skipped(image.pinned(), why)),
                Push::Pushed(pushed) => {
                    core.store.record_image(&id, &pushed).await?;
                    Ok(Done::with(pushed.pinned()))
                }
            }
        })
        .await
}
