//! The machine of one build: asked for, connected to, and kept by saying that
//! the build goes on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard_buildkit_proto::moby::buildkit::v1::ListWorkersRequest;
use launchway_proto::depot::cli::v1::{
    BuilderPlatform,
    get_build_kit_connection_response::{Active, Connection, active::Compressor},
};
use launchway_workflows::error::{ErrorCode, StepError};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{Limits, api::Api, ledger::Registered};
use crate::builder::buildkit::{Address, Tls, control, unreachable};

/// Depot says how long to wait for a machine, within these.
const WAIT: std::ops::RangeInclusive<u64> = 100..=30_000;
/// Between two looks at a machine that starts, and the limit of one.
const READY_PAUSE: Duration = Duration::from_secs(1);
const READY_ANSWER: Duration = Duration::from_secs(10);

/// A BuildKit that answers.
pub(super) struct Machine {
    pub(super) channel: Channel,
    pub(super) gzip: bool,
}

/// Polls until there is a machine and its BuildKit answers.
pub(super) async fn acquire(
    api: &Api,
    build: &Registered,
    platform: BuilderPlatform,
    limits: Limits,
) -> Result<Machine, StepError> {
    let active = active(api, build, platform, limits.machine).await?;
    let gzip = matches!(active.compressor, Some(Compressor::Gzip(_)));
    let address = address(active)?;
    let begun = Instant::now();
    loop {
        let problem = match ready(&address, gzip).await {
            Ok(channel) => return Ok(Machine { channel, gzip }),
            Err(problem) => problem,
        };
        if begun.elapsed() > limits.ready {
            return Err(unreachable(format!("Depot's machine does not start: {problem}")));
        }
        tracing::debug!(build = build.id, problem, "the machine does not answer yet");
        tokio::time::sleep(READY_PAUSE).await;
    }
}

async fn active(
    api: &Api,
    build: &Registered,
    platform: BuilderPlatform,
    limit: Duration,
) -> Result<Active, StepError> {
    let begun = Instant::now();
    loop {
        match api.connection(build, platform).await? {
            Connection::Active(active) => return Ok(active),
            Connection::Pending(pending) if begun.elapsed() < limit => {
                let wait = u64::try_from(pending.wait_ms).unwrap_or_default();
                let wait = wait.clamp(*WAIT.start(), *WAIT.end());
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            Connection::Pending(_) => {
                let message =
                    format!("Depot had no machine for the build within {} s", limit.as_secs());
                return Err(unreachable(message));
            }
        }
    }
}

fn address(active: Active) -> Result<Address, StepError> {
    let place = Address::host_and_port(&active.endpoint);
    let Some((host, port)) = place else {
        return Err(unreachable(format!("Depot's machine has no address: `{}`", active.endpoint)));
    };
    let tls = active.cert.zip(active.ca_cert).map(|(client, authority)| Tls {
        ca: authority.cert.into_bytes(),
        cert: client.cert.into_bytes(),
        key: client.key.into_bytes(),
        server_name: active.server_name,
    });
    Ok(Address::Tcp { host, port, tls })
}

async fn ready(address: &Address, gzip: bool) -> Result<Channel, String> {
    let channel = address.connect().await?;
    let mut control = control(channel.clone(), gzip);
    let asked = control.list_workers(ListWorkersRequest::default());
    match tokio::time::timeout(READY_ANSWER, asked).await {
        Ok(Ok(_)) => Ok(channel),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("BuildKit does not answer within 10 s".to_owned()),
    }
}

/// Says that the build goes on until Depot says that it ends it. A report that
/// fails is only logged: the build may go on all the same.
pub(super) async fn keep(
    api: &Api,
    build: &Registered,
    platform: BuilderPlatform,
    every: Duration,
) -> StepError {
    loop {
        let cancels_at = match api.report_health(build, platform).await {
            Ok(cancels_at) => cancels_at,
            Err(error) => {
                tracing::warn!(build = build.id, error = %error.failure(), "Depot was not told");
                None
            }
        };
        let left = cancels_at.map(|at| u64::try_from(at - now_ms()).unwrap_or_default());
        match left.map(Duration::from_millis) {
            Some(left) if left <= every => {
                tokio::time::sleep(left).await;
                return StepError::transient(
                    ErrorCode::BuilderUnavailable,
                    "Depot has ended the build before it was done",
                );
            }
            _ => tokio::time::sleep(every).await,
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
