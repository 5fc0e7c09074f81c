//! Builds of a workspace: never more than its limit, production first, nobody
//! starves.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use launchway_proto::ctrl::v1::{
    BuildOptions, CreateBuildRequest, build_service_client::BuildServiceClient,
};
use tonic::{Request, metadata::MetadataValue};

use crate::support::{App, Installation, eventually, text};

const LIMIT: usize = 3;
const BUILDS: usize = 50;
/// Between two looks at what runs.
const LOOK: Duration = Duration::from_millis(10);
/// Of a build that is in the way until it is cancelled.
const BLOCKING: &str = "86323";

/// Its command can be told from any other on this machine, and each `N` is built by
/// itself: BuildKit runs what is the same once.
const BUILD: &str = r#"ARG N
ARG SECONDS
RUN ["/bin/busybox", "sh", "-c", "echo $N; /bin/busybox sleep $SECONDS"]"#;

/// Uploads the context with a first build; the key of the one and the id of the other.
fn upload(here: &Installation) -> (String, String) {
    let app = App::new("built", BUILD);
    let path = app.path().display().to_string();
    let seconds = format!("SECONDS={BLOCKING}");
    let args = ["--build-arg", "N=first", "--build-arg", &seconds];
    let built = here.json(&[&["build", &path, "-p", "shop", "--detach"], &args[..]].concat());
    let contexts = here.contexts();
    let [file] = &contexts[..] else { panic!("{contexts:?}") };
    let key = file.strip_prefix(here.bucket()).unwrap().display().to_string();
    (key, built["deployment_id"].as_str().unwrap().to_owned())
}

/// A build of the context for each of the environments, in this order.
fn submit(here: &Installation, context: &str, seconds: &str, environments: &[&str]) -> Vec<String> {
    let control = format!("http://{}", here.address("control.bind"));
    let key: MetadataValue<_> = format!("Bearer {}", here.token()).parse().unwrap();
    let submitting = async {
        let mut builds = BuildServiceClient::connect(control).await.unwrap();
        let mut ids = Vec::new();
        for (at, environment) in environments.iter().enumerate() {
            let args = [("N", at.to_string()), ("SECONDS", seconds.to_owned())];
            let build_args = args.map(|(name, value)| (name.to_owned(), value)).into();
            let mut request = Request::new(CreateBuildRequest {
                build_context_path: context.to_owned(),
                unkey_project_id: "shop".to_owned(),
                environment_slug: (*environment).to_owned(),
                build_options: Some(BuildOptions { build_args, ..BuildOptions::default() }),
                detach: true,
                ..CreateBuildRequest::default()
            });
            request.metadata_mut().insert("authorization", key.clone());
            ids.push(builds.create_build(request).await.unwrap().into_inner().deployment_id);
        }
        ids
    };
    tokio::runtime::Runtime::new().unwrap().block_on(submitting)
}

/// Builds that run, as the machine sees them.
fn running(seconds: &str) -> usize {
    let wanted = format!("/bin/busybox\0sleep\0{seconds}\0");
    let runs = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == wanted.as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().filter(runs).count()
}

/// Looks again and again how many builds run.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn begin(seconds: String) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, seen) = (Arc::clone(&stop), Arc::clone(&most));
        let thread = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                seen.fetch_max(running(&seconds), Ordering::Relaxed);
                // Far shorter than a build, and not all of a core.
                thread::sleep(LOOK);
            }
        });
        Self { stop, most, thread }
    }

    fn most(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

#[test]
fn fifty_builds_run_three_at_a_time_production_first_through_a_kill() {
    // Of this run alone: the builder remembers what it has run before.
    let seconds = format!("0.4{}", std::process::id());
    let mut here = Installation::start_with(&["build.concurrency=3"]);
    let (context, first) = upload(&here);
    let mut blockers = submit(&here, &context, BLOCKING, &["preview"; LIMIT - 1]);
    blockers.push(first);
    eventually("the blockers build", || (running(BLOCKING) == LIMIT).then_some(()));
    // Every second one for production.
    let environments = ["preview", "production"].repeat(BUILDS / 2);
    let ids = submit(&here, &context, &seconds, &environments);
    here.wait_status(&ids[BUILDS - 1], &["queued"]);
    let watch = Watch::begin(seconds);
    for blocker in &blockers {
        let cancelled = here.run(&["cancel", blocker]);
        assert!(cancelled.status.success(), "{}", text(&cancelled));
    }
    eventually("some are built", || {
        let done = here.json(&["list", "-p", "shop", "--limit", "100"]);
        let done = done["deployments"].as_array()?.iter().filter(|d| d["status"] == "built");
        (done.count() > BUILDS / 4).then_some(())
    });
    here.kill_up();
    here.up();
    let mut started: Vec<(i64, bool)> = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let shown = here.wait_status(id, &["built"]);
        let steps = shown["steps"].as_array().unwrap();
        let slot = steps.iter().find(|row| row["name"] == "acquire-slot").unwrap();
        started.push((slot["ended_at"].as_i64().unwrap(), at % 2 == 1));
    }
    assert_eq!(watch.most(), LIMIT, "builds that ran at once");
    started.sort();
    let order: String =
        started.iter().map(|(_, production)| if *production { 'P' } else { 'p' }).collect();
    // Three for production, then one that has waited longest.
    let production_in_first_half = order[..BUILDS / 2].matches('P').count();
    assert!(production_in_first_half >= 17, "production goes first: {order}");
    assert!(!order.contains("PPPPPPP"), "previews do not starve: {order}");
}
