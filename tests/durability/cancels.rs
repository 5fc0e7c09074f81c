//! Cancel works at every point of every step up to the commit point, and says
//! "too late" from there on.

use launchway::restate::RestateError;
use launchway_workflows::{
    engine::failpoint::Point, error::ErrorCode, ids::DeploymentId, status::DeploymentStatus,
    step::Step,
};
use serde_json::{Value, json};

use crate::{
    effects::{assert_clean_slate, assert_single_effects},
    support::Installation,
};

const SETTINGS: [&str; 1] = ["build.concurrency=64"];

/// Whether the domains have moved at this point of the step.
fn committed(step: Step, point: Point) -> bool {
    step > Step::AssignDomains || (step == Step::AssignDomains && point != Point::Before)
}

async fn cancel(here: &Installation, id: &DeploymentId, key: &str) -> Result<Value, RestateError> {
    let body = json!({ "deployment_id": id });
    here.ingress.call("Deployments/cancel", &format!("{id}-{key}"), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_at_any_point_before_the_commit_nothing_of_it_is_left() {
    let here = Installation::together(&SETTINGS, &[]).await;
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    for point in Point::ALL {
        cancel_all_at(&here, &projects, point).await;
    }
    here.assert_nothing_ran_twice_at_once();
    for id in here.submit_all(&projects).await {
        here.ended(std::slice::from_ref(&id)).await;
        assert_single_effects(&here, &id).await;
    }
}

async fn cancel_all_at(here: &Installation, projects: &[String], point: Point) {
    let before = here.submit_all(projects).await;
    here.ended(&before).await;
    Step::ALL.iter().for_each(|step| here.arm(step.name(), point.name()));
    let ids = here.submit_all(projects).await;
    let parked = here.parked_at_all(point).await;
    for (step, id) in &parked {
        let context = format!("{step} {}", point.name());
        match cancel(here, id, "first").await {
            Ok(answer) => {
                assert_eq!(answer["found"], "asked", "{context}: {answer}");
                assert!(!committed(*step, point), "{context}");
                // Twice is fine.
                cancel(here, id, "second").await.unwrap();
            }
            Err(RestateError::Refused { status: 409, message }) => {
                assert!(committed(*step, point), "{context}: {message}");
                assert!(message.contains("too late"), "{context}: {message}");
            }
            Err(error) => panic!("{context}: {error}"),
        }
    }
    Step::ALL.iter().for_each(|step| here.release(step.name(), point.name()));
    for (step, id) in &parked {
        if committed(*step, point) {
            here.wait(id, DeploymentStatus::Live).await;
            here.ended(std::slice::from_ref(id)).await;
            assert_single_effects(here, id).await;
            continue;
        }
        let shown = here.wait(id, DeploymentStatus::Cancelled).await;
        assert_eq!(shown.failure.as_ref().unwrap().code, ErrorCode::Cancelled, "{shown:#?}");
        let running = shown.steps.iter().any(|row| row.status == "running");
        assert!(!running, "{step} {}: {shown:#?}", point.name());
        let at = ids.iter().position(|known| known == id).unwrap();
        assert_clean_slate(here, id, &before[at]).await;
    }
}
