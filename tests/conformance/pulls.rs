//! Docker's krane pulls by digest, from a real registry that wants a password.

use std::process::Command;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use launchway::registry::Login;
use launchway_proto::krane::v1::DeploymentRequest;
use launchway_workflows::secret::Secret;

use crate::{
    docker::{Docker, docker},
    harness::{Harness, run},
    servers::registry::{PASSWORD, TestRegistry, USER},
};

fn login(registry: &TestRegistry, password: &str) -> Login {
    Login {
        host: registry.host.clone(),
        username: USER.to_owned(),
        password: Secret::new(password),
    }
}

/// Pushes the suite's image and takes it off the engine; by digest.
fn pushed(registry: &TestRegistry, image: &str) -> String {
    let repository = format!("{}/tests/app", registry.host);
    let tagged = format!("{repository}:1");
    docker(&["tag", image, &tagged]);
    let config = tempfile::tempdir().unwrap();
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let host = registry.host.as_str();
    let auths = serde_json::json!({"auths": {host: {"auth": auth}}}).to_string();
    std::fs::write(config.path().join("config.json"), auths).unwrap();
    let mut push = Command::new("docker");
    let output = push.arg("--config").arg(config.path()).args(["push", &tagged]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = said.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap();
    docker(&["rmi", &tagged]);
    format!("{repository}@{digest}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_by_digest_with_the_login_and_its_progress_is_shown() {
    let registry = TestRegistry::start();
    let harness =
        Docker::start_with(Some(login(&registry, PASSWORD)), |image| pushed(&registry, image))
            .await;
    assert!(
        docker(&["images", "-q", "--filter", &format!("reference={}", harness.image())]).is_empty()
    );
    run(&harness, async |world| {
        let request = world.request();
        let mut watch = world.watch(&request.deployment_id).await;
        let (_, ready) = tokio::join!(
            watch.until(|all| all.iter().any(|one| one.message.contains("pulling the image"))),
            world.deploy(&request),
        );
        assert_eq!(world.body(&ready[0]).await, "hello");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_leaves_nothing() {
    let registry = TestRegistry::start();
    let harness =
        Docker::start_with(Some(login(&registry, "wrong")), |image| pushed(&registry, image)).await;
    run(&harness, async |world| {
        let request = DeploymentRequest { replicas: 2, ..world.request() };
        let refused = world.try_apply(&request).await.expect_err("the password is wrong");
        assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
        assert!(refused.message().contains(&request.image), "{refused}");
        assert!(world.get(&request.deployment_id).await.is_empty());
    })
    .await;
}
