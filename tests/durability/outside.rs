//! What an installation has done outside: in the files of the instant adapters, in a
//! cluster, or in a Docker engine.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use launchway::store::DeploymentView;
use launchway_workflows::ids::DeploymentId;

use crate::{instant::world::World, pods::Pods};

/// In the command line of a build's process, followed by its submission.
const MARK: &str = "launchway-chaos-";
/// Seconds that a build takes, unless it is to take longer.
pub const A_MOMENT: &str = "0.1";
/// Ends well when it is told to, as a server should.
const SERVE: &str = "trap 'exit 0' TERM; /bin/busybox httpd -f -p 8080 -h /bin & wait";
/// Between two looks at what is being built.
const LOOK: Duration = Duration::from_millis(10);

pub enum Outside {
    Instant(World),
    /// Builds are of the world, instances of the cluster.
    Kubernetes(World, Pods),
    Docker(Engine),
}

impl Outside {
    /// Images that were made by the deployment's build.
    pub fn images(&self, of: &DeploymentView) -> usize {
        match self {
            Self::Instant(world) | Self::Kubernetes(world, _) => {
                world.count("image", of.build_id.as_str())
            }
            Self::Docker(engine) => engine.images(of.build_id.as_str()),
        }
    }

    /// Whether the deployment's build runs now.
    pub fn builds(&self, of: &DeploymentView) -> bool {
        match self {
            Self::Instant(world) | Self::Kubernetes(world, _) => {
                world.get("builds", of.build_id.as_str()).is_some()
            }
            Self::Docker(engine) => engine.builds(&of.id) > 0,
        }
    }

    /// A deployment whose build ran twice at once, if there was one.
    pub fn built_twice_at_once(&self) -> Option<String> {
        match self {
            Self::Instant(world) | Self::Kubernetes(world, _) => {
                let doubled =
                    |event: &crate::instant::world::Event| event.what == "two-builds-at-once";
                world.events().into_iter().find(doubled).map(|event| event.id)
            }
            Self::Docker(engine) => engine.builds.doubled(),
        }
    }

    /// How often the deployment's release command was started, where that can be
    /// told.
    pub fn releases(&self, of: &DeploymentId) -> Option<usize> {
        match self {
            Self::Instant(world) => Some(world.count("task", of.as_str())),
            Self::Kubernetes(_, pods) => Some(pods.releases(of)),
            Self::Docker(_) => None,
        }
    }

    /// Whether a task of the deployment is left.
    pub fn has_task(&self, of: &DeploymentId) -> bool {
        match self {
            Self::Instant(world) => {
                world.ids("tasks").iter().any(|task| task.starts_with(of.as_str()))
            }
            Self::Kubernetes(_, pods) => pods.has_task(of),
            Self::Docker(engine) => !engine.tasks(of).is_empty(),
        }
    }

    /// The ids of the tasks of a deployment.
    pub fn tasks(&self, of: &DeploymentId) -> Vec<String> {
        let Self::Docker(engine) = self else { panic!("only of a Docker engine") };
        engine.tasks(of)
    }

    /// The tasks of a deployment go, as if somebody had removed their containers.
    pub fn lose_tasks(&self, of: &DeploymentId) {
        let Self::Instant(world) = self else { panic!("only of the instant world") };
        for task in world.ids("tasks").iter().filter(|task| task.starts_with(of.as_str())) {
            assert!(world.remove("tasks", task));
        }
    }

    /// How often something was done by the instant adapters.
    pub fn count(&self, what: &str, of: &DeploymentId) -> usize {
        let Self::Instant(world) = self else { panic!("only of the instant world") };
        world.count(what, of.as_str())
    }

    /// Instances of the deployment that run.
    pub fn instances(&self, of: &DeploymentId) -> u32 {
        match self {
            Self::Instant(world) => {
                let set = world.get("instances", of.as_str()).unwrap_or_default();
                set.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
            }
            Self::Kubernetes(_, pods) => pods.instances(of),
            Self::Docker(engine) => {
                let running = engine.running();
                u32::try_from(running.iter().filter(|id| *id == of.as_str()).count()).unwrap()
            }
        }
    }

    /// When the deployment's first instance was made, in milliseconds since the
    /// epoch, where that can be told.
    pub fn began(&self, of: &DeploymentId) -> Option<i64> {
        match self {
            Self::Instant(_) | Self::Kubernetes(..) => None,
            Self::Docker(engine) => engine.first_created(of),
        }
    }

    /// Deployments that have instances.
    pub fn deployed(&self) -> HashSet<String> {
        match self {
            Self::Instant(world) => world.ids("instances").into_iter().collect(),
            Self::Kubernetes(_, pods) => pods.deployed(),
            Self::Docker(engine) => engine.running().into_iter().collect(),
        }
    }
}

/// A Docker engine, as far as one installation has used it.
pub struct Engine {
    /// Where the installation's id is, once it has one.
    data: PathBuf,
    host: Option<String>,
    builds: Arc<Builds>,
}

/// Builds that the machine has been seen to run.
#[derive(Default)]
pub struct Builds {
    submissions: Mutex<HashMap<DeploymentId, String>>,
    doubled: Mutex<Option<String>>,
    seen: AtomicBool,
}

impl Engine {
    /// `host` as in `DOCKER_HOST`.
    pub fn new(data: &Path, host: Option<&str>) -> Self {
        let builds = Arc::default();
        let watched = Arc::downgrade(&builds);
        std::thread::spawn(move || watch(&watched));
        Self { data: data.to_owned(), host: host.map(str::to_owned), builds }
    }

    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    pub fn watch(&self) -> Arc<Builds> {
        Arc::clone(&self.builds)
    }

    fn owner(&self) -> String {
        fs::read_to_string(self.data.join("secrets/installation"))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let mut docker = Command::new("/usr/bin/docker");
        docker.args(arguments).envs(self.host.iter().map(|host| ("DOCKER_HOST", host)));
        String::from_utf8(docker.output().unwrap().stdout).unwrap()
    }

    fn images(&self, build: &str) -> usize {
        let label = format!("label=launchway.build={build}");
        let ids = self.docker(&["images", "-q", "--no-trunc", "--filter", &label]);
        ids.lines().collect::<HashSet<_>>().len()
    }

    fn builds(&self, id: &DeploymentId) -> usize {
        let submission = self.builds.submissions.lock().unwrap().get(id).cloned();
        submission.map_or(0, |submission| building().get(&submission).copied().unwrap_or(0))
    }

    /// The deployment of each container that runs.
    fn running(&self) -> Vec<String> {
        let owner = format!("label=launchway.owner={}", self.owner());
        let format = r#"{{.Label "launchway.deployment"}}"#;
        self.docker(&["ps", "--filter", &owner, "--format", format])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn tasks(&self, of: &DeploymentId) -> Vec<String> {
        let deployment = format!("label=launchway.deployment={of}");
        let (task, id) = ("label=launchway.task", r#"{{.Label "launchway.task"}}"#);
        let filters = ["--filter", &deployment, "--filter", task];
        let found = self.docker(&[&["ps", "-a", "--format", id], &filters[..]].concat());
        found.lines().map(str::to_owned).collect()
    }

    fn first_created(&self, of: &DeploymentId) -> Option<i64> {
        let label = format!("label=launchway.deployment={of}");
        let ids = self.docker(&["ps", "-aq", "--filter", &label]);
        let created =
            [&["inspect", "--format", "{{.Created}}"][..], &ids.lines().collect::<Vec<_>>()];
        let times = self.docker(&created.concat());
        let millis = |time: &str| Some(time.parse::<jiff::Timestamp>().ok()?.as_millisecond());
        times.lines().filter_map(millis).min()
    }

    /// Removes everything that the installation has left.
    pub fn clear(&self) {
        let owner = format!("label=launchway.owner={}", self.owner());
        for (list, remove) in [
            (&["ps", "-aq"][..], &["rm", "-f"][..]),
            (&["images", "-q"], &["rmi", "-f"]),
            (&["network", "ls", "-q"], &["network", "rm"]),
        ] {
            let found = self.docker(&[list, &["--filter", &owner]].concat());
            let ids: HashSet<&str> = found.lines().collect();
            if !ids.is_empty() {
                self.docker(&[remove, &ids.into_iter().collect::<Vec<_>>()].concat());
            }
        }
    }
}

impl Builds {
    /// Whose build the marked process is.
    pub fn note(&self, id: &DeploymentId, submission: &str) {
        self.submissions.lock().unwrap().insert(id.clone(), submission.to_owned());
    }

    /// `None` also means that builds were looked at at all.
    fn doubled(&self) -> Option<String> {
        assert!(self.seen.load(Ordering::Relaxed), "no build was seen to run");
        self.doubled.lock().unwrap().clone()
    }
}

/// A build context whose build takes so long and can be seen by its submission.
pub fn context(submission: &str, seconds: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::copy("/bin/busybox", dir.path().join("busybox")).unwrap();
    let dockerfile = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\n\
         RUN [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox sleep {seconds}; :\", \"{MARK}{submission}\"]\n\
         CMD [\"/bin/busybox\", \"sh\", \"-c\", \"{SERVE}\"]\n"
    );
    fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-c", "-I", "gzip -1", "-C"]).arg(dir.path()).args(["Dockerfile", "busybox"]);
    let packed = tar.output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    packed.stdout
}

/// Processes of builds, by submission.
fn building() -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        let marked = line.split('\0').find_map(|argument| argument.strip_prefix(MARK));
        if let Some(submission) = marked.filter(|_| is_first(&process.path())) {
            *counts.entry(submission.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

/// The first process of its container: between fork and exec a child has the
/// same command line.
fn is_first(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    pids.is_some_and(|pids| pids.split_whitespace().last() == Some("1"))
}

fn watch(watched: &Weak<Builds>) {
    while let Some(builds) = watched.upgrade() {
        for (submission, count) in building() {
            builds.seen.store(true, Ordering::Relaxed);
            if count > 1 {
                builds.doubled.lock().unwrap().get_or_insert(submission);
            }
        }
        drop(builds);
        std::thread::sleep(LOOK);
    }
}
