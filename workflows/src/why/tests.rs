//! One reviewed text per state, per error code and per hindrance. A new state
//! or code fails here until it has its text: `UPDATE_GOLDEN=1` writes them, and
//! a person reads the difference.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use super::*;
use crate::{
    error::{ErrorCode, StepFailure},
    ports::{EvictionRecord, EvictionState, WorkflowState},
};

const NOW: i64 = 1_790_000_000_000;
const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;

fn id(last: char) -> DeploymentId {
    format!("dep_0000000000000000000000000{last}").parse().unwrap()
}

fn limits() -> Limits {
    Limits {
        build: Duration::from_secs(1800),
        builds: 2,
        queue: Duration::from_secs(7200),
        ready: Duration::from_secs(60),
        retire_after: Duration::from_secs(30),
        keep_running: 1,
        resume_after: Duration::from_secs(120),
        lost_after: Duration::from_secs(25),
    }
}

fn running(step: Step, for_ms: i64) -> Option<Running> {
    let (tries, message) = (1, String::new());
    Some(Running { step, started_at: NOW - for_ms, tries, message, failure: None })
}

fn known(state: WorkflowState) -> RestateView {
    RestateView::Known { state, tries: 1, last_failure: None }
}

fn undid(step: Step, note: &str, failed: bool) -> Undone {
    Undone { step, note: note.to_owned(), failed }
}

/// A deployment in the state in the normal course of things.
fn facts(status: DeploymentStatus) -> Facts {
    use DeploymentStatus as S;
    let step = match status {
        S::Queued => running(Step::AcquireSlot, 2 * MINUTE),
        S::Building => running(Step::BuildImage, 3 * MINUTE),
        S::Pushing => running(Step::PushImage, 40 * SECOND),
        S::Deploying => running(Step::DeployToKrane, 8 * SECOND),
        S::Checking => running(Step::AwaitReady, 17 * SECOND),
        S::Routing => running(Step::AssignDomains, 200),
        _ => None,
    };
    let state = match status {
        S::Pending => WorkflowState::Waiting,
        S::Queued | S::Checking => WorkflowState::Suspended,
        status if status.is_settled() => WorkflowState::Completed,
        _ => WorkflowState::Running,
    };
    let live = if status == S::Live { id('1') } else { id('2') };
    let url = "http://shop-preview-local.localhost:8000/".to_owned();
    Facts {
        deployment_id: id('1'),
        status,
        entered: NOW - if status.is_settled() { 5 * MINUTE } else { 3 * SECOND },
        attempt: 1,
        project: "shop".to_owned(),
        environment: Environment {
            name: "preview".to_owned(),
            url: (status == S::Live).then_some(url),
            live: Some(live),
            pinned: None,
            supersedes: true,
        },
        own_url: status
            .has_served()
            .then(|| "http://shop-git-0123456-local.localhost:8000/".to_owned()),
        builds: true,
        last_step: step.as_ref().map(|running| running.step),
        running: step,
        eviction: None,
        stalled: None,
        cancelling: false,
        failure: None,
        undone: Vec::new(),
        restarted: None,
        withheld: None,
        restate: known(state),
        now: NOW,
    }
}

/// Each state as it is met most often.
fn of_state(status: DeploymentStatus) -> Facts {
    use DeploymentStatus as S;
    let plain = facts(status);
    match status {
        S::Queued => {
            let message = "position 3 of 4 in the queue: every build slot is taken".to_owned();
            let running = plain.running.clone().map(|running| Running { message, ..running });
            Facts { running, ..plain }
        }
        S::Retrying => Facts {
            attempt: 2,
            restarted: Some((
                "deploy-to-krane".to_owned(),
                "`deploy-to-krane` was taken back: stopped the instances".to_owned(),
            )),
            ..plain
        },
        S::Failed => of_code(ErrorCode::NotReady),
        S::Cancelled => of_code(ErrorCode::Cancelled),
        S::Superseded => of_code(ErrorCode::Superseded),
        _ => plain,
    }
}

/// What each error says where it is met, and at which step that is.
fn sample(code: ErrorCode) -> (Step, &'static str) {
    use ErrorCode as E;
    match code {
        E::BuildFailed => (Step::BuildImage, "process \"make\" did not complete: exit code: 2"),
        E::DockerfileMissing => (Step::BuildImage, "the context has no `Dockerfile`"),
        E::BaseImageUnavailable => (Step::BuildImage, "`alpine:9` does not exist"),
        E::BuildTimeout => {
            (Step::BuildImage, "`build-image` did not end within its limit of 1800 s")
        }
        E::ContextMissing => {
            (Step::PresignContext, "the object store has no context `contexts/a/b`")
        }
        E::ContextUnreachable => (Step::BuildImage, "the builder cannot read http://10.0.0.1:3902"),
        E::BuilderUnavailable => (Step::BuildImage, "the Docker engine does not answer"),
        E::BuilderOutOfDisk => (Step::BuildImage, "no space left on device"),
        E::RegistryAuth => (Step::PushImage, "registry.example.com: authentication required"),
        E::RegistryUnavailable => (Step::PushImage, "registry.example.com: connection refused"),
        E::ImageUnavailable => (Step::DeployToKrane, "the engine has no image `shop:1`"),
        E::RuntimeRejected => (Step::DeployToKrane, "the engine refuses 1 MiB of memory"),
        E::Unschedulable => (Step::DeployToKrane, "no node for it: 0/3 nodes are available"),
        E::QuotaExceeded => (Step::DeployToKrane, "exceeded quota: launchway, used: pods=10"),
        E::RuntimeUnavailable => (Step::DeployToKrane, "krane: connection refused"),
        E::ReleaseFailed => {
            (Step::ReleaseCommand, "the release command `bin/migrate up` ended with code 3")
        }
        E::ReleaseInterrupted => (
            Step::ReleaseCommand,
            "the release command `bin/migrate up` may have been started, and the runtime does not know it any more",
        ),
        E::InstanceExited => (Step::AwaitReady, "instance 1 exited with code 5"),
        E::OutOfMemory => (Step::AwaitReady, "instance 1 exited with code 137"),
        E::NotReady => (
            Step::AwaitReady,
            "0 of 1 instances were ready within 60 s: GET http://127.0.0.1:32768/ got 502 (61 probes)",
        ),
        E::StorageUnavailable => (Step::PresignContext, "the object store does not answer"),
        E::DatabaseUnavailable => (Step::AssignDomains, "database: connection refused"),
        E::Overtaken => (Step::AssignDomains, "the row is another invocation's"),
        E::DeploymentUnknown => {
            (Step::LoadDeployment, "there is no such deployment for this invocation to run")
        }
        E::Superseded => (
            Step::AcquireSlot,
            "the newer deployment dep_00000000000000000000000002 of the same branch took its place in the queue",
        ),
        E::Cancelled => (Step::BuildImage, "the deployment was cancelled"),
        E::Interrupted => {
            (Step::BuildImage, "the workflow was ended from outside before it was done")
        }
        E::Internal => {
            (Step::DeployToKrane, "`deploy-to-krane` did not end within its limit of 600 s")
        }
    }
}

/// An attempt that ended with the code, unwound as it is in that place.
fn of_code(code: ErrorCode) -> Facts {
    let (step, message) = sample(code);
    let mut failure = StepFailure::new(code, message);
    let status = match code {
        ErrorCode::Cancelled => DeploymentStatus::Cancelled,
        ErrorCode::Superseded => DeploymentStatus::Superseded,
        _ => DeploymentStatus::Failed,
    };
    if status != DeploymentStatus::Cancelled {
        failure = failure.at(step);
    }
    let prints = [ErrorCode::BuildFailed, ErrorCode::ReleaseFailed, ErrorCode::InstanceExited];
    if prints.contains(&code) {
        failure = failure.with_log_tail(vec!["DATABASE_URL is not set".to_owned(), String::new()]);
    }
    let mut undone = Vec::new();
    if step >= Step::DeployToKrane {
        undone.push(undid(Step::DeployToKrane, "stopped the instances", false));
    }
    if step == Step::ReleaseCommand {
        undone.push(undid(step, "removed the release command's container", false));
    }
    if step == Step::BuildImage {
        undone.push(undid(Step::BuildImage, "ended the build", false));
    }
    if (Step::AcquireSlot..=Step::BuildImage).contains(&step) {
        undone.push(undid(Step::AcquireSlot, "gave back the build slot", false));
    }
    Facts { failure: Some(failure), undone, last_step: Some(step), ..facts(status) }
}

/// What keeps deployments from going on, and the other ways to be in a state.
fn cases() -> Vec<(&'static str, Facts)> {
    use DeploymentStatus as S;
    let failing = |status, code, tries| {
        let (step, message) = sample(code);
        let failure = Some(StepFailure::new(code, message));
        let running = running(step, 90 * SECOND).map(|running| Running {
            tries,
            failure: failure.clone(),
            ..running
        });
        Facts { running, ..facts(status) }
    };
    let json =
        serde_json::to_string(&StepFailure::new(ErrorCode::StorageUnavailable, "503")).unwrap();
    let stalled =
        Some((NOW - 80 * SECOND, "Restate has paused the workflow (out of memory)".to_owned()));
    let backing_off = |last_failure: &str| RestateView::Known {
        state: WorkflowState::BackingOff,
        tries: 14,
        last_failure: Some(last_failure.to_owned()),
    };
    let silent = RestateView::Silent("http://127.0.0.1:9070/query: connection refused".to_owned());
    let left = undid(
        Step::DeployToKrane,
        "undo-deploy-to-krane failed and is left behind: krane: connection refused",
        true,
    );
    let slot =
        StepFailure::new(ErrorCode::BuilderUnavailable, "no build slot became free within 7200 s");
    let evicted = |state, start_failure| {
        let since = NOW - 40 * MINUTE;
        let eviction = Some(EvictionRecord { state, since, start_failure });
        Facts { eviction, ..facts(S::Live) }
    };
    let again = facts(S::Building).running.map(|running| Running { tries: 2, ..running });
    vec![
        ("evicting", evicted(EvictionState::Evicting, None)),
        ("evicted", evicted(EvictionState::Evicted, None)),
        (
            "evicted-start-failed",
            evicted(EvictionState::Evicted, of_code(ErrorCode::NotReady).failure),
        ),
        ("evicted-starting", evicted(EvictionState::Starting, None)),
        ("building-tried-again", failing(S::Building, ErrorCode::BuilderUnavailable, 3)),
        ("building-interrupted", Facts { running: again, ..facts(S::Building) }),
        ("building-between-steps", Facts { running: None, ..facts(S::Building) }),
        ("building-second-attempt", Facts { attempt: 2, ..facts(S::Building) }),
        (
            "worker-away",
            Facts {
                restate: backing_off("error trying to connect: connection refused"),
                ..facts(S::Checking)
            },
        ),
        (
            "step-fails-in-restate",
            Facts {
                restate: backing_off(&format!("[500] {json}")),
                ..failing(S::Building, ErrorCode::StorageUnavailable, 4)
            },
        ),
        (
            "stalled-paused",
            Facts {
                stalled,
                restate: RestateView::Known {
                    state: WorkflowState::Paused,
                    tries: 9,
                    last_failure: Some("out of memory".to_owned()),
                },
                ..facts(S::Deploying)
            },
        ),
        (
            "stalled-suspended",
            Facts {
                stalled: Some((
                    NOW - 70 * SECOND,
                    "the workflow is suspended and does not move".to_owned(),
                )),
                restate: known(WorkflowState::Suspended),
                ..facts(S::Routing)
            },
        ),
        ("restate-silent", Facts { restate: silent.clone(), ..facts(S::Building) }),
        ("queued-restate-silent", Facts { restate: silent.clone(), ..of_state(S::Queued) }),
        ("workflow-gone", Facts { restate: RestateView::Forgotten, ..facts(S::Building) }),
        ("pending-not-sent-yet", Facts { restate: RestateView::Forgotten, ..facts(S::Pending) }),
        (
            "pending-lost",
            Facts { restate: RestateView::Forgotten, entered: NOW - MINUTE, ..facts(S::Pending) },
        ),
        ("cancel-asked", Facts { cancelling: true, ..facts(S::Building) }),
        (
            "cancel-unwinds",
            Facts {
                cancelling: true,
                failure: of_code(ErrorCode::Cancelled).failure,
                ..facts(S::Building)
            },
        ),
        (
            "failure-unwinds",
            Facts { failure: of_code(ErrorCode::NotReady).failure, ..facts(S::Checking) },
        ),
        (
            "release-command",
            Facts { running: running(Step::ReleaseCommand, 9 * SECOND), ..facts(S::Deploying) },
        ),
        ("cancelled-before-it-began", facts(S::Cancelled)),
        (
            "failed-something-left-behind",
            Facts { undone: vec![left], ..of_code(ErrorCode::RuntimeUnavailable) },
        ),
        (
            "failed-and-forgotten",
            Facts { restate: RestateView::Forgotten, ..of_code(ErrorCode::RegistryUnavailable) },
        ),
        (
            "failed-restate-silent",
            Facts { restate: silent, ..of_code(ErrorCode::RegistryUnavailable) },
        ),
        (
            "failed-no-slot",
            Facts {
                failure: Some(slot.at(Step::AcquireSlot)),
                undone: vec![undid(Step::AcquireSlot, "gave back the build slot", false)],
                ..of_code(ErrorCode::BuilderUnavailable)
            },
        ),
        ("failed-second-attempt", Facts { attempt: 2, ..of_code(ErrorCode::BuildTimeout) }),
        (
            "live-after-commit-steps",
            Facts { running: running(Step::ScrapeOpenapi, 100), ..facts(S::Live) },
        ),
        (
            "live-pinned",
            Facts {
                environment: Environment { pinned: Some(id('1')), ..facts(S::Live).environment },
                ..facts(S::Live)
            },
        ),
        (
            "ready-pinned-elsewhere",
            Facts {
                withheld: Some("pinned".to_owned()),
                environment: Environment { pinned: Some(id('2')), ..facts(S::Ready).environment },
                ..facts(S::Ready)
            },
        ),
        ("ready-newer-is-live", Facts { withheld: Some("newer".to_owned()), ..facts(S::Ready) }),
    ]
}

fn all() -> BTreeMap<String, Facts> {
    let states = DeploymentStatus::ALL.map(|status| (format!("state-{status}"), of_state(status)));
    let codes = ErrorCode::ALL.iter().map(|code| (format!("error-{code}"), of_code(*code)));
    let cases = cases().into_iter().map(|(name, facts)| (format!("case-{name}"), facts));
    states.into_iter().chain(codes).chain(cases).collect()
}

fn shown(explanation: &Explanation) -> String {
    let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "state:       {}\nwaiting for: {}\nsince:       {} s\nnext:        {}\nremedy:      {}\n\n{}\n",
        explanation.state,
        or_nothing(&explanation.waiting_for),
        (NOW - explanation.since) / SECOND,
        or_nothing(&explanation.next),
        or_nothing(&explanation.remedy),
        explanation.paragraph
    )
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/why/golden")
}

#[test]
fn every_state_and_every_error_code_has_its_reviewed_text() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, facts) in all() {
        let file = golden().join(format!("{name}.txt"));
        let text = shown(&explain(&facts, &limits()));
        if update {
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push(format!("{name}:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "not as reviewed; UPDATE_GOLDEN=1 rewrites:\n{}", wrong.join("\n"));
}

#[test]
fn no_reviewed_text_is_left_of_what_is_not_there_any_more() {
    let known = all();
    for file in fs::read_dir(golden()).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(known.contains_key(&name), "{name} explains nothing any more: remove it");
    }
}

#[test]
fn every_text_names_the_deployment_and_what_to_do_where_it_did_not_end_well() {
    for (name, facts) in all() {
        let explanation = explain(&facts, &limits());
        assert!(explanation.paragraph.contains(facts.deployment_id.as_str()), "{name}");
        assert!(explanation.remedy.is_some(), "{name}");
        let waits = !facts.status.is_settled()
            || facts.status == DeploymentStatus::Retiring
            || facts.eviction.is_some();
        assert_eq!(explanation.waiting_for.is_some(), waits, "{name}");
        if let (DeploymentStatus::Failed, Some(failure)) = (facts.status, &facts.failure) {
            let page = format!("docs/errors/{}.md", failure.code);
            assert!(explanation.paragraph.contains(&page), "{name}");
        }
        for broken in ["  ", "..", " .", "``", "{", "}"] {
            assert!(!explanation.paragraph.contains(broken), "{name}: `{broken}`");
        }
    }
}
