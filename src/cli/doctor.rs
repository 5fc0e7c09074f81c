//! `doctor`: is everything in place?

use serde_json::json;

use super::{
    Exit, Failure,
    args::{ConfigArgs, Global},
    connect::connect,
    render::{emit, print},
    serve::load,
};
use crate::{
    builder::engine_version,
    config::{Config, RuntimeBackend},
    krane::check_cluster,
    restate::{admin::AdminClient, ingress::IngressClient, server},
    store::Store,
    up::{Layout, UpState},
};

/// What was looked at, and what was found: `Err` with the remedy.
type Check = (&'static str, Result<String, String>);

pub(super) async fn doctor(global: &Global, args: ConfigArgs) -> Result<Exit, Failure> {
    let config = load(&args)?;
    let layout = Layout::new(&config.data_dir);
    let up = UpState::read(&layout).filter(UpState::is_alive);
    let mut checks: Vec<Check> = vec![
        ("data directory", Ok(config.data_dir.display().to_string())),
        ("docker", engine(&config).await),
        ("builder", builder(&config).await),
        ("runtime", runtime(&config).await),
        ("restate-server", restate_program(&config)),
        ("localhost names", localhost_names().await),
    ];
    match up {
        None => checks.push((
            "launchway up",
            Err("not running: start it with `launchway up --detach`".to_owned()),
        )),
        Some(up) => {
            checks.push(("launchway up", Ok(format!("process {}", up.pid()))));
            checks.push((
                "control API",
                connect(global)
                    .await
                    .map(|_| config.control.url())
                    .map_err(|failure| failure.message),
            ));
            checks.push(("database", database(&config).await));
            checks.push(("restate", restate(&config).await));
            checks.push(("object store", object_store(&config).await));
            checks.push(("gateway", gateway(&config).await));
        }
    }
    let healthy = checks.iter().all(|(_, result)| result.is_ok());
    report(global, &checks, healthy);
    Ok(if healthy { Exit::Success } else { Exit::Usage })
}

fn report(global: &Global, checks: &[Check], healthy: bool) {
    if global.json {
        let checks: Vec<_> = checks
            .iter()
            .map(|(name, result)| {
                let (Ok(detail) | Err(detail)) = result;
                json!({"name": name, "ok": result.is_ok(), "detail": detail})
            })
            .collect();
        emit(&json!({"type": "result", "healthy": healthy, "checks": checks}));
        return;
    }
    for (name, result) in checks {
        match result {
            Ok(detail) => print(&format!("ok    {name:<16} {detail}")),
            Err(problem) => print(&format!("FAIL  {name:<16} {problem}")),
        }
    }
}

async fn docker() -> Result<String, String> {
    engine_version().await.map(|version| format!("engine {version}"))
}

async fn builder(config: &Config) -> Result<String, String> {
    config.builder().map_err(|error| error.to_string())?.check().await
}

/// An engine that nothing uses need not be there.
async fn engine(config: &Config) -> Result<String, String> {
    match docker().await {
        Err(_) if !config.needs_docker() => Ok("none, and none is needed".to_owned()),
        found => found,
    }
}

async fn runtime(config: &Config) -> Result<String, String> {
    match config.runtime.backend {
        RuntimeBackend::Docker => docker().await,
        RuntimeBackend::Kubernetes => check_cluster(&config.cluster()).await,
    }
}

fn restate_program(config: &Config) -> Result<String, String> {
    if !config.restate.embedded {
        return Ok("a server of your own".to_owned());
    }
    let found = server::find(&config.restate.binary).map_err(|error| error.to_string())?;
    Ok(format!("{} {}", server::VERSION, found.display()))
}

/// Browsers and curl resolve `*.localhost` by themselves; other programs ask
/// the system.
async fn localhost_names() -> Result<String, String> {
    match tokio::net::lookup_host("launchway-doctor.localhost:80").await {
        Ok(_) => Ok("*.localhost resolves".to_owned()),
        Err(_) => Ok("*.localhost resolves in browsers and curl; for other programs: apt-get install libnss-myhostname".to_owned()),
    }
}

async fn database(config: &Config) -> Result<String, String> {
    let url = config.database_url().map_err(|error| error.to_string())?;
    let store = Store::open(&url).await.map_err(|error| error.to_string())?;
    store.ping().await.map_err(|error| error.to_string())?;
    Ok("answers".to_owned())
}

async fn restate(config: &Config) -> Result<String, String> {
    let (admin, ingress) = (
        AdminClient::new(&config.restate.admin_url()),
        IngressClient::new(&config.restate.ingress_url()),
    );
    admin.health().await.map_err(|error| error.to_string())?;
    ingress.health().await.map_err(|error| error.to_string())?;
    let unfinished = admin.unfinished().await.map_err(|error| error.to_string())?;
    Ok(format!("answers; {unfinished} unfinished workflows"))
}

/// Any HTTP answer will do: credentials are the servers' own.
async fn object_store(config: &Config) -> Result<String, String> {
    for (setting, url) in [
        ("storage.url", config.storage.url()),
        ("storage.uploader_url", config.storage.uploader_url()),
    ] {
        ask(&url).await.map_err(|error| format!("{setting} {url}: {error}"))?;
    }
    Ok(config.storage.url())
}

async fn gateway(config: &Config) -> Result<String, String> {
    let url = format!("http://{}/.well-known/launchway/health", config.gateway.bind);
    let said = ask(&url).await?;
    Ok(said.trim().to_owned())
}

async fn ask(url: &str) -> Result<String, String> {
    let http = crate::http::client().timeout(std::time::Duration::from_secs(5)).build();
    let http = http.map_err(|error| error.to_string())?;
    let answer = http.get(url).send().await.map_err(|error| crate::http::deepest(&error))?;
    answer.text().await.map_err(|error| crate::http::deepest(&error))
}
