//! Output of instances.

use launchway_proto::krane::v1::{DeploymentRequest, LogLine, StreamLogsRequest};
use tokio::time::timeout;

use crate::{
    harness::{HTTPD, sh},
    world::{PATIENCE, World, eventually},
};

/// Milliseconds.
const SKEW_MS: i64 = 5;
const TALKING: &str = "for n in 1 2 3; do echo out $n; echo err $n >&2; done; \
                       /busybox mkdir -p /tmp";

pub async fn all_instances_are_merged_and_selected(world: &World<'_>) {
    let mut request = world.scripted(&format!("{TALKING}; {HTTPD}"));
    request.processes[0].replicas = 2;
    let id = &request.deployment_id;
    world.deploy(&request).await;
    let all = eventually("every line is there", async || {
        let all = world.logs(world.logs_of(id)).await;
        (all.len() == 12).then_some(all)
    })
    .await;
    assert!(all.iter().all(|line| line.process == "web" && line.at > 1_600_000_000_000));
    // An engine reads stdout and stderr apart, and may date one before the other.
    let mut latest = 0;
    for line in &all {
        assert!(line.at + SKEW_MS >= latest, "in order of time: {all:#?}");
        latest = latest.max(line.at);
    }
    let of = |replica, stream: &str| -> Vec<&str> {
        let own = |line: &&LogLine| line.replica == replica && line.stream == stream;
        all.iter().filter(own).map(|line| line.text.as_str()).collect()
    };
    for replica in [0, 1].into_iter().filter(|_| world.harness.splits_streams()) {
        assert_eq!(of(replica, "stdout"), ["out 1", "out 2", "out 3"]);
        assert_eq!(of(replica, "stderr"), ["err 1", "err 2", "err 3"]);
    }
    let one = world.logs(StreamLogsRequest { replica: Some(1), ..world.logs_of(id) }).await;
    assert!(one.len() == 6 && one.iter().all(|line| line.replica == 1), "{one:?}");
    let last = world.logs(StreamLogsRequest { tail: 2, ..world.logs_of(id) }).await;
    assert_eq!(last.len(), 4, "two of each: {last:?}");
    let none = StreamLogsRequest { process: "worker".to_owned(), ..world.logs_of(id) };
    assert!(world.logs(none).await.is_empty());

    let since = all.last().unwrap().at + 1;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    world.exec(id, "echo later > /proc/1/fd/1").await;
    let later = eventually("the later line is there", async || {
        let later = world.logs(StreamLogsRequest { since, ..world.logs_of(id) }).await;
        (!later.is_empty()).then_some(later)
    });
    let later = later.await;
    let texts: Vec<&str> = later.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["later"], "{later:?}");
}

pub async fn following_shows_what_comes_until_the_deployment_is_deleted(world: &World<'_>) {
    let mut request = world.scripted(&format!("echo begun; {HTTPD}"));
    let id = request.deployment_id.clone();
    world.deploy(&request).await;
    let follow = StreamLogsRequest { follow: true, ..world.logs_of(&id) };
    let mut lines = world.krane().await.stream_logs(follow).await.unwrap().into_inner();
    let mut next = async || {
        let line = timeout(PATIENCE, lines.message()).await.expect("a line comes").unwrap();
        line.map(|line| (line.replica, line.text))
    };
    assert_eq!(next().await, Some((0, "begun".to_owned())));
    world.exec(&id, "echo more > /proc/1/fd/1").await;
    assert_eq!(next().await, Some((0, "more".to_owned())));
    // One that comes later is followed too, the others not again.
    request.processes[0].replicas = 2;
    world.deploy(&request).await;
    assert_eq!(next().await, Some((1, "begun".to_owned())));
    world.delete(&id).await;
    assert_eq!(next().await, None);
}

/// Checklist 3.
pub async fn a_line_of_any_length_comes_in_bounded_parts(world: &World<'_>) {
    const LENGTH: usize = 3_000_000;
    let mut request = world.scripted("");
    let line = format!("/busybox yes ä | /busybox head -n {} | /busybox tr -d '\\n'", LENGTH / 2);
    request.processes[0].command = sh(&format!("{line}; echo; echo after; {HTTPD}"));
    let request = DeploymentRequest { memory_size_mib: 128, ..request };
    world.deploy(&request).await;
    let lines = eventually("the line after it is there", async || {
        let lines = world.logs(world.logs_of(&request.deployment_id)).await;
        lines.last().is_some_and(|line| line.text == "after").then_some(lines)
    })
    .await;
    let (after, parts) = lines.split_last().unwrap();
    assert_eq!(after.text, "after");
    assert!(parts.iter().all(|part| part.text.len() <= 64 * 1024), "a part is too long");
    let whole: String = parts.iter().map(|part| part.text.as_str()).collect();
    assert_eq!(whole.len(), LENGTH);
    assert!(whole.chars().all(|c| c == 'ä'), "a character was cut in two");
}
