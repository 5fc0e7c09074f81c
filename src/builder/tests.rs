//! Builds on the real engine, from contexts in the real embedded store.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::{BuildId, DeploymentId, WorkspaceId},
    model::{BuildOptions, BuiltImage},
    ports::{BuildEvent, BuildEventKind, BuildSpec, Builder, ContextStore, SignedUrl},
};
use tokio::{sync::mpsc, time::Instant};

use super::DockerBuilder;
use crate::storage::{EmbeddedS3, EmbeddedSettings, S3Storage, StorageSettings};

const OWNER: &str = "builder-tests";
const HEAD: &str = "FROM scratch\nCOPY busybox /bin/busybox\n";

/// A store with one context, and the builder.
struct Bench {
    storage: S3Storage,
    builder: DockerBuilder,
    _dir: tempfile::TempDir,
}

/// What a build has said and come to.
struct Outcome {
    result: Result<BuiltImage, StepError>,
    events: Vec<BuildEvent>,
}

impl Outcome {
    fn lines(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match &event.kind {
                BuildEventKind::Stdout(line) | BuildEventKind::Stderr(line) => Some(line.as_str()),
                _ => None,
            })
            .collect()
    }

    fn error(&self) -> &StepError {
        self.result.as_ref().expect_err("it was built")
    }

    fn code(&self) -> ErrorCode {
        self.error().failure().code
    }
}

impl Bench {
    async fn with_dockerfile(dockerfile: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::copy("/bin/busybox", context.join("busybox")).unwrap();
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let storage = store(&dir.path().join("objects")).await;
        let packed =
            Command::new("tar").args(["-cz", "-C"]).arg(&context).arg(".").output().unwrap();
        storage.put("contexts/c", packed.stdout.into()).await.unwrap();
        Self { storage, builder: DockerBuilder::connect(OWNER).unwrap(), _dir: dir }
    }

    async fn spec(&self, options: BuildOptions) -> BuildSpec {
        let context_url =
            self.storage.presign_get("contexts/c", Duration::from_secs(60)).await.unwrap();
        BuildSpec {
            build_id: BuildId::generate(),
            deployment_id: DeploymentId::generate(),
            workspace_id: WorkspaceId::local(),
            project_slug: "builder-tests".to_owned(),
            context_url,
            dockerfile_path: None,
            options: BuildOptions { no_cache: true, ..options },
            labels: BTreeMap::from([("org.example.revision".to_owned(), "abc".to_owned())]),
        }
    }

    async fn build(&self, spec: &BuildSpec) -> Outcome {
        let (events, mut received) = mpsc::channel(16);
        let collecting = async {
            let mut all = Vec::new();
            while let Some(event) = received.recv().await {
                all.push(event);
            }
            all
        };
        let (result, events) = tokio::join!(self.builder.build(spec, events), collecting);
        if let Ok(image) = &result {
            docker(&["rmi", "-f", &image.reference]);
        }
        Outcome { result, events }
    }
}

async fn store(dir: &Path) -> S3Storage {
    let server = EmbeddedS3::bind(&EmbeddedSettings {
        bind: "127.0.0.1:0".parse().unwrap(),
        dir: dir.to_owned(),
        access_key_id: "id".to_owned(),
        secret_access_key: "secret".to_owned(),
        max_object_bytes: 1 << 30,
    })
    .await
    .unwrap();
    let url = format!("http://{}", server.address().unwrap());
    tokio::spawn(server.serve(std::future::pending()));
    let storage = S3Storage::new(StorageSettings {
        url: url.clone(),
        uploader_url: url.clone(),
        builder_url: url,
        bucket: "launchway".to_owned(),
        region: "us-east-1".to_owned(),
        access_key_id: "id".to_owned(),
        secret_access_key: "secret".to_owned(),
        upload_url_lifetime: Duration::from_secs(60),
    });
    storage.ensure_bucket().await.unwrap();
    storage
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(script: &str) -> String {
    format!("{HEAD}RUN [\"/bin/busybox\", \"sh\", \"-c\", \"{script}\"]\n")
}

#[tokio::test]
async fn stages_arguments_and_labels_reach_the_image() {
    let dockerfile = format!(
        "{HEAD}ARG GREETING\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo $GREETING > /greeting\"]\n\
         FROM scratch AS wanted\nCOPY --from=0 /greeting /greeting\n\
         FROM scratch AS other\nCOPY missing /\n"
    );
    let bench = Bench::with_dockerfile(&dockerfile).await;
    let spec = bench
        .spec(BuildOptions {
            target: Some("wanted".to_owned()),
            build_args: BTreeMap::from([("GREETING".to_owned(), "salut".to_owned())]),
            ..BuildOptions::default()
        })
        .await;
    let (events, mut received) = mpsc::channel(16);
    let (built, ()) = tokio::join!(bench.builder.build(&spec, events), async {
        while received.recv().await.is_some() {}
    });
    let image = built.unwrap();
    assert!(image.local_only && image.digest.starts_with("sha256:"), "{image:?}");
    let labels = docker(&["inspect", "-f", "{{json .Config.Labels}}", &image.digest]);
    for expected in ["org.example.revision", spec.deployment_id.as_str(), OWNER] {
        assert!(labels.contains(expected), "{expected}: {labels}");
    }
    // A crash before the result was journaled: the image is found, not built.
    assert_eq!(bench.builder.find_image(&spec).await.unwrap(), Some(image.clone()));
    docker(&["rmi", "-f", &image.reference]);
    assert_eq!(bench.builder.find_image(&spec).await.unwrap(), None);
}

/// Checklist 78.
#[tokio::test]
async fn a_failing_command_is_the_users_with_its_output() {
    let bench = Bench::with_dockerfile(&run("echo about to fail; exit 9")).await;
    let outcome = bench.build(&bench.spec(BuildOptions::default()).await).await;
    assert!(matches!(outcome.error(), StepError::Permanent(_)));
    assert_eq!(outcome.code(), ErrorCode::BuildFailed);
    let failure = outcome.error().failure();
    assert!(failure.message.contains("exit code: 9"), "{failure}");
    assert!(failure.log_tail.iter().any(|line| line == "about to fail"), "{failure:?}");
    let failed = |event: &BuildEvent| matches!(event.kind, BuildEventKind::Failed { .. });
    assert!(outcome.events.iter().any(failed), "{:?}", outcome.events);
}

#[tokio::test]
async fn each_cause_has_its_own_code() {
    let bench = Bench::with_dockerfile("FROM nowhere.invalid/none:1\n").await;
    let missing = bench.build(&bench.spec(BuildOptions::default()).await).await;
    assert_eq!(missing.code(), ErrorCode::BaseImageUnavailable, "{:?}", missing.error());

    let bench = Bench::with_dockerfile("FRMO scratch\n").await;
    let misspelt = bench.build(&bench.spec(BuildOptions::default()).await).await;
    assert_eq!(misspelt.code(), ErrorCode::BuildFailed, "{:?}", misspelt.error());
    assert!(misspelt.error().failure().message.contains("FRMO"), "{:?}", misspelt.error());

    let mut spec = bench.spec(BuildOptions::default()).await;
    spec.dockerfile_path = Some("deploy/Dockerfile".to_owned());
    let elsewhere = bench.build(&spec).await;
    assert_eq!(elsewhere.code(), ErrorCode::DockerfileMissing, "{:?}", elsewhere.error());

    let bench = Bench::with_dockerfile(HEAD).await;
    let options = BuildOptions { target: Some("nope".to_owned()), ..BuildOptions::default() };
    let target = bench.build(&bench.spec(options).await).await;
    assert_eq!(target.code(), ErrorCode::BuildFailed, "{:?}", target.error());
    assert!(target.error().failure().message.contains("nope"), "{:?}", target.error());
}

#[tokio::test]
async fn an_unreadable_context_is_not_the_users_fault() {
    let bench = Bench::with_dockerfile(HEAD).await;
    let mut spec = bench.spec(BuildOptions::default()).await;
    spec.context_url = SignedUrl(spec.context_url.0.replace("contexts/c", "contexts/none"));
    let absent = bench.build(&spec).await;
    assert_eq!(absent.code(), ErrorCode::ContextUnreachable, "{:?}", absent.error());
    assert!(matches!(absent.error(), StepError::Transient(_)));
    let said = format!("{:?}{:?}", absent.error(), absent.events);
    assert!(!said.contains("X-Amz-Signature="), "the signature leaks: {said}");
    spec.context_url = SignedUrl("http://127.0.0.1:1/context.tar.gz".to_owned());
    let nobody = bench.build(&spec).await;
    assert_eq!(nobody.code(), ErrorCode::ContextUnreachable, "{:?}", nobody.error());
}

/// Within 200 KiB/s and 2 MiB of a step: beyond, the engine itself clips the
/// output and says so.
#[tokio::test]
async fn long_and_many_lines_arrive_whole_and_in_order() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; \
        /bin/busybox head -c 100000 /dev/zero | /bin/busybox tr '\\\\0' x; echo; echo the end";
    let bench = Bench::with_dockerfile(&run(script)).await;
    let outcome = bench.build(&bench.spec(BuildOptions::default()).await).await;
    assert!(outcome.result.is_ok(), "{:?}", outcome.error());
    let lines = outcome.lines();
    let numbered: Vec<_> = lines.iter().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(numbered.len(), 3000);
    assert_eq!(*numbered[2999], "line 2999");
    let longest = lines.iter().map(|line| line.len()).max().unwrap();
    assert_eq!((longest, *lines.last().unwrap()), (100_000, "the end"));
}

/// Cancelling drops the build's future; a killed process closes the
/// connection likewise.
#[tokio::test]
async fn a_dropped_build_ends_in_the_engine_within_two_seconds() {
    let seconds = "86399";
    let bench = Bench::with_dockerfile(&run(&format!("/bin/busybox sleep {seconds}"))).await;
    let spec = bench.spec(BuildOptions::default()).await;
    let (events, mut received) = mpsc::channel(16);
    let builder = bench.builder.clone();
    let building = tokio::spawn(async move { builder.build(&spec, events).await });
    while !sleeping(seconds) {
        tokio::select! {
            event = received.recv() => assert!(event.is_some(), "the build has ended"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    building.abort();
    let begun = Instant::now();
    while sleeping(seconds) {
        assert!(begun.elapsed() < Duration::from_secs(2), "the build goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process of the build runs, as the system sees it.
fn sleeping(seconds: &str) -> bool {
    let wanted = format!("/bin/busybox\0sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|command| command == wanted.as_bytes())
}
