//! Builders and registries that are not this machine's Docker engine.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use launchway::{builder::Address, store::Store};
use launchway_proto::ctrl::v1::{CreateBuildRequest, build_service_client::BuildServiceClient};
use launchway_workflows::{ids::WorkspaceId, model::Source};
use tokio::runtime::Runtime;

use crate::{
    servers::{
        depot::{FakeDepot, TOKEN},
        engine::current_engine,
        forwarder::Forwarder,
        registry::{PASSWORD, TestRegistry, USER},
    },
    support::{App, Installation, docker, eventually, step, text},
};

/// A BuildKit behind mutual TLS and a registry with a password.
struct Elsewhere {
    // Serves the forwarder as long as the test runs.
    runtime: Runtime,
    forwarder: Forwarder,
    registry: TestRegistry,
    files: tempfile::TempDir,
}

impl Elsewhere {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let forwarder = runtime.block_on(Forwarder::start(current_engine()));
        let files = tempfile::tempdir().unwrap();
        Self { runtime, forwarder, registry: TestRegistry::start(), files }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn registry(&self, password: &str) -> Vec<String> {
        let password = self.file("password", password.as_bytes());
        vec![
            format!("registry.host={}", self.registry.host),
            "registry.repository=apps".to_owned(),
            format!("registry.username={USER}"),
            format!("registry.password_file={}", password.display()),
        ]
    }

    fn buildkit(&self) -> Vec<String> {
        let Address::Tcp { host, port, tls: Some(tls) } = self.forwarder.client() else {
            panic!("it has no TLS")
        };
        let mut settings = vec![
            "builder.backend=buildkit".to_owned(),
            format!("buildkit.address=tcp://{host}:{port}"),
            format!("buildkit.server_name={}", tls.server_name),
        ];
        for (name, pem) in [("ca_file", tls.ca), ("cert_file", tls.cert), ("key_file", tls.key)] {
            settings.push(format!("buildkit.{name}={}", self.file(name, &pem).display()));
        }
        settings
    }
}

impl Elsewhere {
    /// The same machine and registry as Depot's.
    fn depot(&self) -> (FakeDepot, Vec<String>) {
        let fake = self.runtime.block_on(FakeDepot::start(&self.forwarder, false));
        let token = self.file("token", TOKEN.as_bytes());
        let password = self.file("password", PASSWORD.as_bytes());
        let settings = vec![
            "builder.backend=depot".to_owned(),
            format!("depot.api_url={}", fake.url),
            format!("depot.token_file={}", token.display()),
            format!("registry.host={}", self.registry.host),
            format!("registry.username={USER}"),
            format!("registry.password_file={}", password.display()),
        ];
        (fake, settings)
    }
}

fn installation(settings: &[Vec<String>]) -> Installation {
    let settings: Vec<&str> = settings.iter().flatten().map(String::as_str).collect();
    Installation::start_with(&settings)
}

/// The digest of what a deployment's container was made from, as its registry
/// has it.
fn running_digest(here: &Installation, id: &str) -> String {
    let containers = here.containers(id);
    assert_eq!(containers.len(), 1, "{containers:?}");
    let image = docker(&["inspect", "-f", "{{.Image}}", &containers[0]]).concat();
    docker(&["image", "inspect", "-f", "{{join .RepoDigests \" \"}}", &image]).concat()
}

/// Checklist 2, 41: BuildKit pushes, and another engine pulls by digest.
#[test]
fn what_a_buildkit_has_pushed_runs_on_another_engine() {
    let elsewhere = Elsewhere::start();
    let here = installation(&[elsewhere.buildkit(), elsewhere.registry(PASSWORD)]);
    let result = here.deploy(App::new("built elsewhere", "").path(), &["--project", "shop"]);
    let image = result["image"].as_str().unwrap();
    let digest = result["digest"].as_str().unwrap();
    let repository = format!("{}/apps/local/shop", elsewhere.registry.host);
    assert!(image.starts_with(&repository), "{image}");
    let shown = here.inspect(result["deployment_id"].as_str().unwrap());
    assert_eq!(step(&shown, "push-image")["status"], "done", "{shown:#}");
    let running = running_digest(&here, result["deployment_id"].as_str().unwrap());
    assert_eq!(running, format!("{repository}@{digest}"));
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "built elsewhere");
    nothing_has(&here, &[PASSWORD]);
}

/// An image without a deployment, which a deployment then runs.
#[test]
fn a_build_by_itself_prints_a_name_that_can_be_deployed() {
    let elsewhere = Elsewhere::start();
    let here = installation(&[elsewhere.buildkit(), elsewhere.registry(PASSWORD)]);
    let app = App::new("built before", "");
    let path = app.path().display().to_string();
    let build = ["build", &path, "--project", "shop", "--idempotency-key", "once"];
    let printed = here.run(&build);
    assert!(printed.status.success(), "{}", text(&printed));
    let name = String::from_utf8(printed.stdout).unwrap().trim().to_owned();
    let repository = format!("{}/apps/local/shop:", elsewhere.registry.host);
    assert!(name.starts_with(&repository) && name.contains("@sha256:"), "{name}");
    let again = here.json(&build);
    assert_eq!(
        (again["image_name"].as_str(), &again["status"]),
        (Some(name.as_str()), &"built".into())
    );
    assert_eq!(again["steps"].as_array().unwrap().len(), 6, "{again:#}");
    let other = here.run(&["deploy", &path, "--project", "shop", "--idempotency-key", "once"]);
    assert_eq!(other.status.code(), Some(9), "{}", text(&other));
    assert!(text(&other).contains("which is a build"), "{}", text(&other));
    let deployed = here.json(&["deploy", "--image", &name, "--project", "shop"]);
    assert_eq!(deployed["status"], "live", "{deployed:#}");
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "built before");
}

/// The call answers when the image is there, or says why it will not be.
#[test]
fn create_build_answers_with_the_image_or_with_the_cause() {
    let here = Installation::start();
    let app = App::new("called", "");
    let built = here.json(&["build", &app.path().display().to_string(), "--project", "shop"]);
    let runtime = Runtime::new().unwrap();
    let context = runtime.block_on(context_of(&here, built["deployment_id"].as_str().unwrap()));
    let ask = |key: &str, dockerfile: &str| {
        let mut request = tonic::Request::new(CreateBuildRequest {
            build_context_path: context.clone(),
            dockerfile_path: Some(dockerfile.to_owned()),
            unkey_project_id: "shop".to_owned(),
            deployment_id: key.to_owned(),
            ..CreateBuildRequest::default()
        });
        let bearer = format!("Bearer {}", here.token()).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let url = format!("http://{}", here.address("control.bind"));
        runtime.block_on(async {
            BuildServiceClient::connect(url).await.unwrap().create_build(request).await
        })
    };
    let first = ask("mine", "Dockerfile").unwrap().into_inner();
    assert!(first.image_name.starts_with("sha256:") && first.local_only, "{first:?}");
    let second = ask("mine", "Dockerfile").unwrap().into_inner();
    assert_eq!(second, first, "the same call is the same build");
    let refused = ask("other", "None").unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("dockerfile-missing"), "{refused:?}");
}

async fn context_of(here: &Installation, id: &str) -> String {
    let url = format!("sqlite://{}/launchway.db", here.data().display());
    let store = Store::open(&url).await.unwrap();
    let view = store.deployment(&WorkspaceId::local(), &id.parse().unwrap()).await;
    match view.unwrap().unwrap().source {
        Source::BuildContext(context) => context.build_context_path,
        Source::DockerImage(image) => panic!("it was not built: {image}"),
    }
}

#[test]
fn what_docker_has_built_is_pushed_and_runs_by_its_digest() {
    let elsewhere = Elsewhere::start();
    let here = installation(&[elsewhere.registry(PASSWORD)]);
    let result = here.deploy(App::new("pushed", "").path(), &["--project", "shop"]);
    let shown = here.inspect(result["deployment_id"].as_str().unwrap());
    assert_eq!(step(&shown, "push-image")["status"], "done", "{shown:#}");
    let digest = result["digest"].as_str().unwrap();
    let running = running_digest(&here, result["deployment_id"].as_str().unwrap());
    assert_eq!(running, format!("{}/apps/local/shop@{digest}", elsewhere.registry.host));
    nothing_has(&here, &[PASSWORD]);
}

#[test]
fn a_wrong_password_fails_the_push_and_a_retry_pushes_without_building() {
    let elsewhere = Elsewhere::start();
    let mut here = installation(&[elsewhere.registry("mistyped-password")]);
    let app = App::new("pushed at last", "");
    let output = here.run(&["deploy", &app.path().display().to_string(), "--project", "shop"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let said = text(&output);
    for expected in ["failed at push-image", "registry-auth"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("mistyped-password"), "{said}");
    let listed = here.json(&["list", "--project", "shop"]);
    let id = listed["deployments"][0]["deployment_id"].as_str().unwrap().to_owned();
    here.stop_up();
    elsewhere.file("password", PASSWORD.as_bytes());
    here.up();
    let retried = here.json(&["retry", &id]);
    assert_eq!(retried["status"], "live", "{retried:#}");
    let attempts: Vec<_> = retried["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["name"] == "build-image")
        .map(|row| row["attempt"].clone())
        .collect();
    assert_eq!(attempts, [1], "it was built again: {retried:#}");
}

/// From the command line to the command that needs it, and nowhere else: not in
/// the log, the database, a journal, an error or a layer.
#[test]
fn a_build_secret_is_seen_by_its_command_alone() {
    const VALUE: &str = "very-private-token-4711";
    let elsewhere = Elsewhere::start();
    let here = installation(&[elsewhere.buildkit(), elsewhere.registry(PASSWORD)]);
    let file = elsewhere.file("npmrc", VALUE.as_bytes());
    let secret = format!("id=npmrc,src={}", file.display());
    let deploy = |command: &str| {
        let mount = "--mount=type=secret,id=npmrc,target=/npmrc,required";
        // Its content is of this run: what is in the builder's cache prints nothing.
        let content = format!("needs {}", elsewhere.registry.host);
        let app = App::new(
            &content,
            &format!(r#"RUN {mount} ["/bin/busybox", "sh", "-c", "{command}"]"#),
        );
        let path = app.path().display().to_string();
        here.run(&["deploy", &path, "--project", "shop", "--build-secret", &secret])
    };
    let built = deploy("/bin/busybox cat /npmrc; /bin/busybox md5sum < /npmrc > /www/sum");
    assert!(built.status.success(), "{}", text(&built));
    assert!(text(&built).contains("<secret>"), "the command printed nothing: {}", text(&built));
    let failed = deploy("echo the token is; /bin/busybox cat /npmrc; exit 3");
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    let id = here.json(&["list", "--project", "shop"])["deployments"][0]["deployment_id"].clone();
    let shown = here.inspect(id.as_str().unwrap());
    for said in [text(&built), text(&failed), shown.to_string()] {
        assert!(!said.contains(VALUE), "{said}");
    }
    let journal = here.sql("SELECT entry_json, raw FROM sys_journal");
    assert!(!format!("{journal:?}").contains(VALUE));
    nothing_has(&here, &[VALUE, PASSWORD]);
    let layers = elsewhere.registry.contents();
    let found = |text: &str| layers.windows(text.len()).any(|at| at == text.as_bytes());
    assert!(found("www/sum"), "the layers were not read");
    assert!(!found(VALUE), "a layer or the configuration has it");
    let missing = here.run(&["deploy", ".", "--build-secret", "id=a,src=/no/such/file"]);
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing));
}

/// What was checked and written builds at the next start; what does not work is
/// not written.
#[test]
fn a_builder_that_answers_is_configured_and_another_is_not() {
    let elsewhere = Elsewhere::start();
    let mut here = Installation::prepare(&[]);
    let data = here.data().display().to_string();
    let password = elsewhere.file("password", PASSWORD.as_bytes()).display().to_string();
    let Address::Tcp { host, port, tls: Some(tls) } = elsewhere.forwarder.client() else {
        panic!("it has no TLS")
    };
    let address = format!("tcp://{host}:{port}");
    let [ca, cert, key] = [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)]
        .map(|(name, pem)| elsewhere.file(name, pem).display().to_string());
    let choose = |server_name: &str| {
        here.run(&[
            "builder",
            "use",
            "buildkit",
            "--data-dir",
            &data,
            "--address",
            &address,
            "--ca-file",
            &ca,
            "--cert-file",
            &cert,
            "--key-file",
            &key,
            "--server-name",
            server_name,
            "--registry",
            &elsewhere.registry.host,
            "--username",
            USER,
            "--password-file",
            &password,
        ])
    };
    let settings = here.data().join("config.toml");
    let refused = choose("another.test");
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("nothing was changed"), "{}", text(&refused));
    assert!(!settings.exists());
    let unfinished = here.run(&["builder", "use", "depot", "--data-dir", &data]);
    assert!(text(&unfinished).contains("--token-file"), "{}", text(&unfinished));
    fs::write(&settings, "# Ours.\n[server]\nlog = \"info\"\n").unwrap();
    let chosen = choose(&tls.server_name);
    assert!(chosen.status.success(), "{}", text(&chosen));
    let written = fs::read_to_string(&settings).unwrap();
    assert!(written.starts_with("# Ours.") && !written.contains(PASSWORD), "{written}");
    here.up();
    let doctor = text(&here.run(&["doctor", "--data-dir", &data]));
    assert!(doctor.contains(&format!("buildkit at {address}")), "{doctor}");
    let result = here.deploy(App::new("configured", "").path(), &["--project", "shop"]);
    let image = result["image"].as_str().unwrap();
    assert!(image.starts_with(&format!("{}/local/shop", elsewhere.registry.host)), "{image}");
}

/// On a terminal what is missing is asked for, secrets unseen.
#[test]
fn what_is_not_given_is_asked_for_on_a_terminal() {
    let elsewhere = Elsewhere::start();
    let here = Installation::prepare(&[]);
    let Address::Tcp { host, port, tls: Some(tls) } = elsewhere.forwarder.client() else {
        panic!("it has no TLS")
    };
    let [ca, cert, key] = [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)]
        .map(|(name, pem)| elsewhere.file(name, pem).display().to_string());
    let data = here.data().display().to_string();
    let asked = format!(
        "{} builder use buildkit --data-dir {data} --server-name {}",
        env!("CARGO_BIN_EXE_launchway"),
        tls.server_name
    );
    let address = format!("tcp://{host}:{port}");
    let answers = [&address, &ca, &cert, &key, &elsewhere.registry.host, USER, PASSWORD];
    let shown = here.on_a_terminal(&asked, &answers);
    assert!(shown.contains(&format!("builds go to buildkit at {address}")), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    let written = fs::read_to_string(here.data().join("config.toml")).unwrap();
    assert!(written.contains(&address) && !written.contains(PASSWORD), "{written}");
}

/// Checklist 77: whatever becomes of the worker, Depot hears how a build ended.
#[test]
fn a_worker_that_is_killed_leaves_no_build_open_at_depot() {
    let elsewhere = Elsewhere::start();
    let (fake, settings) = elsewhere.depot();
    fake.state().pending = u32::MAX;
    let mut here = installation(&[settings]);
    let app = App::new("built by depot", "");
    let id = here.submit(app.path(), &["--project", "shop"]);
    eventually("a machine is asked for", || (fake.state().pending < u32::MAX).then_some(()));
    here.kill_up();
    assert_eq!(fake.ends(), [Vec::<String>::new()]);
    fake.state().pending = 0;
    here.up();
    let shown = here.wait_status(&id, &["live", "failed"]);
    assert_eq!(shown["status"], "live", "{shown:#}");
    assert_eq!(fake.ends(), [["canceled"], ["success"]]);
    assert_eq!(fake.state().projects.len(), 1);
    let image = shown["image"].as_str().unwrap();
    assert!(image.starts_with(&format!("{}/depotproject1", elsewhere.registry.host)), "{image}");
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "built by depot");
    nothing_has(&here, &[PASSWORD, TOKEN]);
}

#[test]
fn a_cancelled_build_is_cancelled_at_depot_too() {
    let elsewhere = Elsewhere::start();
    let (fake, settings) = elsewhere.depot();
    let here = installation(&[settings]);
    let app = App::new("", r#"RUN ["/bin/busybox", "sleep", "7654321"]"#);
    let id = here.submit(app.path(), &["--project", "shop"]);
    eventually("the command runs", || {
        text(&here.run(&["logs", &id, "--build"])).contains("RUN").then_some(())
    });
    let output = here.run(&["cancel", &id]);
    assert!(output.status.success(), "{}", text(&output));
    here.wait_status(&id, &["cancelled"]);
    assert_eq!(fake.ends(), [["canceled"]]);
}

/// No file of the installation has any of these; journals are in Restate's own.
fn nothing_has(here: &Installation, secrets: &[&str]) {
    let mut dirs = vec![here.data()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if let Ok(content) = fs::read(entry.path()) {
                for secret in secrets {
                    let found = content.windows(secret.len()).any(|at| at == secret.as_bytes());
                    assert!(!found, "{} is in {}", secret, entry.path().display());
                }
            }
        }
    }
}
