//! Server-side apply and removal of single objects.

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    call::{CallError, call, call_once},
    names::MANAGER,
};

/// Server-side apply: the fields are ours, whoever had set them.
pub(super) async fn put<K>(api: &Api<K>, object: &K) -> Result<K, CallError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    patch(api, object, PatchParams::apply(MANAGER).force()).await
}

/// As [`put`], but a conflict with another version is the caller's.
pub(super) async fn put_once(api: &Api<Service>, object: &Service) -> Result<(), CallError> {
    let (name, patch) = (object.name_any(), Patch::Apply(object));
    let params = PatchParams::apply(MANAGER).force().validation_strict();
    call_once("Service", || api.patch(&name, &params, &patch)).await.map(drop)
}

/// Never over one that is there: its other owners would be lost.
pub(super) async fn create(api: &Api<Service>, object: &Service) -> Result<(), CallError> {
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    call_once("Service", || api.create(&params, object)).await.map(drop)
}

/// Server-side apply that leaves what somebody else has set.
pub(super) async fn offer<K>(api: &Api<K>, object: &K) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    match patch(api, object, PatchParams::apply(MANAGER)).await {
        Ok(_) => Ok(()),
        Err(CallError::Owned(message)) => {
            tracing::debug!(message, "left as it was set in the cluster");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn patch<K>(api: &Api<K>, object: &K, params: PatchParams) -> Result<K, CallError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let (kind, name) = (K::kind(&()), object.name_any());
    let patch = Patch::Apply(object);
    let params = params.validation_strict();
    let what = format!("{kind} {name}");
    call(&what, || api.patch(&name, &params, &patch)).await
}

/// Removes it with all that it owns, if it is there.
pub(super) async fn remove<K>(api: &Api<K>, name: &str) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let what = format!("{} {name}", K::kind(&()));
    let params = DeleteParams::foreground();
    match call(&what, || api.delete(name, &params)).await {
        Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What an apply may say of an object that the server gave.
pub(super) fn bare(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        labels: meta.labels,
        owner_references: meta.owner_references,
        ..ObjectMeta::default()
    }
}
