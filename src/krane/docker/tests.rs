//! What is Docker's own; what every runtime must do is in `tests/conformance`.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use futures::StreamExt;
use launchway_proto::krane::v1::Instance;
use launchway_workflows::ids::{DeploymentId, EnvironmentId};
use tokio::time::timeout;

use super::{DockerBackend, DockerSettings, observe::millis};
use crate::krane::backend::{
    Backend, BackendError, Check, Health, InstanceSpec, Port, ProcessSpec, TaskSpec,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An owner of its own, with everything it made removed at the end.
struct Owner {
    name: String,
    image: String,
}

impl Owner {
    /// With an image that runs this command.
    fn with_command(command: &str) -> Self {
        let name = format!("krane-tests-{}", uuid::Uuid::new_v4().simple());
        let image = format!("launchway/{name}:1");
        let script = format!(
            "tar -c -C /bin busybox | docker import -c 'CMD [\"/busybox\", \"sh\", \"-c\", \"{command}\"]' - {image}"
        );
        let made =
            std::process::Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).status();
        assert!(made.unwrap().success());
        Self { name, image }
    }

    fn backend(&self) -> DockerBackend {
        DockerBackend::start(DockerSettings { owner: self.name.clone(), login: None }).unwrap()
    }

    fn spec(&self) -> InstanceSpec {
        let web = ProcessSpec {
            name: "web".parse().unwrap(),
            command: Vec::new(),
            replicas: 1,
            port: Port::Given(8080),
            health: Health {
                check: Check::Http { path: "/".to_owned(), port: None },
                timeout: Duration::from_secs(1),
                interval: Duration::from_millis(50),
                start_period: None,
            },
            cpu_millicores: 500,
            memory_mib: 64,
        };
        InstanceSpec {
            deployment_id: DeploymentId::generate(),
            namespace: EnvironmentId::generate(),
            project_id: "prj_x".to_owned(),
            service_name: "shop".to_owned(),
            image: self.image.clone(),
            env: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
            stop_signal: None,
            stop_grace: Duration::from_secs(1),
            processes: vec![web],
        }
    }

    fn task(&self, of: &InstanceSpec) -> TaskSpec {
        TaskSpec {
            deployment_id: of.deployment_id.clone(),
            namespace: of.namespace.clone(),
            project_id: of.project_id.clone(),
            task_id: "release".parse().unwrap(),
            image: self.image.clone(),
            command: ["/busybox", "true"].map(str::to_owned).to_vec(),
            replace_entrypoint: true,
            env: BTreeMap::new(),
            cpu_millicores: 250,
            memory_mib: 32,
            time_limit: Duration::from_secs(30),
            join_only: false,
        }
    }

    fn list(&self, what: &str) -> Vec<String> {
        let label = format!("label=launchway.owner={}", self.name);
        match what {
            "network" => docker(&["network", "ls", "-q", "--filter", &label]),
            _ => docker(&["ps", "-aq", "--no-trunc", "--filter", &label]),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        for container in self.list("container") {
            docker(&["rm", "-f", &container]);
        }
        for network in self.list("network") {
            docker(&["network", "rm", &network]);
        }
        docker(&["rmi", "-f", &self.image]);
    }
}

fn docker(args: &[&str]) -> Vec<String> {
    let output = std::process::Command::new("docker").args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

const SERVE: &str = "/busybox httpd -f -p 8080";

/// The instances once they are as wanted.
async fn until(
    backend: &DockerBackend,
    id: &DeploymentId,
    wanted: impl Fn(&[Instance]) -> bool,
) -> Vec<Instance> {
    let mut watched = backend.table().watch(id);
    let waiting = watched.wait_for(|present| wanted(&present.instances));
    match timeout(PATIENCE, waiting).await {
        Ok(present) => present.unwrap().instances.to_vec(),
        Err(_) => panic!("waited in vain: {:?}", backend.table().get(id)),
    }
}

fn all_ready(count: usize) -> impl Fn(&[Instance]) -> bool {
    move |instances| instances.len() == count && instances.iter().all(|instance| instance.ready)
}

#[tokio::test]
async fn a_new_process_adopts_its_own_and_leaves_others_alone() {
    let owner = Owner::with_command(SERVE);
    let spec = owner.spec();
    let id = &spec.deployment_id;
    {
        let backend = owner.backend();
        backend.apply(&spec).await.unwrap();
        until(&backend, id, all_ready(1)).await;
    }
    let again = owner.backend();
    again.table().synced().await;
    // Known as ready before anything is reported: no traffic is taken away.
    assert!(all_ready(1)(&again.table().get(id).instances), "{:?}", again.table().get(id));
    let stranger = DockerBackend::start(DockerSettings {
        owner: "krane-tests-stranger".to_owned(),
        login: None,
    })
    .unwrap();
    stranger.table().synced().await;
    assert!(stranger.table().all().is_empty());
    stranger.delete(id).await.unwrap();
    assert_eq!(owner.list("container").len(), 1, "somebody else's was removed");
    // The host port changes with a restart.
    let before = again.table().get(id).instances[0].address.clone();
    docker(&["restart", "-t", "0", &owner.list("container")[0]]);
    until(&again, id, |instances| {
        instances.iter().any(|instance| instance.ready && instance.address != before)
    })
    .await;
}

/// Checklist 81: limits are what was asked for, and little else is allowed.
#[tokio::test]
async fn containers_have_their_limits_and_few_rights() {
    let owner = Owner::with_command(SERVE);
    let backend = owner.backend();
    let spec = owner.spec();
    backend.apply(&spec).await.unwrap();
    let web = inspect(&owner.list("container")[0]);
    assert_eq!(web["HostConfig"]["NanoCpus"], 500_000_000);
    assert_eq!(web["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(web["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostIp"], "127.0.0.1");
    let env = web["Config"]["Env"].to_string();
    assert!(env.contains("COLOUR=blue") && env.contains("PORT=8080"), "{env}");

    let events = backend.run_task(owner.task(&spec)).await.unwrap();
    events.for_each(|event| async { drop(event.unwrap()) }).await;
    let id = spec.deployment_id.as_str().replace('_', "-");
    let task = inspect(&format!("launchway-{id}-task-release"));
    assert_eq!(task["HostConfig"]["Memory"], 32 << 20);
    assert_eq!(task["State"]["ExitCode"], 0);
    for container in [web, task] {
        let host = &container["HostConfig"];
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges"]));
        assert!(host["PidsLimit"].as_i64().unwrap() > 0);
    }
}

fn inspect(container: &str) -> serde_json::Value {
    let shown = docker(&["inspect", container]).join("\n");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0].clone()
}

/// With the labels that krane gave when there was one process.
#[tokio::test]
async fn a_container_of_an_earlier_krane_is_adopted_and_replaced_while_it_serves() {
    let owner = Owner::with_command(SERVE);
    let spec = owner.spec();
    let id = &spec.deployment_id;
    let network = format!("launchway-{}", spec.namespace.as_str().replace('_', "-"));
    docker(&["network", "create", "--label", &format!("launchway.owner={}", owner.name), &network]);
    let name = format!("launchway-{}-0", id.as_str().replace('_', "-"));
    let labels = [
        format!("launchway.owner={}", owner.name),
        format!("launchway.deployment={id}"),
        format!("launchway.environment={}", spec.namespace),
        "launchway.replica=0".to_owned(),
        "launchway.port=8080".to_owned(),
        "launchway.health.path=/".to_owned(),
        "launchway.stop-grace=1".to_owned(),
    ];
    let mut run = vec!["run", "-d", "--name", &name, "--network", &network];
    run.extend(["-p", "127.0.0.1::8080"]);
    labels.iter().for_each(|label| run.extend(["--label", label]));
    run.push(&owner.image);
    assert_eq!(docker(&run).len(), 1);

    let backend = owner.backend();
    let adopted = until(&backend, id, all_ready(1)).await;
    assert_eq!((adopted[0].id.as_str(), adopted[0].process.as_str()), (name.as_str(), "web"));
    let mut watched = backend.table().watch(id);
    let watching = tokio::spawn(async move {
        let never = |now: &crate::krane::Instances| !now.instances.iter().any(|one| one.ready);
        watched.wait_for(never).await.unwrap().clone()
    });
    backend.apply(&spec).await.unwrap();
    let replaced = until(&backend, id, all_ready(1)).await;
    assert_ne!(replaced[0].id, name);
    assert!(!watching.is_finished(), "none was ready for a moment");
    watching.abort();
    backend.delete(id).await.unwrap();
    assert!(owner.list("container").is_empty() && owner.list("network").is_empty());
}

/// By the engine's own clock, not by how long it takes to tell it to kill.
#[tokio::test]
async fn a_killed_instance_is_reported_within_200_ms() {
    let owner = Owner::with_command(SERVE);
    let backend = owner.backend();
    let spec = owner.spec();
    let id = &spec.deployment_id;
    let (mut took, mut explained) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        backend.apply(&spec).await.unwrap();
        until(&backend, id, all_ready(1)).await;
        let container = owner.list("container")[0].clone();
        let killing = tokio::task::spawn_blocking(move || {
            docker(&["kill", &container]);
            container
        });
        let ended = until(&backend, id, |all| !all[0].ready).await;
        let reported = jiff::Timestamp::now().as_millisecond();
        assert!(ended[0].message.contains("137"), "{ended:?}");
        until(&backend, id, |all| all[0].exit_code == Some(137)).await;
        let whole = jiff::Timestamp::now().as_millisecond();
        let state = inspect(&killing.await.unwrap())["State"].clone();
        let finished = millis(state["FinishedAt"].as_str()).unwrap();
        took.push(reported - finished);
        explained.push(whole - finished);
    }
    took.sort_unstable();
    explained.sort_unstable();
    println!("from the exit to the report: {took:?} ms, with its last lines: {explained:?} ms");
    assert!(took[took.len() / 2] < 200, "{took:?}");
}

#[tokio::test]
async fn what_is_found_is_ours_with_sizes_where_they_are_asked_for() {
    let owner = Owner::with_command("echo 0123456789 > /file; exec /busybox httpd -f -p 8080");
    let backend = owner.backend();
    let spec = owner.spec();
    backend.apply(&spec).await.unwrap();
    until(&backend, &spec.deployment_id, all_ready(1)).await;
    // A person's container, of an image that has labels of ours.
    let labels = [
        format!("launchway.owner={}", owner.name),
        format!("launchway.deployment={}", spec.deployment_id),
    ];
    docker(&["create", "--label", &labels[0], "--label", &labels[1], &owner.image]);
    let kinds = |found: &[launchway_proto::krane::v1::Found]| {
        let mut kinds: Vec<_> = found.iter().map(|one| one.kind.clone()).collect();
        kinds.sort();
        kinds
    };
    let found = backend.list(false).await.unwrap();
    assert_eq!(kinds(&found), ["instance", "network"]);
    assert!(found.iter().all(|one| one.size == 0 && one.created_at > 1_600_000_000_000));
    assert!(found.iter().all(|one| one.namespace == spec.namespace.as_str()), "{found:?}");
    let sized = backend.list(true).await.unwrap();
    assert!(sized.iter().any(|one| one.kind == "instance" && one.size > 0), "{sized:?}");
    backend.delete(&spec.deployment_id).await.unwrap();
    assert_eq!(owner.list("container").len(), 1, "the person's stays");
}

#[tokio::test]
async fn an_image_that_this_engine_does_not_have_is_named() {
    let owner = Owner::with_command(SERVE);
    let backend = owner.backend();
    let image = format!("sha256:{}", "0".repeat(64));
    let refused = backend.apply(&InstanceSpec { image: image.clone(), ..owner.spec() }).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, BackendError::ImageUnavailable { .. }), "{error}");
    assert!(error.to_string().contains(&image), "{error}");
    assert!(owner.list("container").is_empty());
}
