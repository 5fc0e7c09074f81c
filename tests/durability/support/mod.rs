//! An installation of its own for each test, all in one process or apart.

mod processes;
mod submissions;

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use launchway::{
    restate::{admin::AdminClient, ingress::IngressClient},
    storage::{EmbeddedS3, EmbeddedSettings, S3Storage, StorageSettings},
    store::Store,
};
use launchway_workflows::ids::WorkspaceId;
use tempfile::TempDir;

use crate::{
    instant::world::World,
    looks::pauses,
    outside::{Engine, Outside},
    pods::Pods,
    postgres::Postgres,
    private::Private,
};
pub use processes::Process;
use processes::Process as P;

/// Both halves of the object store's credentials.
const KEY: &str = "instant";
/// Longest wait for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(45);
/// A wait that is worth a line, for whoever looks into a slow run.
const SLOW: Duration = Duration::from_secs(8);
/// Between two looks at what many others do meanwhile.
pub const LOOK: Duration = Duration::from_millis(20);
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
    for pause in pauses() {
        if let Some(found) = look().await {
            if begun.elapsed() > SLOW {
                eprintln!("slow: {what} took {:?} until {}", begun.elapsed(), now_ms());
            }
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(pause).await;
    }
    unreachable!("there is always another look")
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

    /// The same with a krane that runs pods on a cluster of the tests; builds take no
    /// time.
    pub async fn apart_on_kubernetes(settings: &[&str]) -> Self {
        let pods = Pods::start();
        let kubeconfig = format!("kubernetes.kubeconfig={}", pods.cluster.kubeconfig().display());
        let on_cluster = [
            "runtime.backend=kubernetes",
            &kubeconfig,
            "kubernetes.probes=krane",
            "registry.host=registry.invalid",
        ];
        let mut this = Self::prepare(&[settings, &on_cluster].concat(), &[]).await;
        let world = World::at(&this.dir.path().join("world")).unwrap();
        this.outside = Outside::Kubernetes(world, pods);
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
