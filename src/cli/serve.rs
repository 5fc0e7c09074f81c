//! `up`, `serve` and `down`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    Exit, Failure,
    args::{ConfigArgs, DownArgs, Global, ServeArgs, UpArgs},
    render::{emit, print},
};
use crate::{
    config::{Config, Overrides},
    telemetry,
    up::{self, Adapters, DownOptions, Draining, Layout, UpState},
};

/// Between two looks at what is unfinished.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn data_dir(args: &ConfigArgs) -> PathBuf {
    let dir = args.data_dir.clone().unwrap_or_else(up::default_data_dir);
    std::path::absolute(&dir).unwrap_or(dir)
}

pub(super) fn load(args: &ConfigArgs) -> Result<Config, Failure> {
    let overrides = Overrides::from_environment(args.config.clone(), args.set.clone());
    Config::load(data_dir(args), &overrides).map_err(Failure::usage)
}

/// The flags that give a process of ours the same settings.
fn passed_on(args: &ConfigArgs) -> Vec<String> {
    let mut flags = vec!["--data-dir".to_owned(), data_dir(args).display().to_string()];
    if let Some(config) = &args.config {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
        flags.extend(["--config".to_owned(), config.display().to_string()]);
    }
    for set in &args.set {
        flags.extend(["--set".to_owned(), set.clone()]);
    }
    flags
}

pub(super) async fn up(
    global: &Global,
    args: UpArgs,
    adapters: Arc<dyn Adapters>,
) -> Result<Exit, Failure> {
    let config = load(&args.config)?;
    let url = config.control.url();
    let ready = |pid: u32| {
        if global.json {
            emit(&json!({"type": "result", "status": "ready", "control_url": url, "pid": pid}));
        } else {
            eprintln!(
                "launchway is up (process {pid}): control API {url}; stop it with `launchway down`"
            );
        }
    };
    if args.detach {
        return detach(&args, &config, ready).await;
    }
    telemetry::init(&config.server.log, config.server.log_format);
    let mut gateway = vec!["serve".to_owned(), "--role".to_owned(), "gateway".to_owned()];
    gateway.extend(passed_on(&args.config));
    let running = up::up(config, adapters, gateway, || ready(std::process::id()));
    running.await.map_err(Failure::usage)?;
    Ok(Exit::Success)
}

async fn detach(args: &UpArgs, config: &Config, ready: impl Fn(u32)) -> Result<Exit, Failure> {
    let layout = Layout::new(&config.data_dir);
    if let Some(running) = UpState::read(&layout).filter(UpState::is_alive) {
        // What is wanted is so already.
        ready(running.pid().unsigned_abs());
        return Ok(Exit::Success);
    }
    let mut own = vec!["up".to_owned()];
    own.extend(passed_on(&args.config));
    let pid = up::detach(&layout, &own).await.map_err(Failure::usage)?;
    ready(pid.unsigned_abs());
    Ok(Exit::Success)
}

pub(super) async fn serve(args: ServeArgs, adapters: Arc<dyn Adapters>) -> Result<Exit, Failure> {
    let config = load(&args.config)?;
    telemetry::init(&config.server.log, config.server.log_format);
    up::serve(config, adapters, &args.roles).await.map_err(Failure::usage)?;
    Ok(Exit::Success)
}

pub(super) async fn down(global: &Global, args: DownArgs) -> Result<Exit, Failure> {
    let config = load(&args.config)?;
    // Until everything is stopped.
    let _draining = match args.drain {
        true => Some(drain(&config).await?),
        false => None,
    };
    let options = DownOptions { all: args.all, keep_gateway: args.keep_gateway };
    let stopped = up::down(&config, options).await.map_err(Failure::usage)?;
    if global.json {
        emit(&json!({"type": "result", "stopped": stopped}));
    } else if stopped.is_empty() {
        eprintln!("nothing was running on {}", config.data_dir.display());
    } else {
        stopped.iter().for_each(|line| print(&format!("stopped {line}")));
    }
    Ok(Exit::Success)
}

/// Waits until no workflow is unfinished; nothing new is taken meanwhile.
async fn drain(config: &Config) -> Result<Draining, Failure> {
    let draining = Draining::begin(&Layout::new(&config.data_dir)).map_err(Failure::usage)?;
    let admin = crate::restate::admin::AdminClient::new(&config.restate.admin_url());
    let mut told = None;
    loop {
        let unfinished = admin.unfinished().await.map_err(Failure::usage)?;
        // Twice: what was let in just before is seen by the second look.
        if unfinished == 0 && told == Some(0) {
            return Ok(draining);
        }
        if unfinished != 0 && told != Some(unfinished) {
            eprintln!("waiting for {unfinished} unfinished workflows; nothing new is taken");
        }
        told = Some(unfinished);
        tokio::time::sleep(LOOK).await;
    }
}
