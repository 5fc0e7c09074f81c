//! Instances on the real engine.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use launchway_proto::krane::v1::Instance;
use launchway_workflows::ids::{DeploymentId, EnvironmentId};
use tokio::time::timeout;

use super::{DockerBackend, DockerSettings};
use crate::krane::backend::{Backend, BackendError, Health, InstanceSpec};

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

    fn spec(&self, replicas: u32) -> InstanceSpec {
        InstanceSpec {
            deployment_id: DeploymentId::generate(),
            namespace: EnvironmentId::generate(),
            project_id: "prj_x".to_owned(),
            service_name: "shop".to_owned(),
            image: self.image.clone(),
            replicas,
            env: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
            port: 8080,
            cpu_millicores: 500,
            memory_mib: 64,
            stop_grace: Duration::from_secs(1),
            health: Health {
                path: "/".to_owned(),
                timeout: Duration::from_secs(1),
                interval: Duration::from_millis(50),
            },
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
async fn applying_again_changes_nothing_and_scaling_keeps_what_runs() {
    let owner = Owner::with_command(SERVE);
    let backend = owner.backend();
    let spec = owner.spec(1);
    let id = &spec.deployment_id;
    backend.apply(&spec).await.unwrap();
    let first = until(&backend, id, all_ready(1)).await;
    let containers = owner.list("container");
    backend.apply(&spec).await.unwrap();
    assert_eq!(owner.list("container"), containers);
    backend.apply(&InstanceSpec { replicas: 3, ..spec.clone() }).await.unwrap();
    let three = until(&backend, id, all_ready(3)).await;
    assert!(three.contains(&first[0]), "the first one was replaced: {three:?}");
    backend.apply(&spec).await.unwrap();
    assert_eq!(until(&backend, id, all_ready(1)).await, first);
    // Another environment: the container is made anew.
    let env = BTreeMap::from([("COLOUR".to_owned(), "red".to_owned())]);
    backend.apply(&InstanceSpec { env, ..spec.clone() }).await.unwrap();
    until(&backend, id, all_ready(1)).await;
    assert_ne!(owner.list("container"), containers);
    assert_eq!(owner.list("container").len(), 1);

    backend.delete(id).await.unwrap();
    assert!(owner.list("container").is_empty() && owner.list("network").is_empty());
    assert!(backend.get(id).await.unwrap().is_empty());
    backend.delete(id).await.unwrap();
}

/// An instance that ends is seen, not waited for.
#[tokio::test]
async fn an_instance_that_exits_is_reported_with_code_and_output() {
    let owner = Owner::with_command("echo no database; exit 3");
    let backend = owner.backend();
    // Many times: the engine tells of the death before its lists show it.
    for _ in 0..5 {
        let spec = owner.spec(1);
        backend.apply(&spec).await.unwrap();
        let ended = until(&backend, &spec.deployment_id, |instances| {
            instances.iter().any(|instance| instance.exit_code.is_some())
        })
        .await;
        assert_eq!(ended[0].exit_code, Some(3));
        assert_eq!(ended[0].log_tail, ["no database"]);
        backend.delete(&spec.deployment_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_new_process_adopts_its_own_and_leaves_others_alone() {
    let owner = Owner::with_command(SERVE);
    let spec = owner.spec(1);
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
    let spec = owner.spec(1);
    backend.apply(&spec).await.unwrap();
    let shown = docker(&["inspect", &owner.list("container")[0]]).join("\n");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let host = &shown[0]["HostConfig"];
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
    assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges"]));
    assert!(host["PidsLimit"].as_i64().unwrap() > 0);
    assert_eq!(host["PortBindings"]["8080/tcp"][0]["HostIp"], "127.0.0.1");
    let env = shown[0]["Config"]["Env"].to_string();
    assert!(env.contains("COLOUR=blue") && env.contains("PORT=8080"), "{env}");
}

#[tokio::test]
async fn an_image_that_this_engine_does_not_have_is_named() {
    let owner = Owner::with_command(SERVE);
    let backend = owner.backend();
    let image = format!("sha256:{}", "0".repeat(64));
    let refused = backend.apply(&InstanceSpec { image: image.clone(), ..owner.spec(1) }).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, BackendError::ImageUnavailable { .. }), "{error}");
    assert!(error.to_string().contains(&image), "{error}");
    assert!(owner.list("container").is_empty());
}
