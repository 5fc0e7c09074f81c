//! `down`: stops the processes of an installation, also those that a killed
//! `up` has left; deployed containers stay unless asked for.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
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
/// The Docker engine refuses to stop containers.
pub async fn down(layout: &Layout, options: DownOptions) -> Result<Vec<String>, SetupError> {
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
        let containers =
            remove_containers(&secrets.installation).await.map_err(SetupError::from)?;
        stopped.push(format!("{containers} deployed containers"));
    }
    Ok(stopped)
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
