//! An installation of its own for each test, all in one process or apart.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use launchway::{
    restate::{admin::AdminClient, identity, ingress::IngressClient, server},
    storage::{EmbeddedS3, EmbeddedSettings, S3Storage, StorageSettings},
    store::{DeploymentView, Store},
};
use launchway_workflows::{
    ids::{DeploymentId, WorkspaceId},
    status::DeploymentStatus,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    instant::world::{self, World},
    outside::{self, Engine, Outside},
    postgres::Postgres,
    private::Private,
};

/// Both halves of the object store's credentials.
const KEY: &str = "instant";
/// Longest wait for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(45);
/// A wait that is worth a line, for whoever looks into a slow run.
const SLOW: Duration = Duration::from_secs(8);
/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(4);
/// Instances of each deployment: more than one, so that a half-made set shows.
pub const REPLICAS: u32 = 2;

const SETTINGS: [&str; 8] = [
    "control.bind",
    "krane.bind",
    "gateway.bind",
    "worker.bind",
    "restate.ingress_bind",
    "restate.admin_bind",
    "restate.node_bind",
    "storage.bind",
];

/// A process that can be killed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    Restate,
    Krane,
    Control,
    Worker,
    /// Behind the same address as the first.
    SecondWorker,
    /// All of them but Restate, which it supervises.
    Up,
    /// The Docker engine of this installation alone.
    Engine,
}

use Process as P;

impl Process {
    /// In the order in which they can start.
    pub const APART: [Process; 4] = [P::Restate, P::Krane, P::Control, P::Worker];

    pub fn name(self) -> &'static str {
        match self {
            P::Restate => "restate-server",
            P::Krane => "krane",
            P::Control => "control",
            P::Worker => "worker",
            P::SecondWorker => "second-worker",
            P::Up => "up",
            P::Engine => "dockerd",
        }
    }
}

/// Gone with everything it made when dropped.
pub struct Installation {
    dir: TempDir,
    ports: Vec<SocketAddr>,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    running: HashMap<Process, Child>,
    pub outside: Outside,
    engine: Option<Private>,
    postgres: Option<Postgres>,
    /// Where it listens, if there is one.
    second_worker: SocketAddr,
    pub store: Store,
    pub admin: AdminClient,
    pub ingress: IngressClient,
    pub http: reqwest::Client,
}

/// Polls until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            if begun.elapsed() > SLOW {
                eprintln!("slow: {what} took {:?} until {}", begun.elapsed(), now_ms());
            }
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn free_ports(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

impl Installation {
    /// Everything in the process of `up`, which supervises Restate.
    pub async fn together(settings: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut this = Self::prepare(settings, environment).await;
        this.start(P::Up).await;
        this
    }

    /// Every part in a process of its own; the object store is the test's.
    pub async fn apart(settings: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::prepare(settings, environment).await.start_apart().await
    }

    /// The same on a Docker engine, `host` as in `DOCKER_HOST`.
    pub async fn apart_on_docker(settings: &[&str], host: Option<&str>) -> Self {
        let mut this = Self::prepare(settings, &[]).await;
        this.outside = Outside::Docker(Engine::new(&this.data(), host));
        this.start_apart().await
    }

    /// The same on a Docker engine of its own, which can be killed.
    pub async fn apart_on_its_own_engine(settings: &[&str]) -> Self {
        let mut this = Self::prepare(settings, &[]).await;
        let engine = Private::prepare(this.dir.path());
        this.outside = Outside::Docker(Engine::new(&this.data(), Some(&engine.host())));
        this.engine = Some(engine);
        this.start(P::Engine).await;
        this.start_apart().await
    }

    /// The same on Postgres, with two workers behind one address.
    pub async fn as_cluster(settings: &[&str]) -> Self {
        let postgres = Postgres::start();
        let database = format!("database.url={}", postgres.url());
        let settings = [settings, &[&database]].concat();
        let mut this = Self::prepare_on(&postgres.url(), &settings, &[]).await;
        this.postgres = Some(postgres);
        this.start_with_two_workers().await
    }

    /// On a Docker engine, with two workers behind one address.
    pub async fn with_two_workers_on_docker(settings: &[&str]) -> Self {
        let mut this = Self::prepare(settings, &[]).await;
        this.outside = Outside::Docker(Engine::new(&this.data(), None));
        this.start_with_two_workers().await
    }

    async fn start_with_two_workers(mut self) -> Self {
        let (both, workers) = (free_ports(1)[0], [(); 2].map(|()| free_ports(1)[0]));
        self.settings.push(format!("worker.url=http://{both}"));
        let first = SETTINGS.iter().position(|known| *known == "worker.bind").unwrap();
        self.ports[first] = workers[0];
        self.second_worker = workers[1];
        tokio::spawn(balance(tokio::net::TcpListener::bind(both).await.unwrap(), workers));
        let mut this = self.start_apart().await;
        this.start(P::SecondWorker).await;
        this
    }

    async fn start_apart(mut self) -> Self {
        self.serve_objects().await;
        for process in Process::APART {
            self.start(process).await;
        }
        eventually("Restate knows the worker", async || {
            let sql = "SELECT name FROM sys_service WHERE name = 'Deployments'";
            (!self.query(sql).await?.is_empty()).then_some(())
        })
        .await;
        self
    }

    async fn prepare(settings: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::prepare_on("", settings, environment).await
    }

    /// `database` as in `database.url`.
    async fn prepare_on(database: &str, settings: &[&str], environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("launchway-durability-").tempdir().unwrap();
        for part in ["failpoints", "data"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let ports = free_ports(SETTINGS.len());
        let url = |setting| format!("http://{}", address(&ports, setting));
        let own = format!("sqlite://{}/data/launchway.db", dir.path().display());
        let database = if database.is_empty() { &own } else { database };
        let store = Store::open(database).await.unwrap();
        store.ensure_workspace(&WorkspaceId::local()).await.unwrap();
        let admin = AdminClient::new(&url("restate.admin_bind"));
        Self {
            engine: None,
            postgres: None,
            second_worker: ports[0],
            outside: Outside::Instant(World::at(&dir.path().join("world")).unwrap()),
            store,
            admin,
            ingress: IngressClient::new(&url("restate.ingress_bind")),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            settings: settings.iter().map(|text| (*text).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            running: HashMap::new(),
            ports,
            dir,
        }
    }

    pub fn address(&self, setting: &str) -> SocketAddr {
        address(&self.ports, setting)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn failpoints(&self) -> PathBuf {
        self.dir.path().join("failpoints")
    }

    async fn serve_objects(&self) {
        let secrets = self.data().join("secrets");
        fs::create_dir_all(&secrets).unwrap();
        for name in ["s3-access-key", "s3-secret-key"] {
            fs::write(secrets.join(name), KEY).unwrap();
        }
        let settings = EmbeddedSettings {
            bind: self.address("storage.bind"),
            dir: self.dir.path().join("objects"),
            access_key_id: KEY.to_owned(),
            secret_access_key: KEY.to_owned(),
            max_object_bytes: 16 << 20,
        };
        let objects = EmbeddedS3::bind(&settings).await.unwrap();
        tokio::spawn(objects.serve(std::future::pending()));
    }

    fn objects(&self) -> S3Storage {
        let url = format!("http://{}", self.address("storage.bind"));
        S3Storage::new(StorageSettings {
            uploader_url: url.clone(),
            builder_url: url.clone(),
            url,
            bucket: "launchway".to_owned(),
            region: "local".to_owned(),
            access_key_id: KEY.to_owned(),
            secret_access_key: KEY.to_owned(),
            upload_url_lifetime: PATIENCE,
        })
    }

    /// Starts processes at once, as after a power cut: each must wait for what
    /// it needs. Returns when all answer.
    pub async fn start_all(&mut self, processes: &[Process]) {
        processes.iter().rev().for_each(|process| self.spawn(*process));
        for process in processes {
            self.answering(*process).await;
        }
    }

    /// Starts a process and returns when it answers.
    pub async fn start(&mut self, process: Process) {
        self.spawn(process);
        self.answering(process).await;
    }

    async fn answering(&mut self, process: Process) {
        eventually(&format!("{} answers", process.name()), async || {
            let ended = self.running.get_mut(&process).unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{} has ended", process.name());
            self.answers(process).await.then_some(())
        })
        .await;
    }

    fn spawn(&mut self, process: Process) {
        let mut command = match process {
            P::Restate => self.restate_command(),
            P::Up => self.own_command(&["up"]),
            P::Engine => self.engine.as_ref().unwrap().command(),
            P::SecondWorker => {
                let mut command = self.own_command(&["serve", "--role", P::Worker.name()]);
                command.arg("--set").arg(format!("worker.bind={}", self.second_worker));
                command
            }
            role => self.own_command(&["serve", "--role", role.name()]),
        };
        let log = self.dir.path().join(format!("{}.log", process.name()));
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running.insert(process, command.spawn().unwrap());
    }

    async fn answers(&self, process: Process) -> bool {
        let connects =
            async |setting| tokio::net::TcpStream::connect(self.address(setting)).await.is_ok();
        match process {
            P::Restate => {
                self.ingress.health().await.is_ok() && self.admin.unfinished().await.is_ok()
            }
            P::Krane => connects("krane.bind").await,
            P::Control => connects("control.bind").await,
            P::Worker => connects("worker.bind").await,
            P::SecondWorker => tokio::net::TcpStream::connect(self.second_worker).await.is_ok(),
            P::Engine => self.engine.as_ref().unwrap().answers(),
            P::Up => {
                let state = fs::read(self.data().join("run/up.json")).unwrap_or_default();
                let state: Value = serde_json::from_slice(&state).unwrap_or_default();
                state["status"] == "ready" && state["process"]["pid"] == self.pid(process)
            }
        }
    }

    fn restate_command(&self) -> Command {
        let secrets = self.data().join("secrets");
        fs::create_dir_all(&secrets).unwrap();
        let key = secrets.join("restate-identity.pem");
        identity::ensure(&key).unwrap();
        let config = server::write_config(&server::ServerSettings {
            base_dir: &self.data().join("restate"),
            ingress: self.address("restate.ingress_bind"),
            admin: self.address("restate.admin_bind"),
            node: self.address("restate.node_bind"),
            identity_key: &key,
        });
        let mut command = Command::new(server::find("").unwrap());
        command.arg("--config-file").arg(config.unwrap());
        command
    }

    fn own_command(&self, verb: &[&str]) -> Command {
        let binary = match &self.outside {
            Outside::Instant(_) => env!("CARGO_BIN_EXE_launchway-instant"),
            Outside::Docker(_) => env!("CARGO_BIN_EXE_launchway"),
        };
        let mut command = Command::new(binary);
        if let Outside::Docker(engine) = &self.outside {
            command.envs(engine.host().map(|host| ("DOCKER_HOST", host)));
        }
        command.args(verb).arg("--data-dir").arg(self.data());
        for (setting, address) in SETTINGS.iter().zip(&self.ports) {
            command.arg("--set").arg(format!("{setting}={address}"));
        }
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env("LAUNCHWAY_FAILPOINTS", self.failpoints())
            .env(world::VARIABLE, self.dir.path().join("world"))
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().cloned());
        command
    }

    pub fn pid(&self, process: Process) -> u32 {
        self.running[&process].id()
    }

    /// kill -9; returns when the process is gone.
    pub fn kill(&mut self, process: Process) {
        let mut child = self.running.remove(&process).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the process to end, and returns when it has.
    pub fn stop(&mut self, process: Process) {
        let mut child = self.running.remove(&process).unwrap();
        let asked = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(asked.success());
        child.wait().unwrap();
    }

    /// Submits a deployment of a build context of the project.
    pub async fn submit(&self, project: &str) -> DeploymentId {
        self.submission(project).await
    }

    /// The same with a release command that may not run twice.
    pub async fn submit_releasing(&self, project: &str, command: &[&str]) -> DeploymentId {
        self.submission_of(project, run_options(command, false), outside::A_MOMENT).await
    }

    /// The same of a project whose build takes so many seconds on a Docker engine.
    pub async fn submit_building_for(&self, project: &str, seconds: &'static str) -> DeploymentId {
        let options = run_options(&["/bin/busybox", "true"], true);
        self.submission_of(project, options, seconds).await
    }

    /// The same, on its own. It is repeated until it is answered, as a caller
    /// with a key may.
    pub fn submission(
        &self,
        project: &str,
    ) -> impl Future<Output = DeploymentId> + 'static + use<> {
        let options = run_options(&["/bin/busybox", "true"], true);
        self.submission_of(project, options, outside::A_MOMENT)
    }

    fn submission_of(
        &self,
        project: &str,
        run_options: Value,
        seconds: &'static str,
    ) -> impl Future<Output = DeploymentId> + 'static + use<> {
        let (store, ingress) = (self.store.clone(), self.ingress.clone());
        let upload = match &self.outside {
            Outside::Instant(_) => None,
            Outside::Docker(engine) => Some((self.objects(), engine.watch())),
        };
        let key = format!("{project}-{}", uuid::Uuid::new_v4());
        let project = project.to_owned();
        async move {
            let project = store.ensure_project(&WorkspaceId::local(), &project).await;
            let project = project.unwrap().unwrap();
            let context = format!("contexts/{project}/{key}.tar.gz");
            if let Some((objects, _)) = &upload {
                objects.ensure_bucket().await.unwrap();
                objects.put(&context, outside::context(&key, seconds).into()).await.unwrap();
            }
            let body = json!({
                "project_id": project,
                "build_context": { "build_context_path": context },
                "run_options": run_options,
            });
            // Not `eventually`: its closures cannot be sent to another thread.
            let begun = Instant::now();
            loop {
                let answer: Result<Value, _> =
                    ingress.call("Deployments/create", &key, &body).await;
                let id =
                    answer.ok().and_then(|answer| answer["deployment_id"].as_str()?.parse().ok());
                if let Some(id) = id {
                    if let Some((_, builds)) = &upload {
                        builds.note(&id, &key);
                    }
                    return id;
                }
                assert!(begun.elapsed() < PATIENCE, "no submission is answered");
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// One deployment for each of the projects, submitted at once.
    pub async fn submit_all(&self, projects: &[String]) -> Vec<DeploymentId> {
        futures::future::join_all(projects.iter().map(|project| self.submit(project))).await
    }

    pub async fn view(&self, id: &DeploymentId) -> DeploymentView {
        let view = self.store.deployment(&WorkspaceId::local(), id).await;
        view.unwrap().unwrap_or_else(|| panic!("{id} has no row"))
    }

    /// The deployment once it is what is wanted.
    pub async fn wait(&self, id: &DeploymentId, status: DeploymentStatus) -> DeploymentView {
        eventually(&format!("{id} is {status}"), async || {
            let view = self.view(id).await;
            (view.status == status).then_some(view)
        })
        .await
    }

    /// Submits and returns when its workflow has run to its end.
    pub async fn deploy(&self, project: &str) -> DeploymentId {
        let id = self.submit(project).await;
        self.ended(std::slice::from_ref(&id)).await;
        id
    }

    fn logs(&self) -> String {
        let logs =
            Process::APART.iter().chain([&P::Up, &P::Engine, &P::SecondWorker]).map(|process| {
                let path = self.dir.path().join(format!("{}.log", process.name()));
                let log = fs::read_to_string(path).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(150)..].join("\n");
                format!("--- {}\n{last}\n", process.name())
            });
        logs.collect()
    }
}

/// A crash may leave open whether a release command was started: where every
/// deployment has to go live, it may run again then.
fn run_options(release: &[&str], idempotent: bool) -> Value {
    json!({ "replicas": REPLICAS, "release": { "command": release, "idempotent": idempotent } })
}

/// A load balancer: whichever of the two takes the connection, by turns.
async fn balance(listener: tokio::net::TcpListener, workers: [SocketAddr; 2]) {
    for turn in 0.. {
        let Ok((mut caller, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            for worker in [workers[turn % 2], workers[(turn + 1) % 2]] {
                if let Ok(mut worker) = tokio::net::TcpStream::connect(worker).await {
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut worker).await;
                    return;
                }
            }
        });
    }
}

fn address(ports: &[SocketAddr], setting: &str) -> SocketAddr {
    ports[SETTINGS.iter().position(|known| *known == setting).unwrap()]
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        if let Some(mut up) = self.running.remove(&P::Up) {
            // Its children go with it.
            let _ = self.own_command(&["down"]).output();
            let _ = up.kill();
            let _ = up.wait();
        }
        let engine = self.running.remove(&P::Engine);
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Outside::Docker(engine) = &self.outside {
            engine.clear();
        }
        if let Some(mut engine) = engine {
            // It ends what it has started.
            let _ = Command::new("kill").arg(engine.id().to_string()).status();
            let _ = engine.wait();
        }
        self.engine = None;
        self.postgres = None;
    }
}
