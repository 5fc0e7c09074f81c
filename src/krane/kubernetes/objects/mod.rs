//! Our objects, as functions of what is wanted: nothing here asks a server.

mod namespace;
mod pod;
mod probes;
#[cfg(test)]
mod tests;
mod workload;

pub(super) use namespace::furniture;
pub(super) use pod::{ANSWERS, CONTAINER};
pub(super) use probes::Question;
pub(super) use workload::{
    Root, autoscaler, deployment, disruption_budget, job, root, service, task_root, variables,
};

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
};

use launchway_workflows::app::WEB;

use super::{
    names::{self, Map},
    settings::{Autoscale, PodSecurity},
};
use crate::krane::backend::{InstanceSpec, ProcessSpec};

/// How every pod is made, from the settings.
#[derive(Debug, Clone)]
pub(super) struct Style {
    pub(super) owner: String,
    pub(super) security: PodSecurity,
    pub(super) read_only_root: bool,
    pub(super) run_as_user: Option<i64>,
    /// There is a secret with the registry's login.
    pub(super) pulls_with_login: bool,
    /// krane asks over HTTP, the kubelet only whether there is a connection.
    pub(super) krane_probes: bool,
    pub(super) autoscale: Option<Autoscale>,
}

/// The secret with the registry's login.
pub(super) const PULL_SECRET: &str = "launchway-pull";

/// A process with the number of its port.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) spec: &'a InstanceSpec,
    pub(super) process: &'a ProcessSpec,
    pub(super) port: Option<u16>,
}

/// `web` has the service's name, the others add their own.
fn service_name(wanted: Wanted<'_>) -> Option<String> {
    wanted.port?;
    let name = match (wanted.spec.service_name.as_str(), wanted.process.name.as_str()) {
        ("", _) => return None,
        (service, WEB) => service.to_owned(),
        (service, process) => format!("{service}-{process}"),
    };
    Some(names::service(&name))
}

fn meta(namespace: &str, name: &str, labels: &Map) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    }
}

fn millicores(count: u32) -> Quantity {
    Quantity(format!("{count}m"))
}

fn mebibytes(count: u64) -> Quantity {
    Quantity(format!("{count}Mi"))
}

fn number(port: u16) -> IntOrString {
    IntOrString::Int(i32::from(port))
}

fn whole(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
