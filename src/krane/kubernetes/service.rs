//! The name by which the others of an environment reach a project: shared by its
//! deployments while one follows the other.

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::ResourceExt;

use super::{
    KubernetesBackend,
    call::{CallError, call},
    names::keys,
    objects::{self, Root, Wanted},
    patching::{create, put_once},
};
use crate::krane::backend::BackendError;

/// Tries to share a service with somebody who applies it at the same moment.
const SHARE_TRIES: u32 = 10;

impl KubernetesBackend {
    /// Adds this deployment to the owners of the name that its project has in
    /// the environment.
    pub(super) async fn put_service(
        &self,
        root: &Root,
        wanted: Wanted<'_>,
    ) -> Result<(), BackendError> {
        let namespace = &root.namespace;
        let Some(service) = objects::service(&self.style, namespace, wanted, Vec::new()) else {
            return Ok(());
        };
        let (api, name) = (self.api::<Service>(namespace), service.name_any());
        let mut last = None;
        for _ in 0..SHARE_TRIES {
            let present = call("Service", || api.get_opt(&name)).await?;
            let mut shared = service.clone();
            shared.metadata.owner_references = Some(owners(present.as_ref(), root));
            if let Some(present) = present {
                if present.labels().get(keys::INSTALLATION)
                    != shared.labels().get(keys::INSTALLATION)
                {
                    return Err(BackendError::Rejected(format!(
                        "the namespace {namespace} has a service `{name}` that is not of launchway: \
                         remove it, or give the project another name"
                    )));
                }
                shared.metadata.resource_version = present.metadata.resource_version;
            }
            let written = match shared.metadata.resource_version {
                Some(_) => put_once(&api, &shared).await,
                None => create(&api, &shared).await,
            };
            match written {
                Ok(()) => return Ok(()),
                // Another deployment of the project has just done the same.
                Err(CallError::Exists(text) | CallError::Moved(text)) => last = Some(text),
                Err(error) => return Err(error.into()),
            }
        }
        let last = last.unwrap_or_default();
        Err(BackendError::Unavailable(format!("Kubernetes: Service {name}: {last}")))
    }
}

/// The owners that a shared object has, with this one.
fn owners(present: Option<&Service>, root: &Root) -> Vec<OwnerReference> {
    let mut owners: Vec<OwnerReference> =
        present.map(|present| present.owner_references().to_vec()).unwrap_or_default();
    owners.retain(|owner| owner.uid != root.uid);
    owners.push(root.reference());
    owners
}
