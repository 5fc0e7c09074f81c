//! What holds for every builder.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::{BuildId, DeploymentId},
    model::{BuildOptions, BuiltImage},
    ports::{BuildEvent, BuildEventKind, BuildSpec, ContextStore, Push, SignedUrl},
    secret::Secret,
};
use tokio::{sync::mpsc, time::Instant};

use super::bench::{Backend, Bench, HEAD, OWNER, run, sleeping};

macro_rules! on_every_backend {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        on_every_backend! { @one docker, Docker, $($name)* }
        on_every_backend! { @one current_docker, CurrentDocker, $($name)* }
        on_every_backend! { @one buildkit, Buildkit, $($name)* }
        on_every_backend! { @one depot, Depot, $($name)* }
    };
    (@one $module:ident, $backend:ident, $($name:ident)*) => {
        mod $module {
            use super::Backend;
            $(#[tokio::test]
            async fn $name() {
                super::$name(Backend::$backend).await;
            })*
        }
    };
}

on_every_backend! {
    stages_arguments_and_labels_reach_the_image,
    what_is_pushed_has_the_digest_of_the_registry,
    a_failing_command_is_the_users_with_its_line_and_output,
    each_cause_has_its_own_code,
    an_unreadable_context_is_not_the_users_fault,
    a_context_whose_address_has_expired_is_unreachable,
    long_and_many_lines_arrive_whole_and_in_order,
    a_hundred_thousand_lines_and_a_huge_one_arrive_or_are_said_to_be_clipped,
    a_context_of_two_hundred_megabytes_is_built,
    a_secret_is_there_for_the_command_and_nowhere_else,
    a_dropped_build_ends_in_the_engine_within_two_seconds,
    a_build_of_a_worker_that_died_is_not_run_twice_at_once,
    who_builds_what_another_one_is_building_is_given_that_image,
    an_unchanged_context_is_built_from_the_cache,
    a_build_that_is_tried_again_has_its_own_output,
    a_wrong_password_is_told_apart_from_a_lost_registry,
    a_registry_that_restarts_in_a_push_has_the_image_in_the_end,
    several_platforms_are_one_index_or_refused,
}

/// Checklist 14-16.
async fn stages_arguments_and_labels_reach_the_image(backend: Backend) {
    let dockerfile = format!(
        "{HEAD}ARG GREETING\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo $GREETING > /greeting\"]\n\
         FROM scratch AS wanted\nCOPY --from=0 /greeting /greeting\n\
         FROM scratch AS other\nCOPY missing /\n"
    );
    let bench = Bench::new(backend, &dockerfile).await;
    let options = BuildOptions {
        target: Some("wanted".to_owned()),
        build_args: BTreeMap::from([("GREETING".to_owned(), "salut".to_owned())]),
        ..BuildOptions::default()
    };
    let spec = bench.spec(options).await;
    let outcome = bench.build(&spec).await;
    let image = outcome.image();
    assert!(image.digest.starts_with("sha256:"), "{image:?}");
    assert!(image.reference.starts_with(&format!("{}:", bench.repository())), "{image:?}");
    // A crash before the result was journaled: the image is found, not built.
    assert_eq!(bench.builder.find_image(&spec).await.unwrap().as_ref(), Some(image));
    let image = bench.pushed(image).await;
    let config = bench.registry.config_of(&image.reference).await;
    let created = "org.opencontainers.image.created";
    for expected in ["org.example.revision", created, spec.deployment_id.as_str(), OWNER] {
        assert!(config.contains(expected), "{expected}: {config}");
    }
    let contents = bench.registry.contents();
    assert!(contents.windows(6).any(|bytes| bytes == b"salut\n"), "the stage's file is not there");
    let unbuilt = bench.spec(BuildOptions::default()).await;
    assert_eq!(bench.builder.find_image(&unbuilt).await.unwrap(), None);
}

/// Checklist 2: fully qualified, pullable, with the digest that it has there.
async fn what_is_pushed_has_the_digest_of_the_registry(backend: Backend) {
    let bench = Bench::new(backend, HEAD).await;
    let outcome = bench.run().await;
    let image = bench.pushed(outcome.image()).await;
    assert!(!image.local_only);
    assert!(bench.builder.has_image(&image).await.unwrap());
    bench.docker(&["rmi", "-f", &image.reference]);
    let user = format!("-ubuilder:{}", super::servers::registry::PASSWORD);
    let (host, path) = bench.repository().split_once('/').unwrap();
    let url = format!("http://{host}/v2/{path}/manifests/{}", image.digest);
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json, \
                  application/vnd.oci.image.index.v1+json, \
                  application/vnd.docker.distribution.manifest.v2+json";
    let answer = std::process::Command::new("curl")
        .args(["-s", "-o/dev/null", "-w%{http_code}", &user, "-H", accept, &url])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "200", "{image:?}");
    // Nobody can take it away unnoticed.
    let other = format!("sha256:{}", "0".repeat(64));
    let gone = BuiltImage { digest: other, ..image };
    assert!(!bench.builder.has_image(&gone).await.unwrap());
}

/// Checklist 78.
async fn a_failing_command_is_the_users_with_its_line_and_output(backend: Backend) {
    let bench = Bench::new(backend, &run("echo about to fail; exit 9")).await;
    let outcome = bench.run().await;
    assert!(matches!(outcome.error(), StepError::Permanent(_)), "{:?}", outcome.error());
    assert_eq!(outcome.code(), ErrorCode::BuildFailed);
    let failure = outcome.error().failure();
    assert!(failure.message.contains("exit code: 9"), "{failure}");
    // Docker 20.10 names the command only.
    let place = if backend == Backend::Docker { "echo about to fail" } else { "Dockerfile:3: " };
    assert!(failure.message.contains(place), "{failure}");
    assert!(failure.log_tail.iter().any(|line| line == "about to fail"), "{failure:?}");
    let failed = |event: &BuildEvent| matches!(event.kind, BuildEventKind::Failed { .. });
    assert!(outcome.events.iter().any(failed), "{:?}", outcome.events);
}

async fn each_cause_has_its_own_code(backend: Backend) {
    let bench = Bench::new(backend, "FROM nowhere.invalid/none:1\n").await;
    let missing = bench.run().await;
    assert_eq!(missing.code(), ErrorCode::BaseImageUnavailable, "{:?}", missing.error());

    let absent = format!("FROM {}/tests/none:1\n", bench.registry.host);
    bench.upload(&absent).await;
    let absent = bench.run().await;
    assert_eq!(absent.code(), ErrorCode::BaseImageUnavailable, "{:?}", absent.error());

    bench.upload("FRMO scratch\n").await;
    let misspelt = bench.run().await;
    assert_eq!(misspelt.code(), ErrorCode::BuildFailed, "{:?}", misspelt.error());
    assert!(misspelt.error().failure().message.contains("FRMO"), "{:?}", misspelt.error());

    let mut spec = bench.spec(BuildOptions::default()).await;
    spec.dockerfile_path = Some("deploy/Dockerfile".to_owned());
    let elsewhere = bench.build(&spec).await;
    assert_eq!(elsewhere.code(), ErrorCode::DockerfileMissing, "{:?}", elsewhere.error());

    bench.upload(HEAD).await;
    let options = BuildOptions { target: Some("nope".to_owned()), ..BuildOptions::default() };
    let target = bench.build(&bench.spec(options).await).await;
    assert_eq!(target.code(), ErrorCode::BuildFailed, "{:?}", target.error());
    assert!(target.error().failure().message.contains("nope"), "{:?}", target.error());

    bench.upload("FROM scratch\nCOPY no-such-file /\n").await;
    let copied = bench.run().await;
    assert_eq!(copied.code(), ErrorCode::BuildFailed, "{:?}", copied.error());
}

async fn an_unreadable_context_is_not_the_users_fault(backend: Backend) {
    let bench = Bench::new(backend, HEAD).await;
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

async fn a_context_whose_address_has_expired_is_unreachable(backend: Backend) {
    let bench = Bench::new(backend, HEAD).await;
    let mut spec = bench.spec(BuildOptions::default()).await;
    spec.context_url =
        bench.storage.presign_get("contexts/c", Duration::from_secs(1)).await.unwrap();
    let expired = || async {
        let answer =
            crate::http::client().build().unwrap().get(&spec.context_url.0).send().await.unwrap();
        answer.status() == reqwest::StatusCode::FORBIDDEN
    };
    let begun = Instant::now();
    while !expired().await {
        assert!(begun.elapsed() < Duration::from_secs(10), "the address does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let outcome = bench.build(&spec).await;
    assert_eq!(outcome.code(), ErrorCode::ContextUnreachable, "{:?}", outcome.error());
}

/// Within 200 KiB/s and 2 MiB of a step: beyond, an engine that was not told
/// otherwise clips the output and says so.
async fn long_and_many_lines_arrive_whole_and_in_order(backend: Backend) {
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; \
        /bin/busybox head -c 100000 /dev/zero | /bin/busybox tr '\\\\0' x; echo; echo the end";
    let bench = Bench::new(backend, &run(script)).await;
    let outcome = bench.run().await;
    outcome.image();
    let lines = outcome.lines();
    let numbered: Vec<_> = lines.iter().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(numbered.len(), 3000);
    assert_eq!(numbered[2999], "line 2999");
    let longest = lines.iter().map(String::len).max().unwrap();
    assert_eq!((longest, lines.last().unwrap().as_str()), (100_000, "the end"));
}

/// Docker 20.10 cannot be told not to clip what one command prints.
async fn a_hundred_thousand_lines_and_a_huge_one_arrive_or_are_said_to_be_clipped(
    backend: Backend,
) {
    let script = "/bin/busybox seq 1 100000; \
        /bin/busybox head -c 5000000 /dev/zero | /bin/busybox tr '\\\\0' x; echo; echo the end";
    let bench = Bench::new(backend, &run(script)).await;
    let outcome = bench.run().await;
    outcome.image();
    let lines = outcome.lines();
    if backend == Backend::Docker {
        assert!(lines.iter().any(|line| line.contains("output clipped")), "{}", lines.len());
        return;
    }
    let numbers = lines.iter().filter_map(|line| line.parse::<u32>().ok());
    assert!(numbers.eq(1..=100_000), "of {} lines", lines.len());
    let longest = lines.iter().map(String::len).max().unwrap();
    assert_eq!((longest, lines.last().unwrap().as_str()), (5_000_000, "the end"));
}

/// Only what the image needs is pushed.
async fn a_context_of_two_hundred_megabytes_is_built(backend: Backend) {
    const SIZE: usize = 200 << 20;
    let dockerfile = format!(
        "{HEAD}COPY noise /noise\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \
         \"/bin/busybox stat -c size-%s /noise | /bin/busybox tee /size\"]\n\
         FROM scratch AS measured\nCOPY --from=0 /size /\n"
    );
    let bench = Bench::new(backend, &dockerfile).await;
    let mut noise = vec![0; 1 << 20];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut noise);
    bench.add("noise", &noise.repeat(SIZE >> 20));
    bench.upload_as(&dockerfile, "-c").await;
    let spec = bench
        .spec(BuildOptions { target: Some("measured".to_owned()), ..BuildOptions::default() })
        .await;
    let outcome = bench.build(&spec).await;
    outcome.image();
    assert!(outcome.lines().contains(&format!("size-{SIZE}")), "{:?}", outcome.lines());
}

async fn a_secret_is_there_for_the_command_and_nowhere_else(backend: Backend) {
    const VALUE: &str = "s3cr3t-of-this-build";
    let dockerfile = format!(
        "{HEAD}RUN --mount=type=secret,id=token,target=/token,required \
         [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox cat /token; \
         /bin/busybox sha256sum /token > /sum\"]\n"
    );
    let bench = Bench::new(backend, &dockerfile).await;
    let mut spec = bench.spec(BuildOptions::default()).await;
    let without = bench.build(&spec).await;
    assert_eq!(without.code(), ErrorCode::BuildFailed, "{:?}", without.error());
    spec.secrets = BTreeMap::from([("token".to_owned(), Secret::new(VALUE))]);
    spec.build_id = BuildId::generate();
    let outcome = bench.build(&spec).await;
    let image = bench.pushed(outcome.image()).await;
    assert!(outcome.lines().iter().any(|line| line == "<secret>"), "{:?}", outcome.lines());
    assert!(!format!("{:?}", outcome.events).contains(VALUE), "the secret is in the log");
    let contents = bench.registry.contents();
    let has = |text: &[u8]| contents.windows(text.len()).any(|bytes| bytes == text);
    // It was there: the layer has its hash, which only the command could make.
    let sum = sum_of(VALUE);
    assert!(has(sum.as_bytes()), "the command did not see the secret");
    assert!(!has(VALUE.as_bytes()), "the secret is in a layer or in the configuration");
    assert!(!bench.registry.config_of(&image.reference).await.contains(VALUE));
}

fn sum_of(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Cancelling drops the build's future; a killed process closes the
/// connection likewise.
async fn a_dropped_build_ends_in_the_engine_within_two_seconds(backend: Backend) {
    let seconds = unique_seconds(1);
    let bench = Bench::new(backend, &run(&format!("/bin/busybox sleep {seconds}"))).await;
    let building = started(&bench, bench.spec(BuildOptions::default()).await, &seconds).await;
    building.abort();
    gone(&seconds, Duration::from_secs(2)).await;
}

/// A worker that is killed comes back and builds again at once.
async fn a_build_of_a_worker_that_died_is_not_run_twice_at_once(backend: Backend) {
    let seconds = unique_seconds(2);
    let bench = Bench::new(backend, &run(&format!("/bin/busybox sleep {seconds}"))).await;
    let spec = bench.spec(BuildOptions::default()).await;
    let first = started(&bench, spec.clone(), &seconds).await;
    first.abort();
    let second = started(&bench, spec, &seconds).await;
    assert_eq!(sleeping(&seconds), 1, "two builds of one id run");
    second.abort();
    gone(&seconds, Duration::from_secs(5)).await;
}

/// Another worker, that is frozen to Restate, has it.
async fn who_builds_what_another_one_is_building_is_given_that_image(backend: Backend) {
    let seconds = format!("4.{}", std::process::id());
    let bench = Bench::new(backend, &run(&format!("/bin/busybox sleep {seconds}"))).await;
    let spec = bench.spec(BuildOptions::default()).await;
    let first = started(&bench, spec.clone(), &seconds).await;
    let second = bench.build(&spec).await;
    assert_eq!(second.lines(), Vec::<String>::new());
    let ran = |event: &BuildEvent| event.vertex.contains("RUN");
    assert!(!second.events.iter().any(ran), "it was built again: {:?}", second.events);
    assert_eq!(second.image(), &first.await.unwrap().unwrap());
}

/// A build that goes on.
pub(super) type Building = tokio::task::JoinHandle<Result<BuiltImage, StepError>>;

/// A time to sleep for that no other test's process has.
pub(super) fn unique_seconds(digit: u32) -> String {
    format!("{digit}{}", 1_000_000 + std::process::id())
}

/// The build, once its command runs.
pub(super) async fn started(bench: &Bench, spec: BuildSpec, seconds: &str) -> Building {
    let (events, mut received) = mpsc::channel(16);
    let builder = Arc::clone(&bench.builder);
    let building = tokio::spawn(async move { builder.build(&spec, events).await });
    let mut runs = false;
    while !runs {
        tokio::select! {
            event = received.recv() => {
                let event = event.expect("the build has ended");
                runs = matches!(event.kind, BuildEventKind::Started) && event.vertex.contains("RUN");
            }
            () = tokio::time::sleep(Duration::from_secs(30)) => panic!("the build does not start"),
        }
    }
    let begun = Instant::now();
    while sleeping(seconds) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the command does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever does not read holds the build back.
    tokio::spawn(async move { while received.recv().await.is_some() {} });
    building
}

pub(super) async fn gone(seconds: &str, limit: Duration) {
    let begun = Instant::now();
    while sleeping(seconds) > 0 {
        assert!(begun.elapsed() < limit, "the build goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn an_unchanged_context_is_built_from_the_cache(backend: Backend) {
    let unique = DeploymentId::generate();
    let dockerfile = run(&format!("echo {unique} > /made"));
    let bench = Bench::new(backend, &dockerfile).await;
    let mut spec = bench.spec(BuildOptions::default()).await;
    spec.options.no_cache = false;
    bench.build(&spec).await.image();
    spec.build_id = BuildId::generate();
    let again = bench.build(&spec).await;
    again.image();
    let cached: Vec<_> = again
        .events
        .iter()
        .filter(|event| event.kind == BuildEventKind::Cached)
        .map(|event| event.vertex.as_str())
        .collect();
    assert!(cached.iter().any(|vertex| vertex.contains("RUN")), "{:?}", again.events);
}

/// A retried deployment builds under the same id.
async fn a_build_that_is_tried_again_has_its_own_output(backend: Backend) {
    let bench = Bench::new(backend, &run("echo of the first; exit 1")).await;
    let spec = bench.spec(BuildOptions::default()).await;
    bench.build(&spec).await.error();
    bench.upload(&run("echo of the second")).await;
    let begun = Instant::now();
    let second = bench.build(&spec).await;
    second.image();
    assert_eq!(second.lines(), ["of the second"]);
    assert!(begun.elapsed() < Duration::from_secs(9), "its status was waited for in vain");
}

async fn a_wrong_password_is_told_apart_from_a_lost_registry(backend: Backend) {
    let mut bench = Bench::logged_in(backend, HEAD, "not the password").await;
    let refused = built_and_pushed(&bench).await.unwrap_err();
    assert_eq!(refused.failure().code, ErrorCode::RegistryAuth, "{refused:?}");
    assert!(matches!(refused, StepError::Permanent(_)));
    assert!(!format!("{refused:?}").contains("not the password"), "{refused:?}");
    bench.registry.kill();
    let lost = built_and_pushed(&bench).await.unwrap_err();
    assert_eq!(lost.failure().code, ErrorCode::RegistryUnavailable, "{lost:?}");
    assert!(matches!(lost, StepError::Transient(_)));
}

async fn built_and_pushed(bench: &Bench) -> Result<(), StepError> {
    let outcome = bench.run().await;
    let image = outcome.result?;
    bench.builder.push(&image).await.map(drop)
}

/// As the step does it: what is transient is tried again.
async fn a_registry_that_restarts_in_a_push_has_the_image_in_the_end(backend: Backend) {
    const TRIES: usize = 10;
    let mut bench = Bench::new(backend, HEAD).await;
    let mut noise = vec![0; 16 << 20];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut noise);
    bench.add("noise", &noise);
    bench.upload(&format!("{HEAD}COPY noise /noise\n")).await;
    let (builder, spec) = (Arc::clone(&bench.builder), bench.spec(BuildOptions::default()).await);
    let pushing = tokio::spawn(async move {
        let mut failed = Vec::new();
        while failed.len() < TRIES {
            let (events, mut received) = mpsc::channel(16);
            let (built, ()) = tokio::join!(builder.build(&spec, events), async {
                while received.recv().await.is_some() {}
            });
            let pushed = match built {
                Ok(image) => builder.push(&image).await,
                Err(error) => Err(error),
            };
            match pushed {
                Ok(pushed) => return pushed,
                Err(StepError::Transient(failure)) => failed.push(failure),
                Err(error) => panic!("it is given up: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("it is never pushed: {failed:?}");
    });
    let begun = Instant::now();
    while !bench.registry.is_receiving() {
        assert!(begun.elapsed() < Duration::from_secs(60) && !pushing.is_finished(), "no push");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.registry.kill();
    bench.registry.restart();
    let Push::Pushed(image) = pushing.await.unwrap() else { panic!("nothing was pushed") };
    assert!(bench.builder.has_image(&image).await.unwrap(), "{image:?}");
    bench.registry.config_of(&image.reference).await;
    bench.docker(&["rmi", "-f", &image.reference]);
}

/// Checklist 17-19. Only Docker 20.10 can build for one platform at a time; it
/// says so, and nothing is pushed.
async fn several_platforms_are_one_index_or_refused(backend: Backend) {
    let bench = Bench::new(backend, HEAD).await;
    let platform = Some("linux/amd64,linux/arm64".to_owned());
    let options = BuildOptions { platform, ..BuildOptions::default() };
    let outcome = bench.build(&bench.spec(options).await).await;
    if backend == Backend::Docker {
        assert_eq!(outcome.code(), ErrorCode::BuildFailed, "{:?}", outcome.error());
        let said = &outcome.error().failure().message;
        assert!(said.contains("one platform"), "{said}");
        return;
    }
    let image = bench.pushed(outcome.image()).await;
    let platforms = bench.registry.platforms_of(&image.reference).await;
    for wanted in ["linux/amd64", "linux/arm64"] {
        assert!(platforms.iter().any(|found| found == wanted), "{wanted}: {platforms:?}");
    }
    // Found again as what it is, so that it is not built twice.
    assert!(bench.builder.has_image(&image).await.unwrap(), "{image:?}");
}
