//! `down`: stops the processes of an installation, also those that a killed
//! `up` has left; deployed containers stay unless asked for.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};

use crate::{
    config::{Config, RuntimeSettings},
    krane::KubernetesBackend,
};

use super::{SetupError, child::recorded, layout::Layout, secrets::Secrets, state::UpState};

/// `up` drains for some seconds and then stops its children.
const GRACE: Duration = Duration::from_secs(60);
/// Children that `up` has left.
const CHILDREN: [&str; 2] = ["gateway", "restate-server"];

/// What to stop.
#[derive(Debug, Clone, Copy)]
pub struct DownOptions {
    /// Deployed containers too.
    pub all: bool,
    /// Not the gateway: it serves on for the next `up`.
    pub keep_gateway: bool,
}

/// Returns one line per thing that was stopped.
///
/// # Errors
/// The Docker engine or the cluster refuses to remove what was deployed.
pub async fn down(config: &Config, options: DownOptions) -> Result<Vec<String>, SetupError> {
    let layout = &Layout::new(&config.data_dir);
    let mut stopped = Vec::new();
    if let Some(up) = UpState::read(layout).filter(UpState::is_alive) {
        if options.keep_gateway {
            up.process.hang_up(GRACE).await;
        }
        up.process.stop(GRACE).await;
        stopped.push(format!("launchway up (process {})", up.pid()));
    }
    for name in CHILDREN {
        if options.keep_gateway && name == "gateway" {
            continue;
        }
        if let Some(child) = recorded(layout, name) {
            child.stop(GRACE).await;
            stopped.push(format!("{name} (process {})", child.pid));
        }
    }
    if options.all {
        let secrets = Secrets::ensure(layout)?;
        stopped.push(remove_deployed(config, &secrets.installation).await?);
    }
    Ok(stopped)
}

async fn remove_deployed(config: &Config, installation: &str) -> Result<String, SetupError> {
    match config.runtime(installation).map_err(SetupError::from)? {
        RuntimeSettings::Docker(_) => {
            let containers = remove_containers(installation).await.map_err(SetupError::from)?;
            Ok(format!("{containers} deployed containers"))
        }
        RuntimeSettings::Kubernetes(settings) => {
            let backend = KubernetesBackend::start(*settings).await.map_err(SetupError)?;
            backend.remove_all().await.map_err(SetupError::from)?;
            Ok("every deployment of the cluster".to_owned())
        }
    }
}

async fn remove_containers(installation: &str) -> Result<usize, bollard::errors::Error> {
    let docker = Docker::connect_with_defaults()?;
    let label = format!("launchway.owner={installation}");
    let filters = HashMap::from([("label", vec![label])]);
    let list = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let containers = docker.list_containers(Some(list)).await?;
    for container in &containers {
        let remove = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        docker.remove_container(container.id.as_deref().unwrap_or_default(), Some(remove)).await?;
    }
    for network in docker
        .list_networks(Some(
            bollard::query_parameters::ListNetworksOptionsBuilder::new().filters(&filters).build(),
        ))
        .await?
    {
        docker.remove_network(network.id.as_deref().unwrap_or_default()).await?;
    }
    Ok(containers.len())
}
