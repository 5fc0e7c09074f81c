//! What one test builds with, and what came of it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::{BuildId, DeploymentId, ProjectId, WorkspaceId},
    model::{BuildOptions, BuiltImage},
    ports::{BuildEvent, BuildEventKind, BuildSpec, Builder, ContextStore, Push},
    secret::Secret,
};
use tokio::sync::mpsc;

use super::servers::{
    depot::{FakeDepot, TOKEN},
    engine::current_engine,
    forwarder::Forwarder,
    registry::{PASSWORD, TestRegistry},
};
use crate::{
    builder::{BuildkitBuilder, DepotAccount, DepotBuilder, DepotLimits, DockerBuilder, Ledger},
    registry::Registry,
    storage::{self, S3Storage},
    store::Store,
    up::depot::StoredLedger,
};

pub(super) const OWNER: &str = "builder-tests";
/// The start of a Dockerfile with a shell in it.
pub(super) const HEAD: &str = "FROM scratch\nCOPY busybox /bin/busybox\n";

/// What builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// This machine's Docker engine: 20.10 on Debian 12.
    Docker,
    /// A current Docker engine.
    CurrentDocker,
    /// A current BuildKit behind mutual TLS.
    Buildkit,
    /// The same as the machine of a fake Depot.
    Depot,
}

/// A store with one context, a builder and a registry.
pub(super) struct Bench {
    pub(super) storage: S3Storage,
    pub(super) builder: Arc<dyn Builder>,
    pub(super) registry: TestRegistry,
    pub(super) forwarder: Option<Forwarder>,
    depot: Option<(FakeDepot, Store)>,
    project: ProjectId,
    repository: String,
    dir: tempfile::TempDir,
    host: Option<String>,
    built: Mutex<Vec<String>>,
}

/// What a build has said and come to.
pub(super) struct Outcome {
    pub(super) result: Result<BuiltImage, StepError>,
    pub(super) events: Vec<BuildEvent>,
}

impl Outcome {
    /// Output, with the parts of long lines joined.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut open = String::new();
        for event in &self.events {
            if let BuildEventKind::Output { text, ends, .. } = &event.kind {
                open.push_str(text);
                if *ends {
                    lines.push(std::mem::take(&mut open));
                }
            }
        }
        lines
    }

    pub(super) fn image(&self) -> &BuiltImage {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error:?}"))
    }

    pub(super) fn error(&self) -> &StepError {
        self.result.as_ref().expect_err("it was built")
    }

    pub(super) fn code(&self) -> ErrorCode {
        self.error().failure().code
    }
}

impl Bench {
    pub(super) async fn new(backend: Backend, dockerfile: &str) -> Self {
        Self::logged_in(backend, dockerfile, PASSWORD).await
    }

    /// With a login of which the registry may think otherwise.
    pub(super) async fn logged_in(backend: Backend, dockerfile: &str, password: &str) -> Self {
        let registry = TestRegistry::start();
        let settings = registry.settings(password);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        let storage =
            storage::tests::serve(&dir.path().join("objects"), 1 << 30, Duration::from_secs(60))
                .await;
        let host = engine_of(backend);
        let (mut forwarder, mut depot, mut project) = (None, None, ProjectId::generate());
        let mut repository = format!("{}/tests/local/builder-tests", registry.host);
        let builder: Arc<dyn Builder> = match backend {
            Backend::Docker => Arc::new(DockerBuilder::connect(Some(settings), OWNER).unwrap()),
            Backend::CurrentDocker => docker_at(host.as_deref().unwrap(), Some(settings)),
            Backend::Buildkit => {
                let started = forwarder.insert(Forwarder::start(current_engine()).await);
                Arc::new(BuildkitBuilder::new(started.client(), settings, OWNER))
            }
            Backend::Depot => {
                let started = forwarder.insert(Forwarder::start(current_engine()).await);
                let fake = FakeDepot::start(started, true).await;
                let (database, id) = database(dir.path()).await;
                let account = account(&fake, settings);
                let (_, database) = depot.insert((fake, database));
                project = id;
                repository = format!("{}/depotproject1", registry.host);
                Arc::new(depot_builder(account, database, limits()))
            }
        };
        let bench = Self {
            storage,
            builder,
            registry,
            forwarder,
            depot,
            project,
            repository,
            dir,
            host,
            built: Mutex::default(),
        };
        bench.upload(dockerfile).await;
        bench
    }

    /// The name of the image without its tag.
    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn depot(&self) -> &FakeDepot {
        &self.depot.as_ref().unwrap().0
    }

    /// Another worker that builds with Depot, on the same database.
    pub(super) fn depot_builder(
        &self,
        change: impl Fn(&mut DepotAccount, &mut DepotLimits),
    ) -> DepotBuilder {
        let (fake, database) = self.depot.as_ref().unwrap();
        let mut account = account(fake, self.registry.settings(PASSWORD));
        let mut limits = limits();
        change(&mut account, &mut limits);
        depot_builder(account, database, limits)
    }

    /// How many builds have ended that Depot was not told of.
    pub(super) async fn untold(&self) -> usize {
        let database = self.depot.as_ref().unwrap().1.clone();
        StoredLedger(database).untold().await.unwrap().len()
    }

    /// Replaces the context.
    pub(super) async fn upload(&self, dockerfile: &str) {
        self.upload_as(dockerfile, "-cz").await;
    }

    /// Replaces the context by a tar archive that is made with this flag.
    pub(super) async fn upload_as(&self, dockerfile: &str, flag: &str) {
        let context = self.dir.path().join("context");
        fs::copy("/bin/busybox", context.join("busybox")).unwrap();
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let packed =
            Command::new("tar").args([flag, "-C"]).arg(&context).arg(".").output().unwrap();
        self.storage.put("contexts/c", packed.stdout.into()).await.unwrap();
    }

    /// Adds a file to what the next upload packs.
    pub(super) fn add(&self, name: &str, content: &[u8]) {
        fs::write(self.dir.path().join("context").join(name), content).unwrap();
    }

    pub(super) async fn spec(&self, options: BuildOptions) -> BuildSpec {
        let context_url =
            self.storage.presign_get("contexts/c", Duration::from_secs(60)).await.unwrap();
        BuildSpec {
            build_id: BuildId::generate(),
            deployment_id: DeploymentId::generate(),
            workspace_id: WorkspaceId::local(),
            project_id: self.project.clone(),
            project_slug: "builder-tests".to_owned(),
            context_url,
            dockerfile_path: None,
            options: BuildOptions { no_cache: true, ..options },
            secrets: BTreeMap::new(),
            labels: BTreeMap::from([("org.example.revision".to_owned(), "abc".to_owned())]),
            max_output: 64 << 20,
        }
    }

    /// Builds a new build of the context.
    pub(super) async fn run(&self) -> Outcome {
        self.build(&self.spec(BuildOptions::default()).await).await
    }

    pub(super) async fn build(&self, spec: &BuildSpec) -> Outcome {
        let (result, events) = build_with(&*self.builder, spec).await;
        if let Ok(image) = &result {
            self.built.lock().unwrap().push(image.reference.clone());
        }
        Outcome { result, events }
    }

    /// Builds and pushes; the image as it is in the registry.
    pub(super) async fn pushed(&self, image: &BuiltImage) -> BuiltImage {
        match self.builder.push(image).await {
            Ok(Push::Pushed(image)) => image,
            other => panic!("{other:?}"),
        }
    }

    /// What `docker` says, of the engine that builds.
    pub(super) fn docker(&self, args: &[&str]) -> String {
        let host = self.host.iter().flat_map(|host| ["-H", host]);
        let output = Command::new("docker").args(host).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// What a builder makes of it, and everything that it said meanwhile.
pub(super) async fn build_with(
    builder: &dyn Builder,
    spec: &BuildSpec,
) -> (Result<BuiltImage, StepError>, Vec<BuildEvent>) {
    let (events, mut received) = mpsc::channel(16);
    let collecting = async {
        let mut all = Vec::new();
        while let Some(event) = received.recv().await {
            all.push(event);
        }
        all
    };
    tokio::join!(builder.build(spec, events), collecting)
}

impl Drop for Bench {
    fn drop(&mut self) {
        for reference in std::mem::take(&mut *self.built.lock().unwrap()) {
            self.docker(&["rmi", "-f", &reference]);
        }
    }
}

fn account(fake: &FakeDepot, registry: Registry) -> DepotAccount {
    DepotAccount {
        api_url: fake.url.clone(),
        token: Secret::new(TOKEN),
        organization: None,
        region: "us-east-1".to_owned(),
        registry,
    }
}

fn limits() -> DepotLimits {
    DepotLimits { health: Duration::from_millis(50), ..DepotLimits::default() }
}

fn depot_builder(account: DepotAccount, database: &Store, limits: DepotLimits) -> DepotBuilder {
    let ledger = Arc::new(StoredLedger(database.clone()));
    DepotBuilder::start(account, ledger, limits, OWNER).unwrap()
}

/// A database with a project.
async fn database(dir: &Path) -> (Store, ProjectId) {
    let url = format!("sqlite://{}", dir.join("launchway.db").display());
    let database = Store::open(&url).await.unwrap();
    let workspace = WorkspaceId::local();
    database.ensure_workspace(&workspace).await.unwrap();
    let project = database.ensure_project(&workspace, "builder-tests").await.unwrap().unwrap();
    (database, project)
}

/// The address of the engine behind a backend; `None`: the default one.
fn engine_of(backend: Backend) -> Option<String> {
    let current = || format!("unix://{}", current_engine().display());
    (backend != Backend::Docker).then(current)
}

pub(super) fn docker_at(host: &str, registry: Option<Registry>) -> Arc<dyn Builder> {
    Arc::new(DockerBuilder::at(host, registry, OWNER).unwrap())
}

/// A Dockerfile that runs a script.
pub(super) fn run(script: &str) -> String {
    format!("{HEAD}RUN [\"/bin/busybox\", \"sh\", \"-c\", \"{script}\"]\n")
}

/// How many processes of a build sleep for this long, as the system sees them.
pub(super) fn sleeping(seconds: &str) -> usize {
    let wanted = format!("/bin/busybox\0sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .filter(|command| command == wanted.as_bytes())
        .count()
}
