//! The wiring: which adapter is behind which port.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use launchway_workflows::{
    engine::{core::Core, readiness::ReadinessWatcher, reconcile::Reconciler},
    ports::RouteAnnouncer,
    secret::Secret,
    why::Limits,
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;

use super::{Adapters, SetupError, draining, layout::Layout, secrets::Secrets};
use crate::{
    config::{AccessLog, Config, read_secret},
    control::{Closed, Control, Demand, IdleSettings, RouteFeed, keep_journals},
    gateway::{self, GatewayConfig},
    krane::{KraneClient, KraneService},
    restate::{RestateError, admin::AdminClient, ingress::IngressClient, workflows::Workflows},
    storage::{EmbeddedS3, EmbeddedSettings, S3Storage, StorageSettings},
    store::{Role as KeyRole, Store},
    vault::Vault,
    worker,
};

/// From the start of Restate and the worker until they know each other.
const REGISTER_LIMIT: Duration = Duration::from_secs(30);
const REGISTER_PAUSE: Duration = Duration::from_millis(50);

/// Everything that runs in this process, and how to stop it.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) layout: Layout,
    pub(super) secrets: Secrets,
    /// On a stop, leave the gateway to the next `up`.
    pub(super) keep_gateway: Arc<AtomicBool>,
    adapters: Arc<dyn Adapters>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    worker: Option<tokio::task::JoinHandle<()>>,
    stop_worker: watch::Sender<bool>,
    feed: Option<Arc<RouteFeed>>,
}

impl Parts {
    pub(super) fn new(
        config: Config,
        layout: Layout,
        secrets: Secrets,
        adapters: Arc<dyn Adapters>,
    ) -> Self {
        let (stop, _) = watch::channel(false);
        let (stop_worker, _) = watch::channel(false);
        let tasks = JoinSet::new();
        Self {
            config,
            layout,
            secrets,
            keep_gateway: Arc::default(),
            adapters,
            tasks,
            stop,
            worker: None,
            stop_worker,
            feed: None,
        }
    }

    /// Resolves when the parts are to stop.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.subscribe();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    pub(super) fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Tells everything to stop and waits for it. The worker first: its steps
    /// can reach their journaled end as long as Restate runs.
    pub(super) async fn stop(mut self) {
        self.stop_worker.send_replace(true);
        if let Some(worker) = self.worker.take()
            && let Err(error) = worker.await
        {
            tracing::warn!(%error, "the worker ended badly");
        }
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// A task that has no end of its own.
    fn spawn_endless(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stopping => {}
            }
        });
    }

    pub(super) async fn start_embedded_s3(&mut self) -> Result<(), SetupError> {
        let settings = EmbeddedSettings {
            bind: self.config.storage.bind,
            dir: self.layout.objects(),
            access_key_id: self.secrets.s3_access_key.clone(),
            secret_access_key: self.secrets.s3_secret_key.clone(),
            max_object_bytes: self.config.storage.max_context_bytes,
        };
        let server = EmbeddedS3::bind(&settings).await.map_err(SetupError::from)?;
        let stopping = self.stopping();
        self.spawn(server.serve(stopping));
        Ok(())
    }

    pub(super) async fn store(&self) -> Result<Store, SetupError> {
        let url = self.config.database_url().map_err(SetupError::from)?;
        let store = Store::open(&url).await.map_err(SetupError::from)?;
        let workspace = self.config.workspace();
        store.ensure_workspace(&workspace).await.map_err(SetupError::from)?;
        store
            .add_api_key(&workspace, KeyRole::Admin, &self.secrets.admin_key)
            .await
            .map_err(SetupError::from)?;
        Ok(store)
    }

    /// The store with its bucket; an address that others use and that does not
    /// answer from here is only said.
    pub(super) async fn ready_storage(&self) -> Result<S3Storage, SetupError> {
        let storage = self.storage()?;
        storage.ensure_bucket().await.map_err(SetupError::from)?;
        for problem in storage.unreachable().await {
            tracing::warn!(%problem, "uploads or builds may fail");
        }
        Ok(storage)
    }

    fn storage(&self) -> Result<S3Storage, SetupError> {
        let storage = &self.config.storage;
        let (access_key_id, secret_access_key) = if storage.embedded {
            (self.secrets.s3_access_key.clone(), self.secrets.s3_secret_key.clone())
        } else {
            let file = &storage.secret_access_key_file;
            let secret = read_secret("storage.secret_access_key_file", file).map_err(SetupError)?;
            (storage.access_key_id.clone(), secret)
        };
        Ok(S3Storage::new(StorageSettings {
            url: storage.url(),
            uploader_url: storage.uploader_url(),
            builder_url: storage.builder_url(),
            bucket: storage.bucket.clone(),
            region: storage.region.clone(),
            access_key_id,
            secret_access_key,
            upload_url_lifetime: storage.upload_url_lifetime.get(),
        }))
    }

    pub(super) async fn start_krane(&mut self) -> Result<(), SetupError> {
        let backend = self.adapters.backend(&self.config, &self.secrets.installation).await?;
        let listener = listen("krane.bind", self.config.krane.bind).await?;
        let stopping = self.stopping();
        self.spawn(async move {
            let serving = tonic::transport::Server::builder()
                .tcp_nodelay(true)
                .http2_keepalive_interval(Some(Duration::from_secs(5)))
                .add_service(KraneService::server(backend))
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                    stopping.await;
                });
            if let Err(error) = serving.await {
                tracing::error!(%error, "krane has stopped");
            }
        });
        Ok(())
    }

    pub(super) fn krane(&self) -> Result<KraneClient, SetupError> {
        KraneClient::new(&self.config.krane.url()).map_err(SetupError::from)
    }

    fn admin(&self) -> AdminClient {
        AdminClient::new(&self.config.restate.admin_url())
    }

    fn ingress(&self) -> IngressClient {
        IngressClient::new(&self.config.restate.ingress_url())
    }

    fn workflows(&self) -> Workflows {
        Workflows::new(self.admin(), self.ingress())
    }

    fn vault(&self) -> Result<Vault, SetupError> {
        let configured = self.config.sealing_key().map_err(SetupError::from)?;
        Ok(Vault::new(&configured.unwrap_or_else(|| Secret::new(&*self.secrets.sealing_key))))
    }

    /// What a gateway shows, and the control API looks for.
    pub(super) fn gateway_key(&self) -> Result<Secret, SetupError> {
        let configured = self.config.gateway.key().map_err(SetupError::from)?;
        Ok(configured.unwrap_or_else(|| Secret::new(&*self.secrets.gateway_key)))
    }

    fn closed(&self) -> Closed {
        let layout = self.layout.clone();
        Arc::new(move || draining::reason(&layout))
    }

    pub(super) async fn start_control(
        &mut self,
        store: &Store,
        storage: &S3Storage,
    ) -> Result<(), SetupError> {
        let krane = self.krane()?;
        let idle = IdleSettings {
            timeout: self.config.run.idle_timeout.get(),
            report_every: self.config.gateway.report_every.get(),
        };
        let demand = Demand::new(store.clone(), self.ingress(), idle);
        let feed = RouteFeed::new(store.clone(), krane.clone(), Arc::clone(&demand));
        self.feed = Some(Arc::clone(&feed));
        self.spawn_endless(Arc::clone(&feed).run());
        self.spawn_endless(Arc::clone(&demand).evict_idle());
        let control = Control {
            store: store.clone(),
            storage: storage.clone(),
            ingress: self.ingress(),
            admin: self.admin(),
            workflows: self.workflows(),
            gateway: self.config.gateway.clone(),
            apex: self.config.server.apex.clone(),
            workspace: self.config.workspace(),
            max_context_bytes: self.config.storage.max_context_bytes,
            limits: Limits::of(&self.config.settings(), &self.config.recovery()),
            krane,
            demand,
            routes: feed,
            gateway_key: self.gateway_key()?,
            vault: self.vault()?,
            closed: self.closed(),
        };
        let every = self.config.recovery.every.get();
        self.spawn_endless(keep_journals(control.clone(), every));
        let reconciler = Reconciler::new(
            Arc::new(store.clone()),
            Arc::new(self.workflows()),
            self.config.recovery(),
        );
        self.spawn_endless(reconciler.run());
        let listener = listen("control.bind", self.config.control.bind).await?;
        let stopping = self.stopping();
        self.spawn(async move {
            // Open streams do not hold up a stop: clients watch again.
            tokio::select! {
                served = control.serve(listener, std::future::pending()) => if let Err(error) = served {
                    tracing::error!(%error, "the control API has stopped");
                },
                () = stopping => {}
            }
        });
        Ok(())
    }

    pub(super) async fn start_worker(
        &mut self,
        store: &Store,
        storage: &S3Storage,
    ) -> Result<(), SetupError> {
        let ingress = Arc::new(self.ingress());
        let builder = self.adapters.builder(&self.config, store, &self.secrets.installation)?;
        let (store, runtime) = (Arc::new(store.clone()), Arc::new(self.krane()?));
        let readiness = ReadinessWatcher::new(store.clone(), runtime.clone(), ingress);
        let announcer: Arc<dyn RouteAnnouncer> = match &self.feed {
            Some(feed) => Arc::clone(feed) as Arc<dyn RouteAnnouncer>,
            None => Arc::new(RemoteFeed),
        };
        let core = Arc::new(Core {
            archive: store.clone(),
            evictions: store.clone(),
            store,
            contexts: self.adapters.contexts(storage),
            builder,
            unsealer: Arc::new(self.vault()?),
            runtime,
            announcer,
            invocations: Arc::new(self.workflows()),
            scraper: self.adapters.scraper(),
            readiness: Arc::clone(&readiness),
            settings: self.config.settings(),
        });
        let key = self.config.restate.embedded.then_some(self.secrets.identity_key.as_str());
        let endpoint = worker::endpoint(&core, key).map_err(SetupError)?;
        let listener = listen("worker.bind", self.config.worker.bind).await?;
        let mut stop = self.stop_worker.subscribe();
        let stopping = async move {
            let _ = stop.wait_for(|stop| *stop).await;
        };
        self.worker = Some(tokio::spawn(worker::serve(endpoint, listener, stopping)));
        self.spawn_endless(readiness.run());
        Ok(())
    }

    /// Refuses to go on while other workers than this one have workflows to end.
    /// Nothing that a workflow could notice may run before.
    pub(super) async fn check_workflows(&self) -> Result<(), SetupError> {
        let (admin, url) = (self.admin(), worker::url(&self.config.worker.url()));
        match self.restate_willing(|| admin.unfinished_elsewhere(&url)).await? {
            0 => Ok(()),
            elsewhere => Err(SetupError(format!(
                "{elsewhere} unfinished workflows belong to another version or address of the worker than \
                 {url}: start that one again and let them end with `launchway down --drain`"
            ))),
        }
    }

    /// Makes Restate and the worker known to each other, and lets go on what
    /// waited for a worker.
    pub(super) async fn register_worker(&self) -> Result<(), SetupError> {
        let (admin, url) = (self.admin(), worker::url(&self.config.worker.url()));
        self.restate_willing(|| admin.register(&url)).await?;
        resume_held_back(&admin).await;
        Ok(())
    }

    /// Asks again while Restate, or what it needs for an answer, is starting too.
    async fn restate_willing<T, Fut>(&self, ask: impl Fn() -> Fut) -> Result<T, SetupError>
    where
        Fut: Future<Output = Result<T, RestateError>>,
    {
        let asking = async {
            loop {
                match ask().await {
                    Ok(answer) => return answer,
                    Err(error) => tracing::debug!(%error, "asking Restate again"),
                }
                tokio::time::sleep(REGISTER_PAUSE).await;
            }
        };
        tokio::time::timeout(REGISTER_LIMIT, asking).await.map_err(|_| {
            SetupError(format!(
                "Restate does not answer, or cannot reach the worker at {}, within 30 s: check \
                 restate.admin_url and worker.url",
                worker::url(&self.config.worker.url())
            ))
        })
    }

    /// Runs the gateway until `stop`, and lets its requests end.
    pub(super) async fn run_gateway(
        &self,
        stop: impl Future<Output = ()>,
    ) -> Result<(), SetupError> {
        let settings = self.gateway_settings()?;
        let listener = settings.listen().map_err(SetupError::from)?;
        gateway::serve(settings, listener, stop).await.map_err(SetupError::from)
    }
}

impl Parts {
    fn gateway_settings(&self) -> Result<GatewayConfig, SetupError> {
        let gateway = &self.config.gateway;
        let defaults =
            GatewayConfig::new(gateway.bind, self.config.control.url(), self.layout.routes());
        Ok(GatewayConfig {
            control_token: Some(self.gateway_key()?.expose().to_owned()),
            workers: if gateway.workers == 0 { defaults.workers } else { gateway.workers },
            access_log: match gateway.access_log {
                AccessLog::Off => gateway::AccessLog::Off,
                AccessLog::Stdout => gateway::AccessLog::Stdout,
                AccessLog::File => gateway::AccessLog::File(self.layout.logs().join("access.log")),
            },
            metrics_bind: gateway.metrics_bind(),
            trust_forwarded: gateway.trust_forwarded,
            max_connections: gateway.max_connections,
            max_header_bytes: gateway.max_header_bytes,
            max_body_bytes: gateway.max_body_bytes,
            client_window: gateway.client_window.get(),
            client_min_bytes: gateway.client_min_bytes,
            header_timeout: gateway.header_timeout.get(),
            connect_timeout: gateway.connect_timeout.get(),
            response_timeout: gateway.response_timeout.get(),
            stream_idle: gateway.stream_idle.get(),
            cooldown: gateway.cooldown.get(),
            repeat_safe: gateway.repeat_safe,
            start_wait: gateway.start_wait.get(),
            report_every: gateway.report_every.get(),
            drain: gateway.drain.get(),
            ..defaults
        })
    }
}

/// Ends back-offs that outlasted an outage: what can go on goes on at once.
pub(super) async fn resume_held_back(admin: &AdminClient) {
    match admin.held_back().await {
        Ok(held) => {
            for invocation in held {
                tracing::info!(invocation = %invocation.id, status = %invocation.status, "resuming");
                if let Err(error) = admin.resume(&invocation.id).await {
                    tracing::debug!(invocation = %invocation.id, %error, "not resumed");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "cannot look for held back workflows"),
    }
}

/// A feed in another process, which finds changes by itself within a second.
struct RemoteFeed;

#[async_trait::async_trait]
impl RouteAnnouncer for RemoteFeed {
    async fn announce(&self) {}
}

async fn listen(setting: &str, address: SocketAddr) -> Result<TcpListener, SetupError> {
    TcpListener::bind(address).await.map_err(|error| {
        SetupError(format!(
            "{address} ({setting}) cannot be used: {error}; choose another address with --set {setting}=127.0.0.1:PORT"
        ))
    })
}
