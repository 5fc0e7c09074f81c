//! Starting and stopping.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{
    Adapters, SetupError,
    child::{Child, ChildSpec, recorded},
    credentials,
    layout::Layout,
    lock::DataLock,
    parts::{Parts, resume_held_back},
    ports::{self, Needed},
    secrets::Secrets,
    state::{Status, UpState},
};
use crate::{
    config::Config,
    restate::{
        admin::AdminClient,
        ingress::IngressClient,
        server::{self, ServerSettings},
    },
};

const GATEWAY: &str = "gateway";
const RESTATE: &str = "restate-server";

/// A part that runs by itself in `serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Control API and route feed.
    Control,
    /// Workflows.
    Worker,
    /// Runtime API.
    Krane,
    /// Requests of deployments.
    Gateway,
}

/// Everything on one machine, until SIGTERM or Ctrl-C, or SIGHUP, which leaves
/// the gateway. `gateway_args` start
/// this program as the gateway; `ready` is called once everything answers.
///
/// # Errors
/// One sentence with the remedy; nothing of ours runs on then but adopted
/// children.
pub async fn up(
    config: Config,
    adapters: Arc<dyn Adapters>,
    gateway_args: Vec<String>,
    ready: impl FnOnce(),
) -> Result<(), SetupError> {
    let layout = Layout::new(&config.data_dir);
    layout.create()?;
    let _lock = DataLock::take(&layout).await?;
    let control_url = config.control.url();
    let note = |status| {
        if let Err(error) = UpState::write(&layout, status, &control_url) {
            tracing::warn!(%error, "cannot write the state file");
        }
    };
    note(Status::Starting);
    let started = start(config, adapters, &layout, gateway_args).await;
    match started {
        Ok(parts) => {
            note(Status::Ready);
            tracing::info!("ready");
            ready();
            let stop = stop_requested().await;
            tracing::info!(?stop, "stopping");
            parts.keep_gateway.store(stop == Stop::ForRestart, Relaxed);
            parts.stop().await;
            let _ = std::fs::remove_file(layout.identity("up"));
            Ok(())
        }
        Err(error) => {
            note(Status::Failed { error: error.to_string() });
            Err(error)
        }
    }
}

async fn start(
    config: Config,
    adapters: Arc<dyn Adapters>,
    layout: &Layout,
    gateway_args: Vec<String>,
) -> Result<Parts, SetupError> {
    let restate_program = match config.restate.embedded {
        true => Some(server::find(&config.restate.binary).map_err(SetupError::from)?),
        false => None,
    };
    adapters.check(&config).await?;
    check_ports(&config, layout).await?;
    let secrets = Secrets::ensure(layout)?;
    let mut parts = Parts::new(config, layout.clone(), secrets, adapters);
    let started = start_parts(&mut parts, restate_program, gateway_args).await;
    match started {
        Ok(()) => Ok(parts),
        Err(error) => {
            parts.stop().await;
            Err(error)
        }
    }
}

async fn start_parts(
    parts: &mut Parts,
    restate_program: Option<PathBuf>,
    gateway_args: Vec<String>,
) -> Result<(), SetupError> {
    let layout = parts.layout.clone();
    let restate = match restate_program {
        Some(program) => Some(Child::start(restate_child(parts, program)?, &layout).await?),
        None => None,
    };
    // Before anything is touched: the workflows of another version need theirs,
    // and the gateway serves meanwhile.
    if let Err(refused) = parts.check_workflows().await {
        if let Some(child) = restate {
            child.leave().await;
        }
        return Err(refused);
    }
    let restate = restate.map(|child| supervise(parts, child));
    if parts.config.storage.embedded {
        parts.start_embedded_s3().await?;
    }
    let (store, storage) = (parts.store().await?, parts.ready_storage().await?);
    parts.start_krane().await?;
    parts.start_control(&store, &storage).await?;
    parts.start_worker(&store, &storage).await?;
    let gateway = Child::start(gateway_child(parts, gateway_args)?, &layout).await?;
    supervise(parts, gateway);
    parts.register_worker().await?;
    if let Some(restarted) = restate {
        let admin = AdminClient::new(&parts.config.restate.admin_url());
        parts.spawn(resume_after_restarts(restarted, admin));
    }
    let path = credentials::config_path();
    credentials::add(&path, &parts.config.control.url(), &parts.secrets.admin_key)
        .map_err(|error| SetupError(format!("{} cannot be written: {error}", path.display())))
}

fn supervise(parts: &mut Parts, child: Child) -> watch::Receiver<u64> {
    let (restarted, restarts) = watch::channel(0);
    let stop = parts.stop_signal();
    parts.spawn(child.supervise(stop, restarted));
    restarts
}

/// Ends with the supervisor of the server.
async fn resume_after_restarts(mut restarted: watch::Receiver<u64>, admin: AdminClient) {
    while restarted.changed().await.is_ok() {
        resume_held_back(&admin).await;
    }
}

async fn check_ports(config: &Config, layout: &Layout) -> Result<(), SetupError> {
    let (gateway, restate) = (recorded(layout, GATEWAY), recorded(layout, RESTATE));
    let need = |setting, address, ours: &Option<_>| Needed { setting, address, ours: ours.clone() };
    let mut needed = vec![
        need("control.bind", config.control.bind, &None),
        need("krane.bind", config.krane.bind, &None),
        need("worker.bind", config.worker.bind, &None),
        need("gateway.bind", config.gateway.bind, &gateway),
    ];
    if config.storage.embedded {
        needed.push(need("storage.bind", config.storage.bind, &None));
    }
    if config.restate.embedded {
        needed.push(need("restate.ingress_bind", config.restate.ingress_bind, &restate));
        needed.push(need("restate.admin_bind", config.restate.admin_bind, &restate));
        needed.push(need("restate.node_bind", config.restate.node_bind, &restate));
    }
    ports::check(&needed).await
}

fn restate_child(parts: &Parts, program: PathBuf) -> Result<ChildSpec, SetupError> {
    let (config, layout) = (&parts.config.restate, &parts.layout);
    let settings = ServerSettings {
        base_dir: &layout.restate(),
        ingress: config.ingress_bind,
        admin: config.admin_bind,
        node: config.node_bind,
        identity_key: &layout.secrets().join("restate-identity.pem"),
    };
    let file = server::write_config(&settings).map_err(SetupError::from)?;
    let configuration = std::fs::read_to_string(&file).map_err(SetupError::from)?;
    let (admin, ingress) =
        (AdminClient::new(&config.admin_url()), IngressClient::new(&config.ingress_url()));
    Ok(ChildSpec {
        name: RESTATE,
        program,
        args: vec!["--config-file".to_owned(), file.display().to_string()],
        configuration,
        kept: Arc::default(),
        ready: Box::new(move || {
            let (admin, ingress) = (admin.clone(), ingress.clone());
            // The server answers before its partitions do.
            Box::pin(
                async move { ingress.health().await.is_ok() && admin.unfinished().await.is_ok() },
            )
        }),
    })
}

fn gateway_child(parts: &Parts, args: Vec<String>) -> Result<ChildSpec, SetupError> {
    let http =
        crate::http::client().timeout(Duration::from_secs(2)).build().map_err(SetupError::from)?;
    let url = format!("http://{}/.well-known/launchway/health", parts.config.gateway.bind);
    Ok(ChildSpec {
        name: GATEWAY,
        program: std::env::current_exe().map_err(SetupError::from)?,
        args,
        configuration: format!(
            "{:?}{}{}",
            parts.config.gateway,
            parts.config.control.url(),
            parts.gateway_key()?.expose()
        ),
        kept: Arc::clone(&parts.keep_gateway),
        ready: Box::new(move || {
            let request = http.get(&url);
            Box::pin(async move {
                request.send().await.is_ok_and(|answer| answer.status().is_success())
            })
        }),
    })
}

/// The given roles, until SIGTERM or Ctrl-C.
///
/// # Errors
/// One sentence with the remedy.
pub async fn serve(
    config: Config,
    adapters: Arc<dyn Adapters>,
    roles: &[Role],
) -> Result<(), SetupError> {
    let layout = Layout::new(&config.data_dir);
    layout.create()?;
    let secrets = Secrets::ensure(&layout)?;
    let mut parts = Parts::new(config, layout, secrets, adapters);
    let has = |role| roles.contains(&role);
    if has(Role::Krane) {
        parts.start_krane().await?;
    }
    if has(Role::Control) || has(Role::Worker) {
        let (store, storage) = (parts.store().await?, parts.ready_storage().await?);
        if has(Role::Control) {
            parts.start_control(&store, &storage).await?;
        }
        if has(Role::Worker) {
            parts.check_workflows().await?;
            parts.start_worker(&store, &storage).await?;
            parts.register_worker().await?;
        }
    }
    let stopped = match has(Role::Gateway) {
        true => parts.run_gateway(stop_requested().map(drop)).await,
        false => {
            stop_requested().await;
            Ok(())
        }
    };
    parts.stop().await;
    stopped
}

/// What is asked of `up` by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// SIGTERM, Ctrl-C.
    Everything,
    /// SIGHUP: the gateway serves on for the next `up`.
    ForRestart,
}

async fn stop_requested() -> Stop {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut hangup)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => Stop::Everything,
        _ = tokio::signal::ctrl_c() => Stop::Everything,
        _ = hangup.recv() => Stop::ForRestart,
    }
}
