//! Deployments on Kubernetes, with the API server of the tests: its kubelet runs
//! pods as containers of this machine's Docker engine.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;

use crate::{
    cluster::TestCluster,
    servers::registry::{PASSWORD, TestRegistry, USER},
    support::{App, Installation, eventually, step},
};

const HOST: &str = "shop-preview-local.localhost";

struct World {
    here: Installation,
    cluster: TestCluster,
    _registry: TestRegistry,
    _files: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let (cluster, registry) = (TestCluster::start(), TestRegistry::start());
        let files = tempfile::tempdir().unwrap();
        let password = files.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let here = Installation::start_with(&[
            "runtime.backend=kubernetes",
            &format!("kubernetes.kubeconfig={}", cluster.kubeconfig().display()),
            // This machine reaches its own containers.
            "kubernetes.probes=krane",
            &format!("registry.host={}", registry.host),
            &format!("registry.username={USER}"),
            &format!("registry.password_file={}", password.display()),
        ]);
        Self { here, cluster, _registry: registry, _files: files }
    }

    fn pods(&self, id: &str) -> Vec<Value> {
        let mut pods = self.cluster.list("pods");
        pods.retain(|pod| pod["metadata"]["labels"]["launchway.dev/deployment"] == id);
        pods
    }
}

/// kill -9 of krane, worker and control API while pods are being started.
#[test]
fn killed_while_its_pods_start_a_deployment_goes_live_with_one_set_of_them() {
    let mut world = World::start();
    let app = App::new("version one", "EXPOSE 8080");
    world.here.deploy(app.path(), &["--project", "shop"]);
    assert_eq!(world.here.get(HOST, "/").body, "version one");
    let load = world.here.load(HOST, &["version one", "version two"]);
    app.greet("version two");
    // Applied, but no pod is made before krane and the worker are gone.
    world.cluster.kill_controllers();
    let id = world.here.submit(app.path(), &["--project", "shop"]);
    eventually("it is applied", || {
        let all = world.cluster.list("deployments");
        let ours = |one: &Value| one["metadata"]["labels"]["launchway.dev/deployment"] == *id;
        all.iter().any(ours).then_some(())
    });
    world.here.kill_up();
    world.cluster.kill_api();
    world.cluster.start_controllers();
    world.cluster.start_api();
    world.here.up();
    let shown = world.here.wait_status(&id, &["live"]);
    assert_eq!(world.pods(&id).len(), 1, "one set of pods: {shown:#}");
    assert_eq!(step(&shown, "build-image")["tries"], 1, "{shown:#}");
    // A gateway that was cut off has the new routes a moment later.
    eventually("the new version answers", || {
        (world.here.get(HOST, "/").body == "version two").then_some(())
    });
    load.assert_no_failure();
}

/// The step fails with the cluster's word, nothing is left, the domain stays.
#[test]
fn a_deployment_that_cannot_start_is_rolled_back_and_leaves_nothing() {
    let world = World::start();
    let app = App::new("version one", "EXPOSE 8080");
    world.here.deploy(app.path(), &["--project", "shop"]);
    let command = r#"["/bin/busybox", "sh", "-c", "echo no database; exit 3"]"#;
    let dockerfile =
        format!("FROM scratch\nCOPY busybox /bin/busybox\nEXPOSE 8080\nCMD {command}\n");
    let broken = App::with_dockerfile("version two", &dockerfile);
    let id = world.here.submit(broken.path(), &["--project", "shop"]);
    let shown = world.here.wait_status(&id, &["failed"]);
    let failed = step(&shown, "await-ready").to_string();
    assert!(failed.contains("code 3") || shown.to_string().contains("code 3"), "{shown:#}");
    eventually("nothing is left", || world.pods(&id).is_empty().then_some(()));
    assert_eq!(world.here.get(HOST, "/").body, "version one");
}

/// `down --all` removes what was deployed from the cluster.
#[test]
fn down_all_removes_the_deployments_of_the_cluster() {
    let mut world = World::start();
    // The port is read from the image, in its registry.
    let command = r#"["/bin/busybox", "httpd", "-f", "-p", "3000", "-h", "/www"]"#;
    let dockerfile = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\nEXPOSE 3000\nCMD {command}\n"
    );
    let app = App::with_dockerfile("version one", &dockerfile);
    let deployed = world.here.deploy(app.path(), &["--project", "shop"]);
    let id = deployed["deployment_id"].as_str().unwrap().to_owned();
    assert_eq!(world.pods(&id).len(), 1);
    assert_eq!(world.here.get(HOST, "/").body, "version one");
    world.here.stop_up();
    let down = world.here.down(&["--all"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(world.pods(&id).is_empty());
    assert!(world.cluster.list("configmaps").is_empty());
}
