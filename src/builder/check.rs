//! Does a builder work? Asked before it is configured, and by `doctor`.

use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::ListWorkersRequest;

use super::{
    buildkit::{Address, control},
    depot::DepotAccount,
    engine::engine_version,
};
use crate::registry::Registry;

/// Longest wait for the answer of a BuildKit.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The Docker engine, and the registry where there is one.
///
/// # Errors
/// One sentence with the remedy.
pub async fn check_docker(registry: Option<&Registry>) -> Result<String, String> {
    let version = engine_version().await?;
    match registry {
        None => Ok(format!("docker {version}; images stay in the engine")),
        Some(registry) => {
            check_registry(registry).await?;
            Ok(format!("docker {version}; images go to {}", registry.host))
        }
    }
}

/// A buildkitd and the registry.
///
/// # Errors
/// One sentence with the remedy.
pub async fn check_buildkit(address: &Address, registry: &Registry) -> Result<String, String> {
    let channel = address.connect().await?;
    let mut control = control(channel, false);
    let asked = control.list_workers(ListWorkersRequest::default());
    let workers = match tokio::time::timeout(ANSWER_LIMIT, asked).await {
        Ok(Ok(workers)) => workers.into_inner().record.len(),
        Ok(Err(status)) => {
            return Err(format!("BuildKit at {address} refuses: {}", status.message()));
        }
        Err(_) => return Err(format!("BuildKit at {address} does not answer within 10 s")),
    };
    check_registry(registry).await?;
    Ok(format!("buildkit at {address} ({workers} workers); images go to {}", registry.host))
}

/// Depot's API and the registry.
///
/// # Errors
/// One sentence with the remedy.
pub async fn check_depot(account: &DepotAccount) -> Result<String, String> {
    super::depot::check(account).await?;
    check_registry(&account.registry).await?;
    Ok(format!("depot at {}; images go to {}", account.api_url, account.registry.host))
}

/// Whether the login is let in; that it may push is seen with the first image.
async fn check_registry(registry: &Registry) -> Result<(), String> {
    let prefix = if registry.prefix.is_empty() { "launchway" } else { &registry.prefix };
    let nothing = format!("{}/{prefix}/launchway-check:none", registry.host);
    registry.digest_of(&nothing).await.map(drop).map_err(|error| error.failure().message.clone())
}
