//! Commands beside the instances, on a Docker engine: one whose caller was lost is
//! found and removed, and no other.

use launchway::store::Role;
use launchway_proto::{
    ctrl::v1::{
        RunCommandRequest, RunCommandResponse, runtime_service_client::RuntimeServiceClient,
    },
    krane::v1::{TaskEvent, task_event::Event},
};
use launchway_workflows::ids::{DeploymentId, WorkspaceId};
use serde_json::{Value, json};
use tonic::{Request, Streaming};

use crate::support::{Installation, Process, eventually, now_ms};

const SETTINGS: [&str; 2] = ["retention.left_overs=1s", "recovery.every=1s"];
const KEY: &str = "lwk_of_the_test";
/// Until it is asked to end.
const ENDLESS: &str = "trap 'exit 0' TERM; /bin/busybox sleep 600 & wait";

/// A command that does not end, once it runs.
async fn run(here: &Installation, id: &DeploymentId) -> Streaming<RunCommandResponse> {
    let url = format!("http://{}", here.address("control.bind"));
    let mut control = RuntimeServiceClient::connect(url).await.unwrap();
    let mut request = Request::new(RunCommandRequest {
        deployment_id: id.to_string(),
        command: ["/bin/busybox", "sh", "-c", ENDLESS].map(str::to_owned).to_vec(),
        replace_entrypoint: true,
        ..RunCommandRequest::default()
    });
    request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    let mut events = control.run_command(request).await.unwrap().into_inner();
    loop {
        let message = events.message().await.unwrap().expect("it starts");
        if let Some(TaskEvent { event: Some(Event::Started(_)) }) = message.event {
            return events;
        }
    }
}

/// Tasks that are found as left-overs.
async fn found(here: &Installation, dry_run: bool) -> Vec<String> {
    let body = json!({ "dry_run": dry_run });
    let swept = here.ask("Janitor/local/sweep", &body).await.unwrap();
    let items = swept["items"].as_array().unwrap().iter();
    let tasks = items.filter(|item| item["kind"] == "task");
    tasks.map(|item: &Value| item["task"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_control_was_killed_is_removed_and_one_that_is_attended_stays() {
    let mut here = Installation::apart_on_docker(&SETTINGS, None).await;
    let local = WorkspaceId::local();
    here.store.add_api_key(&local, Role::Admin, KEY).await.unwrap();
    let id = here.deploy("shop").await;
    // The sweep of this hour is sent once: another control must not be the first to.
    eventually("the sweep of this hour has ended", async || {
        let sql = "SELECT id FROM sys_invocation WHERE target_service_name = 'Janitor' \
                   AND status = 'completed'";
        (!here.query(sql).await?.is_empty()).then_some(())
    })
    .await;
    let mut lost = run(&here, &id).await;
    let [left] = &here.outside.tasks(&id)[..] else { panic!("it does not run") };
    here.kill(Process::Control);
    assert!(lost.message().await.is_err());
    here.start(Process::Control).await;
    let (attended, begun) = (run(&here, &id).await, now_ms());
    eventually("the lost one is found", async || {
        (!found(&here, true).await.is_empty()).then_some(())
    })
    .await;
    let both = here.outside.tasks(&id);
    assert_eq!(both.len(), 2, "a dry run removes nothing: {both:?}");
    eventually("the other one is as old", async || (now_ms() > begun + 1500).then_some(())).await;
    for dry_run in [true, false] {
        assert_eq!(found(&here, dry_run).await, std::slice::from_ref(left));
    }
    let stays: Vec<_> = both.into_iter().filter(|task| task != left).collect();
    assert_eq!(here.outside.tasks(&id), stays);
    drop(attended);
    eventually("it goes with its caller", async || {
        here.outside.tasks(&id).is_empty().then_some(())
    })
    .await;
}
