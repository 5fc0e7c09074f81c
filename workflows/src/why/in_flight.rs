//! Deployments that a workflow owns.

use super::{
    Facts, Limits, RestateView, Running, Story,
    words::{doing, ended, failure, millis, span, subject, time, until, waiting_for},
};
use crate::{
    engine::steps::exhausted,
    error::ErrorCode,
    ports::WorkflowState,
    services::deployment::{APPLY_LIMIT, PUSH_LIMIT},
    status::DeploymentStatus,
    step::Step,
};

pub(super) fn story(facts: &Facts, limits: &Limits) -> Story {
    let mut story = match (facts.failure.is_some(), facts.cancelling) {
        (false, false) => working(facts, limits),
        _ => ending(facts),
    };
    hindered(&mut story, facts, limits);
    story
}

fn working(facts: &Facts, limits: &Limits) -> Story {
    match facts.status {
        DeploymentStatus::Pending => pending(facts),
        DeploymentStatus::Retrying => retrying(facts),
        status => match &facts.running {
            Some(running) => step(facts, running, limits),
            None => between(facts, status),
        },
    }
}

fn follow(facts: &Facts) -> String {
    let id = &facts.deployment_id;
    format!(
        "`launchway watch {id}` follows it; `launchway cancel {id}` ends it and takes back what it has started."
    )
}

fn pending(facts: &Facts) -> Story {
    let since = span(facts.now - facts.entered);
    Story {
        told: vec![format!(
            "{} was accepted {since} ago and its workflow has not begun.",
            subject(facts)
        )],
        waiting_for: Some("a worker to begin its workflow".to_owned()),
        since: facts.entered,
        next: Some(
            "It begins by itself as soon as a worker takes it, as a rule within a second."
                .to_owned(),
        ),
        remedy: vec![follow(facts)],
    }
}

fn retrying(facts: &Facts) -> Story {
    let since = span(facts.now - facts.entered);
    let (at, why) = facts.restarted.clone().unwrap_or_default();
    let at = if at.is_empty() { String::new() } else { format!(" at `{at}` ({why})") };
    Story {
        told: vec![format!(
            "{} was asked {since} ago to run again{at}; what is before that is kept.",
            subject(facts)
        )],
        waiting_for: Some("its restarted workflow to begin".to_owned()),
        since: facts.entered,
        next: Some("It begins by itself, as a rule within a second.".to_owned()),
        remedy: vec![follow(facts)],
    }
}

/// The rows are written at the start and end of steps; between two there is
/// nothing that runs.
fn between(facts: &Facts, status: DeploymentStatus) -> Story {
    Story {
        told: vec![format!("{} is {status}, between two steps.", subject(facts))],
        waiting_for: Some("its next step to begin".to_owned()),
        since: facts.entered,
        next: Some("The next step begins by itself, as a rule within a second.".to_owned()),
        remedy: vec![follow(facts)],
    }
}

fn step(facts: &Facts, running: &Running, limits: &Limits) -> Story {
    let step = running.step;
    let since = span(facts.now - running.started_at);
    let mut told =
        vec![format!("{} has been {} for {since} (step `{step}`).", subject(facts), doing(step))];
    if let (DeploymentStatus::Queued, false) = (facts.status, running.message.is_empty()) {
        // Without Restate the place is the one it had at first.
        let when = match facts.restate {
            RestateView::Silent(_) => "When it joined the queue: ",
            _ => "It is at ",
        };
        told.push(format!("{when}{}.", ended_off(&running.message)));
    }
    let mut remedy = vec![advice(facts, step)];
    if let Some(last) = &running.failure {
        let tries = match running.tries {
            0 | 1 => "Its first try failed".to_owned(),
            tries => format!("It is at try {tries}; the last failure"),
        };
        told.push(format!("{tries}: {} ({}).", ended_off(&last.message), last.code));
        remedy.insert(0, last.code.remedy().to_owned());
    } else if running.tries > 1 {
        told.push(format!(
            "It is at try {}: the one before was interrupted, not failed.",
            running.tries
        ));
    }
    Story {
        told,
        waiting_for: Some(match step {
            Step::AcquireSlot => format!("one of the workspace's {} build slots", limits.builds),
            step => waiting_for(step).to_owned(),
        }),
        since: running.started_at,
        next: Some(match &running.failure {
            Some(last) => format!("{} {}", tried_again(last.code), next(facts, running, limits)),
            None => next(facts, running, limits),
        }),
        remedy,
    }
}

fn tried_again(code: ErrorCode) -> String {
    format!(
        "It is tried again within a second, until its tries are used up; then it ends as failed (`{code}`)."
    )
}

fn ended_off(text: &str) -> &str {
    text.trim().trim_end_matches('.')
}

fn advice(facts: &Facts, step: Step) -> String {
    let id = &facts.deployment_id;
    match step {
        Step::AcquireSlot => format!(
            "More builds at once: raise `build.concurrency`. `launchway cancel {id}` leaves the queue."
        ),
        Step::BuildImage => format!(
            "`launchway logs {id} --build -f` shows the build's output; `launchway cancel {id}` ends the build."
        ),
        Step::ReleaseCommand => format!(
            "`launchway logs {id} --release -f` shows the command's output; `launchway cancel {id}` ends it."
        ),
        _ => follow(facts),
    }
}

fn next(facts: &Facts, running: &Running, limits: &Limits) -> String {
    let at = |limit| until(running.started_at + millis(limit), facts.now);
    match running.step {
        Step::AcquireSlot => {
            let newer = match facts.environment.supersedes {
                true => " A newer deployment of its branch takes its place.",
                false => "",
            };
            format!(
                "It builds as soon as a slot is free; production goes first.{newer} \
                 Without a slot it ends as failed {} (`build.queue_time_limit` is {}).",
                at(limits.queue),
                time(limits.queue)
            )
        }
        Step::BuildImage => held(
            running,
            "Once built, it is pushed and its instances start.",
            &Limit {
                key: "`build.time_limit` is ",
                limit: limits.build,
                code: ErrorCode::BuildTimeout,
                at: at(limits.build),
            },
        ),
        Step::PushImage => held(
            running,
            "Once pushed, its instances start.",
            &Limit {
                key: "the limit is ",
                limit: PUSH_LIMIT,
                code: ErrorCode::Internal,
                at: at(PUSH_LIMIT),
            },
        ),
        Step::ReleaseCommand => format!(
            "Once it has ended with 0, the instances start. With another exit code, or at the end of \
             `release_time_limit`, it ends as failed (`{}`).",
            ErrorCode::ReleaseFailed
        ),
        Step::DeployToKrane => held(
            running,
            "Once they run, it waits until they are ready.",
            &Limit {
                key: "the limit is ",
                limit: APPLY_LIMIT,
                code: ErrorCode::Internal,
                at: at(APPLY_LIMIT),
            },
        ),
        Step::AwaitReady => format!(
            "Its domains move as soon as every instance is ready; until then the environment serves what \
             it served before. If they are not ready {} (`run.ready_timeout` is {}), they are stopped and it \
             ends as failed (`{}`).",
            at(limits.ready),
            time(limits.ready),
            ErrorCode::NotReady
        ),
        Step::AssignDomains => "It is live in a moment.".to_owned(),
        _ => "Then the next step follows by itself.".to_owned(),
    }
}

/// Of one try of a step.
struct Limit {
    key: &'static str,
    limit: std::time::Duration,
    code: ErrorCode,
    at: String,
}

fn held(running: &Running, then: &str, limit: &Limit) -> String {
    let (key, length, code) = (limit.key, time(limit.limit), limit.code);
    // Only the start of the first try is recorded.
    match running.tries {
        0 | 1 => {
            let at = &limit.at;
            format!("{then} If it is not done {at} ({key}{length}), it ends as failed (`{code}`).")
        }
        _ => format!(
            "{then} If a try takes longer than its limit ({key}{length}), it ends as failed (`{code}`)."
        ),
    }
}

/// It does not go on: what it has started is taken back.
fn ending(facts: &Facts) -> Story {
    let id = &facts.deployment_id;
    let cause = facts.failure.as_ref().filter(|failure| failure.code != ErrorCode::Cancelled);
    let (told, end) = match (cause, &facts.failure) {
        (Some(cause), _) => {
            let at = cause.step.map(|step| format!(" at `{step}`")).unwrap_or_default();
            let what = failure(cause);
            let told = format!(
                "{} has failed{at}: {what} What it had started is being taken back.",
                subject(facts)
            );
            (told, if cause.code == ErrorCode::Superseded { "superseded" } else { "failed" })
        }
        (None, Some(_)) => {
            let told = format!(
                "{} was cancelled; what it had started is being taken back.",
                subject(facts)
            );
            (told, "cancelled")
        }
        (None, None) => {
            let told = format!(
                "{} was asked to end while it is {}; its workflow is being told.",
                subject(facts),
                facts.status
            );
            (told, "cancelled")
        }
    };
    Story {
        told: vec![told],
        waiting_for: Some("what it had started to be taken back".to_owned()),
        since: facts.entered,
        next: Some(format!("It ends as {end} once that is done.")),
        remedy: vec![format!("`launchway watch {id}` follows it.")],
    }
}

/// What keeps the workflow from going on, if anything does.
fn hindered(story: &mut Story, facts: &Facts, limits: &Limits) {
    let doctor = || "`launchway doctor` says which part does not answer.".to_owned();
    if let Some((since, why)) = &facts.stalled {
        let time = span(facts.now - since);
        story.told.push(format!("It has made no progress for {time}: {}", ended(why)));
        story.since = *since;
        story.remedy.insert(0, doctor());
    }
    match &facts.restate {
        RestateView::Silent(why) => {
            story.told.push(format!(
                "Restate does not answer, so what its workflow does now is not known ({}).",
                ended_off(why)
            ));
            story.waiting_for = Some("Restate to answer".to_owned());
            story.next = Some(
                "A step that runs may end; the one after it begins once Restate is back. Nothing is lost."
                    .to_owned(),
            );
            if facts.stalled.is_none() {
                story.remedy.insert(0, doctor());
            }
        }
        RestateView::Forgotten => gone(story, facts, limits),
        RestateView::Known { state, tries, last_failure } => {
            known(story, facts, limits, (*state, *tries, last_failure.as_deref()));
        }
    }
}

/// Restate has no workflow of it. Just submitted or retried, it may follow.
fn gone(story: &mut Story, facts: &Facts, limits: &Limits) {
    let starting = matches!(facts.status, DeploymentStatus::Pending | DeploymentStatus::Retrying);
    let lost = facts.now - facts.entered >= millis(limits.lost_after);
    if starting && !lost {
        return;
    }
    story.told.push("Restate has no unfinished workflow of it.".to_owned());
    story.waiting_for = Some("its workflow to be missed and unwound".to_owned());
    story.next = Some(format!(
        "What it had started is taken back by itself within {}, and it ends as failed (`{}`).",
        time(limits.lost_after),
        ErrorCode::Interrupted
    ));
}

fn known(
    story: &mut Story,
    facts: &Facts,
    limits: &Limits,
    (state, tries, last_failure): (WorkflowState, u64, Option<&str>),
) {
    // A step's own failure comes back through Restate: it is told already.
    let told = facts.running.as_ref().is_some_and(|running| running.failure.is_some());
    let cause = last_failure.filter(|_| !told).map(|text| {
        let failure = exhausted(text);
        format!(": {}", ended_off(&failure.message))
    });
    let cause = cause.unwrap_or_default();
    match state {
        WorkflowState::Completed => gone(story, facts, limits),
        WorkflowState::Paused if facts.stalled.is_some() => {
            story.waiting_for = Some("its workflow to be resumed".to_owned());
            story.next = Some(resumed(facts, limits));
        }
        WorkflowState::Paused => {
            story.told.push(format!("Restate has paused its workflow after {tries} tries{cause}."));
            story.waiting_for = Some("its workflow to be resumed".to_owned());
            story.next = Some(resumed(facts, limits));
        }
        WorkflowState::BackingOff if !told => {
            if facts.stalled.is_none() {
                story.told.push(format!(
                    "Restate cannot run its workflow at the moment (try {tries}){cause}."
                ));
            }
            story.waiting_for = Some("a worker that takes up its workflow".to_owned());
            story.next = Some(
                "Restate tries again at least once a second; it goes on where it was as soon as a worker answers."
                    .to_owned(),
            );
        }
        WorkflowState::Suspended if facts.stalled.is_some() => {
            story.next = Some(resumed(facts, limits));
        }
        _ => {}
    }
}

fn resumed(facts: &Facts, limits: &Limits) -> String {
    let from = facts.stalled.as_ref().map_or(facts.entered, |(since, _)| *since);
    let at = until(from + millis(limits.resume_after), facts.now);
    format!(
        "It is set going again by itself {at} (`recovery.resume_after` is {}) and goes on where it was.",
        time(limits.resume_after)
    )
}
