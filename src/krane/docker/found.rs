//! Everything that the engine has of ours.

use bollard::{
    Docker,
    models::ContainerSummary,
    query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder},
};
use launchway_proto::krane::v1::Found;

use super::{failed, filters, labels};
use crate::krane::backend::BackendError;

/// Sizes make the engine look at every container's files.
pub(super) async fn all(
    docker: &Docker,
    owner: &str,
    sizes: bool,
) -> Result<Vec<Found>, BackendError> {
    let filters = filters(&[labels::owned_by(owner)]);
    let options =
        ListContainersOptionsBuilder::new().all(true).size(sizes).filters(&filters).build();
    let containers = docker.list_containers(Some(options)).await.map_err(|error| failed(&error))?;
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let networks = docker.list_networks(Some(options)).await.map_err(|error| failed(&error))?;
    let networks = networks.into_iter().map(|network| Found {
        namespace: namespace(&network.labels.unwrap_or_default()),
        kind: "network".to_owned(),
        id: network.name.unwrap_or_default(),
        created_at: network.created.map(|at| at.timestamp_millis()).unwrap_or_default(),
        ..Found::default()
    });
    Ok(containers.into_iter().filter_map(container).chain(networks).collect())
}

fn container(found: ContainerSummary) -> Option<Found> {
    let id = super::name_of(&found);
    let labels = found.labels?;
    // Started by a person from an image of ours: theirs.
    let kind = match (labels::task_in(&labels).is_some(), labels.contains_key(labels::INSTANCES)) {
        (true, _) => "task",
        (false, true) => "instance",
        (false, false) => return None,
    };
    Some(Found {
        namespace: namespace(&labels),
        deployment_id: labels::deployment_in(&labels).map(|id| id.to_string()).unwrap_or_default(),
        kind: kind.to_owned(),
        id,
        created_at: found.created.unwrap_or_default().saturating_mul(1000),
        size: found.size_rw.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        task_id: labels::task_in(&labels).unwrap_or_default().to_owned(),
        attended: false,
    })
}

fn namespace(labels: &labels::LabelMap) -> String {
    labels::namespace_in(labels).unwrap_or_default().to_owned()
}
