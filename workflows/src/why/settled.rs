//! Deployments that have ended, well or not.

use super::{
    Facts, Limits, RestateView, Story,
    words::{doing, failure, span, subject, time, undone},
};
use crate::{
    engine::retry::restart_point,
    error::{ErrorCode, StepFailure},
    ports::{EvictionRecord, EvictionState},
    status::DeploymentStatus,
    step::Step,
};

pub(super) fn story(facts: &Facts, limits: &Limits) -> Story {
    if let (DeploymentStatus::Live | DeploymentStatus::Ready, Some(eviction)) =
        (facts.status, &facts.eviction)
    {
        return evicted(facts, eviction);
    }
    let story = match facts.status {
        DeploymentStatus::Live => live(facts, limits),
        DeploymentStatus::Ready => ready(facts, limits),
        DeploymentStatus::Built => built(facts),
        DeploymentStatus::Retiring => retiring(facts),
        DeploymentStatus::Retired => retired(facts),
        DeploymentStatus::Superseded => superseded(facts),
        DeploymentStatus::Cancelled => cancelled(facts),
        _ => failed(facts),
    };
    Story { since: facts.entered, ..story }
}

fn since(facts: &Facts) -> String {
    span(facts.now - facts.entered)
}

fn live(facts: &Facts, limits: &Limits) -> Story {
    let environment = &facts.environment.name;
    let at = facts.environment.url.as_ref().map(|url| format!(" at {url}")).unwrap_or_default();
    let mut told = vec![format!("{} has been live for {}{at}.", subject(facts), since(facts))];
    if let Some(running) = &facts.running {
        told.push(format!("Its workflow is still {}.", doing(running.step)));
    }
    let pinned = facts.environment.pinned.as_ref() == Some(&facts.deployment_id);
    if pinned {
        let id = &facts.deployment_id;
        told.push(format!("A rollback has pinned {environment} to it."));
        return Story {
            told,
            next: Some(format!("New deployments to {environment} end as ready instead of live.")),
            remedy: vec![format!(
                "`launchway promote {id}` keeps this one and lets new ones go live again; `launchway promote` \
                 of another one moves {environment} there."
            )],
            ..Story::default()
        };
    }
    Story {
        told,
        next: Some(format!(
            "It serves until another deployment of {environment} goes live. {}",
            kept(facts, limits)
        )),
        remedy: vec![format!(
            "`launchway rollback --project {} --env {environment}` serves the one before it again, if there is one.",
            facts.project
        )],
        ..Story::default()
    }
}

fn ready(facts: &Facts, limits: &Limits) -> Story {
    let (id, environment) = (&facts.deployment_id, &facts.environment.name);
    let own = facts.own_url.as_ref().map(|url| format!(" at {url}")).unwrap_or_default();
    let mut told = vec![format!("{} is healthy and answers{own}.", subject(facts))];
    let serves = facts.environment.live.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    told.push(match (&facts.environment.pinned, &facts.withheld) {
        (Some(pinned), _) => {
            format!("It does not serve {environment}, which a rollback has pinned to {pinned}.")
        }
        (None, Some(_)) => format!("It does not serve {environment}, which serves {serves}."),
        (None, None) => format!("It was live before; {environment} serves {serves} now."),
    });
    Story {
        told,
        next: Some(format!("It goes on running. {}", kept(facts, limits))),
        remedy: vec![format!("`launchway promote {id}` makes {environment} serve it.")],
        ..Story::default()
    }
}

/// It keeps its domains; requests for them wait until it has started.
fn evicted(facts: &Facts, eviction: &EvictionRecord) -> Story {
    let (id, subject) = (&facts.deployment_id, subject(facts));
    let ago = span(facts.now - eviction.since);
    let (tells, waiting_for, next) = match eviction.state {
        EvictionState::Evicting => (
            format!("{subject} has been stopping its instances for {ago}: nobody asked for it."),
            "its instances to stop",
            "Requests wait from now on; the first one starts it again.",
        ),
        EvictionState::Evicted => (
            format!(
                "{subject} is evicted: nobody asked for it, and its instances were stopped {ago} ago."
            ),
            "the first request",
            "The first request starts it, and is answered once an instance is ready.",
        ),
        EvictionState::Starting => (
            format!("{subject} was evicted {ago} ago and is being started again."),
            "its instances to be ready",
            "Requests that wait are answered by the first instance that is ready.",
        ),
    };
    let mut told = vec![tells];
    let failed = eviction.start_failure.as_ref();
    told.extend(failed.map(|cause| format!("Its last start has failed: {}", failure(cause))));
    Story {
        told,
        since: eviction.since,
        waiting_for: Some(waiting_for.to_owned()),
        next: Some(next.to_owned()),
        remedy: vec![format!(
            "`launchway promote {id}` starts it without a request; `idle_timeout = \"0s\"` in launchway.toml \
             keeps the next one running."
        )],
    }
}

fn built(facts: &Facts) -> Story {
    let id = &facts.deployment_id;
    Story {
        told: vec![format!(
            "Build {id} of {} has been done for {}. Only an image was asked for: nothing runs, and no domain has moved.",
            facts.project,
            since(facts)
        )],
        remedy: vec![format!(
            "`launchway inspect {id}` shows the image; `launchway deploy --image` with its reference deploys it."
        )],
        ..Story::default()
    }
}

/// What becomes of a deployment that does not serve its environment any more.
fn kept(facts: &Facts, limits: &Limits) -> String {
    let (environment, after) = (&facts.environment.name, time(limits.retire_after));
    let unless = match limits.keep_running {
        0 => "a branch's domain points to it".to_owned(),
        kept => format!(
            "it is among the newest {kept} that do not serve (`run.keep_running`) or a branch's domain points to it"
        ),
    };
    format!("{after} after a newer deployment of {environment} it is stopped, unless {unless}.")
}

fn retiring(facts: &Facts) -> Story {
    let id = &facts.deployment_id;
    Story {
        told: vec![format!(
            "{} has been stopping its instances for {}: no domain but its own points to it any more.",
            subject(facts),
            since(facts)
        )],
        waiting_for: Some("its instances to stop".to_owned()),
        next: Some("It is retired once they are gone.".to_owned()),
        remedy: vec![format!("`launchway promote {id}` starts it again.")],
        ..Story::default()
    }
}

fn retired(facts: &Facts) -> Story {
    let id = &facts.deployment_id;
    let own = facts.own_url.as_ref().map(|url| format!(" {url} answers 503.")).unwrap_or_default();
    Story {
        told: vec![format!(
            "{} was replaced, and its instances were stopped {} ago.{own}",
            subject(facts),
            since(facts)
        )],
        remedy: vec![format!(
            "`launchway promote {id}` starts it again and makes {} serve it.",
            facts.environment.name
        )],
        ..Story::default()
    }
}

fn superseded(facts: &Facts) -> Story {
    let id = &facts.deployment_id;
    let cause = facts.failure.as_ref().map(|cause| format!(": {}", failure(cause)));
    let told = vec![
        format!(
            "{} was superseded {} ago, before it was built{}",
            subject(facts),
            since(facts),
            cause.unwrap_or_else(|| ".".to_owned())
        ),
        NOTHING_MORE.to_owned(),
    ];
    Story {
        told,
        remedy: vec![
            format!(
                "The newer one has the newer source; `launchway redeploy {id}` builds this one anyway."
            ),
            page(ErrorCode::Superseded),
        ],
        ..Story::default()
    }
}

fn cancelled(facts: &Facts) -> Story {
    let at = ended_at(facts).map(|step| format!(" at `{step}`")).unwrap_or_default();
    let mut told = vec![format!("{} was cancelled{at} {} ago.", subject(facts), since(facts))];
    told.extend(undone(&facts.undone));
    told.push(outcome(facts));
    Story { told, remedy: again(facts, ""), ..Story::default() }
}

fn failed(facts: &Facts) -> Story {
    let Some(cause) = &facts.failure else {
        let told = vec![format!("{} failed {} ago.", subject(facts), since(facts))];
        return Story { told, remedy: again(facts, ""), ..Story::default() };
    };
    let at = cause.step.map(|step| format!(" at `{step}`")).unwrap_or_default();
    let (code, said) = (cause.code, failure(cause));
    let mut told =
        vec![format!("{} failed{at} {} ago with `{code}`: {said}", subject(facts), since(facts))];
    told.extend(undone(&facts.undone));
    told.push(outcome(facts));
    let mut remedy = remedy(facts, cause);
    if facts.undone.iter().any(|undone| undone.failed) {
        remedy.push(
            "What was not rolled back is taken over by a retry; otherwise remove it by hand."
                .to_owned(),
        );
    }
    remedy.push(page(cause.code));
    Story { told, remedy, ..Story::default() }
}

const NOTHING_MORE: &str = "Nothing more happens by itself.";

fn outcome(facts: &Facts) -> String {
    let environment = &facts.environment.name;
    match &facts.environment.live {
        Some(live) => format!("{NOTHING_MORE} Environment {environment} serves {live}."),
        None => format!("{NOTHING_MORE} Environment {environment} serves nothing yet."),
    }
}

fn page(code: ErrorCode) -> String {
    format!("More: docs/errors/{code}.md.")
}

/// What to do about a failure: the cause first, then how to go on.
fn remedy(facts: &Facts, cause: &StepFailure) -> Vec<String> {
    use ErrorCode as E;
    let id = &facts.deployment_id;
    let mut lines = vec![cause.code.remedy().to_owned()];
    match cause.code {
        E::ContextMissing | E::Overtaken | E::DeploymentUnknown => {}
        E::Superseded => lines = vec![format!("`launchway redeploy {id}` builds it anyway.")],
        // Their remedies are the ways to go on.
        E::Cancelled | E::Interrupted => lines = again(facts, ""),
        E::BuildFailed | E::DockerfileMissing => {
            lines.extend(build_log(facts));
            lines.push(SAME_SOURCE.to_owned());
        }
        E::InstanceExited | E::OutOfMemory | E::NotReady | E::RuntimeRejected => {
            lines.push("Then deploy again.".to_owned());
            lines.extend(again(facts, "Where the cause was outside of the image, "));
        }
        E::BaseImageUnavailable | E::BuildTimeout => {
            lines.extend(build_log(facts));
            lines.extend(again(facts, "Then "));
        }
        E::BuilderUnavailable if cause.step == Some(Step::AcquireSlot) => {
            lines = vec![NO_SLOT.to_owned()];
            lines.extend(again(facts, "Then "));
        }
        E::Internal => {
            lines = vec![format!("{DEFECT} `launchway inspect {id} --json` and the log of `up`.")];
            lines.extend(again(facts, ""));
        }
        _ => lines.extend(again(facts, "Then ")),
    }
    lines
}

const SAME_SOURCE: &str =
    "A retry builds the same source again: it helps only where the cause was outside of it.";
const NO_SLOT: &str =
    "Raise `build.concurrency` or `build.queue_time_limit`, or wait until fewer builds run.";
const DEFECT: &str = "This is a defect of launchway: please report it with";

fn build_log(facts: &Facts) -> Option<String> {
    let id = &facts.deployment_id;
    facts.builds.then(|| format!("`launchway logs {id} --build` has the whole output."))
}

/// How the same deployment can be run again.
fn again(facts: &Facts, when: &str) -> Vec<String> {
    let id = &facts.deployment_id;
    let retry = match retry_point(facts) {
        Some(step) => format!(
            "{when}`launchway retry {id}` goes on at `{step}` and keeps what is before it; `--from STEP` begins earlier."
        ),
        None => format!("{when}`launchway retry {id}` runs it again."),
    };
    match &facts.restate {
        RestateView::Known { .. } => vec![retry],
        RestateView::Forgotten => vec![format!(
            "{when}`launchway redeploy {id}` submits the same source anew; a retry is not possible, because \
             Restate has forgotten its journal."
        )],
        RestateView::Silent(_) => vec![
            retry,
            format!(
                "Restate does not answer now; should it have forgotten the journal, `launchway redeploy {id}` \
                 submits the same source anew."
            ),
        ],
    }
}

/// Where a retry without `--from` begins.
fn retry_point(facts: &Facts) -> Option<Step> {
    restart_point(None, ended_at(facts)?, &facts.undone).ok().map(|point| point.step)
}

fn ended_at(facts: &Facts) -> Option<Step> {
    facts.failure.as_ref().and_then(|failure| failure.step).or(facts.last_step)
}
