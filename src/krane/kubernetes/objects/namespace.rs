//! An environment's namespace and what is in it before any deployment.

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{
            LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota,
            ResourceQuotaSpec, Secret,
        },
        networking::v1::{
            IPBlock, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec,
        },
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use launchway_workflows::ids::EnvironmentId;
use serde_json::json;

use super::{PULL_SECRET, mebibytes, meta, millicores};
use crate::{
    krane::kubernetes::{
        names::{self, Map, keys},
        settings::{KubernetesSettings, PodSecurity, Quota},
    },
    registry::Login,
};

/// The namespace's own objects have one name.
const NAME: &str = "launchway";

/// What every environment has.
pub(crate) struct Furniture {
    pub(crate) namespace: Namespace,
    pub(crate) policy: NetworkPolicy,
    pub(crate) quota: Option<ResourceQuota>,
    pub(crate) limits: Option<LimitRange>,
    pub(crate) pull_secret: Option<Secret>,
}

pub(crate) fn furniture(settings: &KubernetesSettings, environment: &EnvironmentId) -> Furniture {
    let name = names::namespace(&settings.namespace_prefix, environment);
    let mut labels = names::installation_labels(&settings.owner);
    labels.insert(keys::ENVIRONMENT.to_owned(), environment.to_string());
    Furniture {
        namespace: namespace(settings, &name, &labels),
        policy: policy(settings, &name, &labels),
        quota: quota(settings.quota, &name, &labels),
        limits: limits(settings.quota, &name, &labels),
        pull_secret: settings.login().map(|login| pull_secret(login, &name, &labels)),
    }
}

fn namespace(settings: &KubernetesSettings, name: &str, labels: &Map) -> Namespace {
    let mut labels = labels.clone();
    let level = match settings.security {
        PodSecurity::Restricted => "restricted",
        PodSecurity::Baseline => "baseline",
    };
    labels.insert("pod-security.kubernetes.io/enforce".to_owned(), level.to_owned());
    Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// In come gateways, krane and the environment's own instances; what goes out is
/// the application's business.
fn policy(settings: &KubernetesSettings, namespace: &str, labels: &Map) -> NetworkPolicy {
    let selector = |labels: Map| LabelSelector {
        match_labels: (!labels.is_empty()).then_some(labels),
        ..LabelSelector::default()
    };
    let own = NetworkPolicyPeer {
        pod_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    let admitted = &settings.gateway;
    let by_name = ("kubernetes.io/metadata.name".to_owned(), admitted.namespace.clone());
    let gateway = (!admitted.namespace.is_empty()).then(|| NetworkPolicyPeer {
        namespace_selector: Some(selector(Map::from([by_name]))),
        pod_selector: Some(selector(admitted.labels.clone())),
        ..NetworkPolicyPeer::default()
    });
    let addresses = admitted.cidrs.iter().map(|cidr| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: cidr.clone(), except: None }),
        ..NetworkPolicyPeer::default()
    });
    NetworkPolicy {
        metadata: meta(namespace, NAME, labels),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some([own].into_iter().chain(gateway).chain(addresses).collect()),
                ..NetworkPolicyIngressRule::default()
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn quota(quota: Quota, namespace: &str, labels: &Map) -> Option<ResourceQuota> {
    let mut hard = std::collections::BTreeMap::new();
    if quota.pods > 0 {
        let pods = k8s_openapi::apimachinery::pkg::api::resource::Quantity(quota.pods.to_string());
        hard.insert("pods".to_owned(), pods);
    }
    if quota.cpu_millicores > 0 {
        hard.insert("limits.cpu".to_owned(), millicores(quota.cpu_millicores));
    }
    if quota.memory_mib > 0 {
        hard.insert("limits.memory".to_owned(), mebibytes(quota.memory_mib));
    }
    (!hard.is_empty()).then(|| ResourceQuota {
        metadata: meta(namespace, NAME, labels),
        spec: Some(ResourceQuotaSpec { hard: Some(hard), ..ResourceQuotaSpec::default() }),
        ..ResourceQuota::default()
    })
}

/// Where a quota counts, a container that asks for nothing would be refused; and
/// one without a limit takes a node.
fn limits(quota: Quota, namespace: &str, labels: &Map) -> Option<LimitRange> {
    let all = std::collections::BTreeMap::from([
        ("cpu".to_owned(), millicores(quota.default_cpu_millicores)),
        ("memory".to_owned(), mebibytes(quota.default_memory_mib)),
    ]);
    let known = |key: &str| match key {
        "cpu" => quota.default_cpu_millicores > 0,
        _ => quota.default_memory_mib > 0,
    };
    let defaults: std::collections::BTreeMap<_, _> =
        all.into_iter().filter(|(key, _)| known(key)).collect();
    (!defaults.is_empty()).then(|| LimitRange {
        metadata: meta(namespace, NAME, labels),
        spec: Some(LimitRangeSpec {
            limits: vec![LimitRangeItem {
                type_: "Container".to_owned(),
                default: Some(defaults.clone()),
                default_request: Some(defaults),
                ..LimitRangeItem::default()
            }],
        }),
    })
}

fn pull_secret(login: &Login, namespace: &str, labels: &Map) -> Secret {
    let (user, password) = (&login.username, login.password.expose());
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let entry = json!({"username": user, "password": password, "auth": auth});
    let config = json!({"auths": {&login.host: entry}}).to_string();
    Secret {
        metadata: meta(namespace, PULL_SECRET, labels),
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), ByteString(config.into_bytes()))].into()),
        ..Secret::default()
    }
}
