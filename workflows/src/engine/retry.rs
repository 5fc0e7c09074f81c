//! Where a retry begins, and whether it may.

use serde::{Deserialize, Serialize};

use super::{core::Core, undo::Undone};
use crate::{
    error::StepError,
    ids::{DeploymentId, InvocationId},
    model::Source,
    ports::{EndedAttempt, Guarded, Restarted, RestateSilent, StoreError, Workflow},
    services::journal_version,
    status::DeploymentStatus,
    step::Step,
};

/// Whether a new attempt has begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "decision", content = "value", rename_all = "kebab-case")]
pub(crate) enum Decision {
    /// There is no such deployment.
    Unknown,
    /// No, for people.
    Refused(String),
    /// Yes; its workflow is to be restarted.
    Begun(Begun),
}

/// A new attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// Its number.
    pub(crate) attempt: u32,
    /// Where.
    pub(crate) point: RestartPoint,
}

/// A port did not answer. Always worth another try.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Silent(String);

impl From<StoreError> for Silent {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<RestateSilent> for Silent {
    fn from(error: RestateSilent) -> Self {
        Self(error.to_string())
    }
}

impl From<StepError> for Silent {
    fn from(error: StepError) -> Self {
        Self(error.failure().to_string())
    }
}

/// Decides and, where it may be, begins the new attempt in the database. `by`
/// is the invocation that asks; repeated for the same one it says the same.
pub(crate) async fn begin(
    core: &Core,
    id: &DeploymentId,
    requested: Option<Step>,
    by: &InvocationId,
) -> Result<Decision, Silent> {
    let Some(ended) = core.store.ended_attempt(id).await? else { return Ok(Decision::Unknown) };
    if let Some(retried) = ended.retried.clone().filter(|retried| retried.by == *by) {
        return Ok(Decision::Begun(Begun { attempt: ended.attempt, point: retried.point }));
    }
    if !matches!(ended.status, DeploymentStatus::Failed | DeploymentStatus::Cancelled) {
        return Ok(Decision::Refused(not_ended(id, ended.status)));
    }
    let workflow = match &ended.workflow {
        Some(owner) => core.invocations.workflow(owner).await?,
        None => core.invocations.latest(id).await?,
    };
    let Some(workflow) = workflow else {
        let reason = "Restate has forgotten the journal of its last attempt";
        return Ok(Decision::Refused(use_redeploy(id, reason)));
    };
    let point = match restart_point(requested, ended_at(&ended), &ended.undone) {
        Ok(point) => point,
        Err(reason) => return Ok(Decision::Refused(format!("deployment `{id}`: {reason}"))),
    };
    if let Some(reason) = missing(core, &ended, &workflow, point.step).await? {
        return Ok(Decision::Refused(use_redeploy(id, &reason)));
    }
    match core.store.begin_retry(id, by, &workflow.invocation, &point).await? {
        Guarded::Applied => Ok(Decision::Begun(Begun { attempt: ended.attempt + 1, point })),
        Guarded::Lost => {
            let reason = format!("deployment `{id}` is being retried by somebody else already");
            Ok(Decision::Refused(reason))
        }
    }
}

/// Restarts the workflow of an attempt that [`begin`] has begun.
pub(crate) async fn restart(
    core: &Core,
    id: &DeploymentId,
    by: &InvocationId,
) -> Result<Restarted, Silent> {
    let ended = core.store.ended_attempt(id).await?;
    let retried = ended.and_then(|ended| ended.retried).filter(|retried| retried.by == *by);
    match retried {
        Some(retried) => Ok(core.invocations.restart(&retried.ended, retried.point.step).await?),
        // The new attempt has its row already.
        None => Ok(Restarted::Yes),
    }
}

/// The step the attempt ended at.
fn ended_at(ended: &EndedAttempt) -> Step {
    let failed = ended.failure.as_ref().and_then(|failure| failure.step);
    failed.or(ended.last_step).unwrap_or(Step::LoadDeployment)
}

fn not_ended(id: &DeploymentId, status: DeploymentStatus) -> String {
    match status {
        DeploymentStatus::Superseded => {
            format!("deployment `{id}` was superseded: `launchway redeploy {id}` builds it anyway")
        }
        status if status.is_settled() => {
            format!("deployment `{id}` is {status}: there is nothing to retry")
        }
        status => format!(
            "deployment `{id}` is {status}, it has not ended yet: follow it with `launchway watch {id}`"
        ),
    }
}

/// A refusal that offers the other way.
pub(crate) fn use_redeploy(id: &DeploymentId, reason: &str) -> String {
    format!(
        "deployment `{id}` cannot be retried: {reason}; `launchway redeploy {id}` submits it anew"
    )
}

/// What the steps from there on would miss, if anything.
async fn missing(
    core: &Core,
    ended: &EndedAttempt,
    workflow: &Workflow,
    from: Step,
) -> Result<Option<String>, Silent> {
    let own = journal_version();
    if workflow.journal_version != Some(own) {
        let found =
            workflow.journal_version.map_or("unknown".to_owned(), |found| found.to_string());
        return Ok(Some(format!(
            "its journal has version {found}, this launchway writes version {own}"
        )));
    }
    if from <= Step::BuildImage {
        return context_gone(core, &ended.plan.source).await;
    }
    let Some(image) = &ended.image else { return Ok(None) };
    let there = core.builder.has_image(image).await?;
    Ok((!there).then(|| format!("its image {} is gone", image.pinned())))
}

/// The build context that is not in the object store any more, for people.
pub(crate) async fn context_gone(core: &Core, source: &Source) -> Result<Option<String>, Silent> {
    let Source::BuildContext(context) = source else { return Ok(None) };
    let found = core.contexts.head(&context.build_context_path).await?;
    Ok(found.is_none().then(|| {
        format!("its build context `{}` is gone from the object store", context.build_context_path)
    }))
}

/// The step a new attempt begins at, and why at that one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPoint {
    /// Everything before it is kept and not executed again.
    pub step: Step,
    /// For people.
    pub why: String,
}

/// The earliest of: the requested step (default: the one that failed), the
/// first step whose effect was taken back, the start of the slot's bracket.
///
/// # Errors
/// The requested step was not reached; says which ones were.
pub fn restart_point(
    requested: Option<Step>,
    failed: Step,
    undone: &[Undone],
) -> Result<RestartPoint, String> {
    let step = requested.unwrap_or(failed);
    if step > failed {
        return Err(format!(
            "`{step}` was not reached: the attempt ended at `{failed}`; retry from there or from an earlier step"
        ));
    }
    let why = match requested {
        Some(_) => "as requested".to_owned(),
        None => "the attempt ended there".to_owned(),
    };
    let mut point = RestartPoint { step, why };
    let taken_back = undone.iter().filter(|undone| match undone.step {
        // A slot is given back in any case; that matters inside its bracket only.
        Step::AcquireSlot => in_bracket(failed),
        // What the command did stays; its container is all that was removed.
        Step::ReleaseCommand => false,
        _ => true,
    });
    if let Some(earliest) = taken_back.min_by_key(|undone| undone.step)
        && earliest.step < point.step
    {
        let why = format!("`{}` was taken back: {}", earliest.step, earliest.note);
        point = RestartPoint { step: earliest.step, why };
    }
    if in_bracket(point.step) && point.step != Step::AcquireSlot {
        let why = format!("`{}` needs a build slot", point.step);
        point = RestartPoint { step: Step::AcquireSlot, why };
    }
    Ok(point)
}

/// Whether the step runs while the build slot is held.
fn in_bracket(step: Step) -> bool {
    (Step::AcquireSlot..=Step::ReleaseSlot).contains(&step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(step: Step) -> Undone {
        Undone { step, note: "taken back".to_owned(), failed: false }
    }

    fn point(requested: Option<Step>, failed: Step, effects: &[Step]) -> Step {
        let undone: Vec<_> = effects.iter().map(|step| undone(*step)).collect();
        restart_point(requested, failed, &undone).unwrap().step
    }

    #[test]
    fn begins_at_the_failed_step_or_at_what_was_taken_back() {
        use Step as S;
        assert_eq!(point(None, S::PushImage, &[]), S::PushImage);
        assert_eq!(point(None, S::AwaitReady, &[S::DeployToKrane]), S::DeployToKrane);
        assert_eq!(
            point(Some(S::AwaitReady), S::AwaitReady, &[S::DeployToKrane]),
            S::DeployToKrane
        );
        // A killed attempt gives back a slot that it had given back itself.
        let killed = [S::DeployToKrane, S::AcquireSlot];
        assert_eq!(point(None, S::AwaitReady, &killed), S::DeployToKrane);
        assert_eq!(point(Some(S::PushImage), S::AwaitReady, &killed), S::PushImage);
    }

    #[test]
    fn a_build_begins_with_its_slot() {
        use Step as S;
        for failed in [S::AcquireSlot, S::PresignContext, S::BuildImage, S::ReleaseSlot] {
            assert_eq!(point(None, failed, &[S::AcquireSlot]), S::AcquireSlot);
        }
        assert_eq!(point(Some(S::BuildImage), S::AwaitReady, &[]), S::AcquireSlot);
        assert_eq!(point(Some(S::LoadDeployment), S::AwaitReady, &[]), S::LoadDeployment);
    }

    #[test]
    fn a_release_command_that_has_ended_well_is_not_run_again_unless_asked_for() {
        use Step as S;
        let effects = [S::DeployToKrane, S::ReleaseCommand];
        assert_eq!(point(None, S::AwaitReady, &effects), S::DeployToKrane);
        assert_eq!(point(Some(S::ReleaseCommand), S::AwaitReady, &effects), S::ReleaseCommand);
        assert_eq!(point(None, S::ReleaseCommand, &[S::ReleaseCommand]), S::ReleaseCommand);
    }

    #[test]
    fn a_step_that_was_not_reached_is_refused_by_name() {
        let error = restart_point(Some(Step::AwaitReady), Step::BuildImage, &[]).unwrap_err();
        assert!(error.contains("`await-ready`") && error.contains("`build-image`"), "{error}");
    }
}
