//! Tasks run once.

use futures::StreamExt;
use launchway_proto::krane::v1::{TaskEnded, task_event::Event};

use super::*;
use crate::krane::backend::TaskSpec;

fn task(image: &str) -> TaskSpec {
    TaskSpec {
        deployment_id: DeploymentId::generate(),
        namespace: EnvironmentId::generate(),
        project_id: "prj_x".to_owned(),
        task_id: "release-1".parse().unwrap(),
        image: image.to_owned(),
        command: vec!["migrate".to_owned()],
        replace_entrypoint: false,
        env: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
        cpu_millicores: 0,
        memory_mib: 0,
        time_limit: Duration::from_secs(60),
        join_only: false,
    }
}

/// Whether it was joined, its lines and its end.
async fn run(backend: &KubernetesBackend, task: TaskSpec) -> (bool, Vec<String>, TaskEnded) {
    let mut events = backend.run_task(task).await.unwrap();
    let (mut joined, mut lines) = (false, Vec::new());
    loop {
        let event = timeout(PATIENCE, events.next()).await.expect("it ends").expect("an end");
        match event.unwrap().event.unwrap() {
            Event::Started(started) => joined = started.joined,
            Event::Line(line) => lines.push(line.text),
            Event::Ended(ended) => return (joined, lines, ended),
        }
    }
}

fn printing(code: i32) -> Behaviour {
    Behaviour::Exit { code, output: "one\ntwo".to_owned() }
}

#[tokio::test]
async fn a_task_is_joined_when_it_is_asked_for_again_and_runs_once() {
    let cluster = TestCluster::start();
    cluster.script("release", printing(4));
    let one = backend(&cluster).await;
    let task = task("release");
    let (joined, lines, ended) = run(&one, task.clone()).await;
    assert_eq!((joined, lines.len(), ended.exit_code), (false, 2, 4));
    drop(one);
    // krane was killed meanwhile; another is asked.
    let other = backend(&cluster).await;
    let again = run(&other, TaskSpec { join_only: true, ..task.clone() }).await;
    assert_eq!((again.0, &again.1, &again.2), (true, &lines, &ended));
    assert_eq!(cluster.list("pods").len(), 1, "it ran again");
    assert!(other.get(&task.deployment_id).await.unwrap().is_empty(), "it is no instance");
    other.delete_task(&task.deployment_id, &task.task_id).await.unwrap();
    assert_eq!(objects_of(&cluster, &task.deployment_id), Vec::<String>::new());
    let unknown = other.run_task(TaskSpec { join_only: true, ..task.clone() }).await;
    assert!(matches!(unknown.err(), Some(BackendError::UnknownTask(_))));
    other.delete_task(&task.deployment_id, &task.task_id).await.unwrap();
}

#[tokio::test]
async fn a_task_whose_pod_is_taken_away_is_not_repeated() {
    let cluster = TestCluster::start();
    cluster.script("release", Behaviour::Silent);
    let backend = backend(&cluster).await;
    let task = task("release");
    let running = async { run(&backend, task.clone()).await };
    let removing = async {
        loop {
            let pods = cluster.list("pods");
            let runs = |pod: &Value| pod["status"]["phase"] == "Running";
            if let Some(pod) = pods.iter().find(|pod| runs(pod)) {
                return cluster.delete(&Id::of("pods", pod));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ((_, _, ended), ()) = tokio::join!(running, removing);
    assert_ne!(ended.exit_code, 0, "{ended:?}");
    assert!(cluster.list("pods").is_empty(), "it was started again");
}

#[tokio::test]
async fn a_task_ends_at_its_time_limit_and_says_so() {
    let cluster = TestCluster::start();
    cluster.script("release", Behaviour::Silent);
    let backend = backend(&cluster).await;
    let limited = TaskSpec { time_limit: Duration::from_secs(1), ..task("release") };
    let (_, _, ended) = run(&backend, limited).await;
    assert!(ended.timed_out, "{ended:?}");
}

#[tokio::test]
async fn a_task_whose_image_is_not_there_ends_and_says_so() {
    let cluster = TestCluster::start();
    cluster.script("gone", Behaviour::Pull { message: "manifest unknown".to_owned() });
    let backend = backend(&cluster).await;
    let (_, _, ended) = run(&backend, task("gone")).await;
    assert!(ended.exit_code != 0 && ended.message.contains("manifest unknown"), "{ended:?}");
}
