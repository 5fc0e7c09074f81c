//! `release-command`: a command in the new image that runs before any instance
//! of it starts, such as a migration of a database. It must not run twice
//! without anybody's consent: that it may have been started is noted before it
//! is, and from then on it is only joined.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    app::{MAX_RELEASE_LIMIT, ReleaseCommand},
    engine::{
        core::Core,
        running::run_spec,
        steps::{Done, StepLimits, Steps, Stop},
        undo::Undos,
    },
    error::{ErrorCode, StepError},
    ids::{DeploymentId, InvocationId},
    model::DeploymentPlan,
    names::truncate_chars,
    ports::{ReleaseMark, TaskEnd, TaskSpec},
    status::DeploymentStatus,
    step::Step,
};

mod output;

use output::Output;

/// The longest one, with what starting it may take.
pub(crate) const RELEASE_LIMIT: Duration =
    Duration::from_millis(MAX_RELEASE_LIMIT as u64 + 600_000);
/// As many as starting instances has: the runtime restarts too.
const LIMITS: StepLimits = StepLimits { tries: 30, time_limit: RELEASE_LIMIT, held: true };
/// Where the command says nothing.
const DEFAULT_LIMIT: Duration = Duration::from_secs(600);
/// Lines on their way to the log.
const QUEUE: usize = 512;
/// Characters of a command that messages show.
const SHOWN: usize = 200;

/// Does nothing, and journals nothing, where there is no such command.
pub(super) async fn run(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    plan: &DeploymentPlan,
    image: &str,
) -> Result<(), Stop> {
    if !plan.has_release {
        return Ok(());
    }
    undos.register(Step::ReleaseCommand, plan);
    let (plan, image, owner) = (plan.clone(), image.to_owned(), steps.owner());
    let deploying = Some(DeploymentStatus::Deploying);
    steps
        .run(Step::ReleaseCommand, deploying, LIMITS, move |core| async move {
            once(&core, &plan, &image, &owner).await.map(Done::with)
        })
        .await
}

/// Ends the command and forgets that it was started.
pub(super) async fn forget(
    core: &Core,
    namespace: &str,
    id: &DeploymentId,
) -> Result<(), StepError> {
    match core.store.release_attempt(id).await? {
        Some(attempt) => core.runtime.delete_task(namespace, id, &task_id(attempt)).await,
        None => Ok(()),
    }
}

/// The command has ended and the journal knows how: its container is of no more
/// use. One that the runtime will not remove goes with the instances.
///
/// # Errors
/// The runtime is away, which what comes next needs too.
pub(super) async fn tidy(core: &Core, plan: &DeploymentPlan) -> Result<(), StepError> {
    let id = &plan.deployment_id;
    match forget(core, plan.environment_id.as_str(), id).await {
        Err(StepError::Permanent(failure)) => {
            tracing::warn!(deployment = %id, %failure, "the release command's container stays for now");
            Ok(())
        }
        tidied => tidied,
    }
}

/// One name for each attempt, whoever starts it.
fn task_id(attempt: u32) -> String {
    format!("release-{attempt}")
}

async fn once(
    core: &Arc<Core>,
    plan: &DeploymentPlan,
    image: &str,
    owner: &InvocationId,
) -> Result<(), StepError> {
    let id = &plan.deployment_id;
    let inputs = core.store.run_inputs(id).await?;
    let Some(release) = inputs.options.release.clone() else { return Ok(()) };
    let spec = run_spec(core, plan, image, inputs)?;
    // A runtime that is away must not leave the mark of a command that it may
    // have started.
    core.runtime.instances(plan.environment_id.as_str(), id).await?;
    let (attempt, join_only) = match core.store.mark_release(id, owner).await? {
        ReleaseMark::First { attempt } => (attempt, false),
        ReleaseMark::Again { attempt } => (attempt, true),
        ReleaseMark::Lost => {
            let message = format!("deployment `{id}` is another attempt's");
            return Err(StepError::permanent(ErrorCode::Overtaken, message));
        }
    };
    let limit = release.time_limit_ms.map_or(DEFAULT_LIMIT, |ms| Duration::from_millis(ms.into()));
    let task = TaskSpec {
        id: task_id(attempt),
        run: spec,
        command: release.command.clone(),
        time_limit: limit,
        join_only,
    };
    let (mut end, mut output) = logged(core, &task).await?;
    if end == TaskEnd::Unknown && release.idempotent {
        tracing::info!(deployment = %id, "the release command is lost and runs again");
        (end, output) = logged(core, &TaskSpec { join_only: false, ..task }).await?;
    }
    judged(&release, limit, end, output.tail())
}

/// Runs or joins it with its output in the deployment's log.
async fn logged(core: &Arc<Core>, task: &TaskSpec) -> Result<(TaskEnd, Output), StepError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let output = Output::of(core, task).await?;
    let writing = tokio::spawn(output.write(receiver));
    let end = core.runtime.run_task(task, sender).await;
    // The channel is closed now: the log is complete before the step ends.
    let mut output = writing.await.map_err(|error| {
        StepError::transient(ErrorCode::Internal, format!("the release command's log: {error}"))
    })?;
    let end = end?;
    output.ended(&end).await;
    Ok((end, output))
}

fn judged(
    release: &ReleaseCommand,
    limit: Duration,
    end: TaskEnd,
    tail: Vec<String>,
) -> Result<(), StepError> {
    let command = truncate_chars(&release.command.join(" "), SHOWN);
    let failed = |what: String| {
        let message = format!("the release command `{command}` {what}");
        Err(StepError::permanent(ErrorCode::ReleaseFailed, message).with_log_tail(tail))
    };
    match end {
        TaskEnd::Exited { timed_out: true, .. } => {
            failed(format!("did not end within its limit of {} s", limit.as_secs()))
        }
        TaskEnd::Exited { exit_code: 0, .. } => Ok(()),
        TaskEnd::Exited { exit_code, message, .. } => {
            let reason = if message.is_empty() { String::new() } else { format!(": {message}") };
            failed(format!("ended with code {exit_code}{reason}"))
        }
        TaskEnd::Unknown => Err(StepError::permanent(
            ErrorCode::ReleaseInterrupted,
            format!(
                "the release command `{command}` may have been started, and the runtime does not know it any \
                 more: whether it has run to its end is not known, and it is not run again unasked"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(end: TaskEnd) -> Result<(), StepError> {
        let command = vec!["bin/migrate".to_owned(), "up".to_owned()];
        let release = ReleaseCommand { command, idempotent: false, time_limit_ms: None };
        judged(&release, DEFAULT_LIMIT, end, vec!["no such table".to_owned()])
    }

    fn exited(exit_code: i32, timed_out: bool) -> TaskEnd {
        TaskEnd::Exited { exit_code, timed_out, message: String::new() }
    }

    #[test]
    fn only_an_end_with_zero_in_time_is_a_good_one() {
        assert!(judge(exited(0, false)).is_ok());
        for (end, says) in [
            (exited(3, false), "`bin/migrate up` ended with code 3"),
            (exited(0, true), "within its limit of 600 s"),
            (exited(137, true), "within its limit of 600 s"),
        ] {
            let Err(StepError::Permanent(failure)) = judge(end) else { panic!("{says}") };
            assert_eq!(failure.code, ErrorCode::ReleaseFailed);
            assert!(failure.message.contains(says), "{failure}");
            assert_eq!(failure.log_tail, ["no such table"]);
        }
        let Err(StepError::Permanent(failure)) = judge(TaskEnd::Unknown) else { panic!() };
        assert_eq!(failure.code, ErrorCode::ReleaseInterrupted);
    }
}
