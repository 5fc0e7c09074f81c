//! A deployment that fails at any step leaves a clean slate, whatever else
//! happens while it unwinds.

use std::collections::{HashMap, HashSet};

use launchway::store::DeploymentView;
use launchway_workflows::{
    error::ErrorCode, ids::DeploymentId, status::DeploymentStatus, step::Step,
};

use crate::{
    chaos::SLOWLY_READY,
    effects::{assert_clean_slate, assert_single_effects},
    support::{Installation, eventually},
};

const SETTINGS: [&str; 3] = ["build.concurrency=64", "recovery.every=1s", "recovery.grace=1s"];
/// Using up the tries of a step takes a second instead of half a minute.
const TRIES: u32 = 4;
/// The code of what fails for good, and of what is tried in vain.
const FOR_GOOD: ErrorCode = ErrorCode::RuntimeRejected;
const IN_VAIN: ErrorCode = ErrorCode::RegistryUnavailable;

/// Something that goes wrong, and what has to come of it.
struct Fault {
    name: &'static str,
    kind: &'static str,
    /// `None`: it is live all the same.
    fails_at: Option<(Step, ErrorCode)>,
}

async fn installation() -> Installation {
    let tries = TRIES.to_string();
    let tries = ("LAUNCHWAY_FAILPOINT_TRIES", tries.as_str());
    Installation::together(&SETTINGS, &[&[tries], SLOWLY_READY].concat()).await
}

/// Every step in both ways, and what they call.
fn faults() -> Vec<Fault> {
    let fails = |step: Step, code| (step <= Step::AssignDomains).then_some((step, code));
    let of_step = |step: Step| {
        [("fail", FOR_GOOD), ("exhaust", IN_VAIN)].map(|(kind, code)| Fault {
            name: step.name(),
            kind,
            fails_at: fails(step, code),
        })
    };
    let called = [
        ("grant-slot", "fail", Some((Step::AcquireSlot, FOR_GOOD))),
        ("watch-instances", "exhaust", Some((Step::AwaitReady, IN_VAIN))),
        ("commit-routes", "exhaust", Some((Step::AssignDomains, IN_VAIN))),
        // The commit took place, though nobody was told: it stands.
        ("committed-routes", "exhaust", None),
    ];
    let called = called.map(|(name, kind, fails_at)| Fault { name, kind, fails_at });
    Step::ALL.into_iter().flat_map(of_step).chain(called).collect()
}

fn projects(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("shop-{number}")).collect()
}

/// One live deployment for each project.
async fn live(here: &Installation, projects: &[String]) -> Vec<DeploymentId> {
    let ids = here.submit_all(projects).await;
    here.ended(&ids).await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_step_fails_nothing_of_it_is_left_and_the_previous_one_serves_on() {
    let here = installation().await;
    let faults = faults();
    let projects = projects(faults.len());
    let before = live(&here, &projects).await;
    for fault in &faults {
        let code = if fault.kind == "fail" { FOR_GOOD } else { IN_VAIN };
        here.break_at(fault.name, fault.kind, code);
    }
    let ids = here.submit_all(&projects).await;
    let served = settled(&here, &ids).await;
    let predecessor: HashMap<_, _> = ids.iter().zip(&before).collect();
    let mut failed = HashSet::new();
    for fault in &faults {
        let context = format!("{}.{}", fault.name, fault.kind);
        let id = here.taken(fault.name, fault.kind).unwrap_or_else(|| panic!("{context}: untaken"));
        let shown = here.view(&id).await;
        match fault.fails_at {
            Some((step, code)) => {
                assert_failed(&shown, fault, step, code);
                assert_clean_slate(&here, &id, predecessor[&id]).await;
                let host = environment_of(&here, predecessor[&id]).await;
                assert_eq!(served[&host], HashSet::from([predecessor[&id].clone()]), "{context}");
                failed.insert(id);
            }
            None => {
                here.ended(std::slice::from_ref(&id)).await;
                let shown = assert_single_effects(&here, &id).await;
                let of_step = fault.name.parse::<Step>().is_ok();
                let warned = shown.warnings.iter().any(|text| text.starts_with(fault.name));
                assert_eq!(warned, of_step, "{context}: {:?}", shown.warnings);
            }
        }
    }
    assert!(ids.iter().any(|id| !failed.contains(id)), "every one has failed");
    eventually("no slot is held", async || here.slot_holders().await.is_empty().then_some(()))
        .await;
    for id in live(&here, &projects).await {
        assert_single_effects(&here, &id).await;
    }
}

/// Returns when each has ended, with everything that each hostname was seen to
/// point to meanwhile.
async fn settled(
    here: &Installation,
    ids: &[DeploymentId],
) -> HashMap<String, HashSet<DeploymentId>> {
    let mut served: HashMap<String, HashSet<DeploymentId>> = HashMap::new();
    eventually("every deployment has ended", async || {
        for route in here.store.route_rows().await.unwrap() {
            served.entry(route.host).or_default().insert(route.deployment_id);
        }
        for id in ids {
            if !here.view(id).await.status.is_settled() {
                return None;
            }
        }
        Some(())
    })
    .await;
    served
}

async fn environment_of(here: &Installation, id: &DeploymentId) -> String {
    here.view(id).await.environment_domain.expect("it is live")
}

fn assert_failed(shown: &DeploymentView, fault: &Fault, step: Step, code: ErrorCode) {
    let context = format!("{}.{}: {shown:#?}", fault.name, fault.kind);
    assert_eq!(shown.status, DeploymentStatus::Failed, "{context}");
    let failure = shown.failure.as_ref().unwrap_or_else(|| panic!("no failure: {context}"));
    assert_eq!((failure.step, failure.code), (Some(step), code), "{context}");
    assert!(failure.message.contains("injected by a test"), "{context}");
    let row = shown.steps.iter().find(|row| row.name == step.name()).unwrap();
    assert_eq!(row.status, "failed", "{context}");
    if fault.kind == "exhaust" && fault.name == step.name() {
        assert_eq!(row.tries, TRIES, "{context}");
    }
    let undone: Vec<_> = shown.undone.iter().map(|undone| undone.step).collect();
    assert_eq!(undone, undone_at(step), "{context}");
    assert!(!shown.undone.iter().any(|undone| undone.failed), "{context}");
}

/// What has to be taken back when the attempt ends at the step.
fn undone_at(step: Step) -> Vec<Step> {
    let mut undone = Vec::new();
    if (Step::DeployToKrane..=Step::AssignDomains).contains(&step) {
        undone.push(Step::DeployToKrane);
    }
    if (Step::ReleaseCommand..=Step::AssignDomains).contains(&step) {
        undone.push(Step::ReleaseCommand);
    }
    if step == Step::BuildImage {
        undone.push(Step::BuildImage);
    }
    if (Step::AcquireSlot..=Step::ReleaseSlot).contains(&step) {
        undone.push(Step::AcquireSlot);
    }
    undone
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_during_an_unwind_change_nothing() {
    let here = installation().await;
    let projects = projects(1);
    let before = live(&here, &projects).await;
    here.break_at("await-ready", "fail", ErrorCode::NotReady);
    here.arm("undo-deploy-to-krane", "before");
    let id = here.submit(&projects[0]).await;
    here.parked("undo-deploy-to-krane", "before").await;
    let workflow = here.unfinished(&id).await.unwrap();
    assert_eq!(workflow.len(), 1);
    for _ in 0..3 {
        here.end_invocation(&workflow[0], "cancel").await;
    }
    here.release("undo-deploy-to-krane", "before");
    let shown = here.wait(&id, DeploymentStatus::Failed).await;
    let failure = shown.failure.as_ref().unwrap();
    assert_eq!((failure.step, failure.code), (Some(Step::AwaitReady), ErrorCode::NotReady));
    let undone: Vec<_> = shown.undone.iter().map(|undone| undone.step).collect();
    assert_eq!(undone, undone_at(Step::AwaitReady), "{shown:#?}");
    assert!(!shown.undone.iter().any(|undone| undone.failed), "{shown:#?}");
    assert_clean_slate(&here, &id, &before[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_fails_is_shown_and_hides_neither_the_error_nor_other_undos() {
    let here = installation().await;
    let projects = projects(2);
    live(&here, &projects).await;
    for (kind, project) in ["fail", "exhaust"].iter().zip(&projects) {
        here.break_at("build-image", "fail", ErrorCode::BuildFailed);
        here.break_at("undo-build-image", kind, ErrorCode::BuilderUnavailable);
        let id = here.submit(project).await;
        let shown = here.wait(&id, DeploymentStatus::Failed).await;
        let failure = shown.failure.as_ref().unwrap();
        assert_eq!((failure.step, failure.code), (Some(Step::BuildImage), ErrorCode::BuildFailed));
        let undone: Vec<_> =
            shown.undone.iter().map(|undone| (undone.step, undone.failed)).collect();
        assert_eq!(undone, [(Step::BuildImage, true), (Step::AcquireSlot, false)], "{shown:#?}");
        let note = &shown.undone[0].note;
        assert!(note.contains("left behind") && note.contains("injected by a test"), "{note}");
        here.release("build-image", "fail");
        here.release("undo-build-image", kind);
        eventually("its slot is free", async || here.slot_holders().await.is_empty().then_some(()))
            .await;
    }
}
