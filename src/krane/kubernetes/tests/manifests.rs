//! deploy/kubernetes says what the code needs.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::{
    config::{Config, Overrides},
    krane::kubernetes::access::RULES,
};

fn read(name: &str) -> Vec<Value> {
    let path = format!("{}/deploy/kubernetes/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Nothing is there that the kind does not have.
fn check<T: Serialize + DeserializeOwned>(object: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    let mut lost = Vec::new();
    compare(object, &again, "", &mut lost);
    if lost.is_empty() { Ok(()) } else { Err(lost.join(", ")) }
}

fn compare(given: &Value, known: &Value, path: &str, lost: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given {
                match known.get(key) {
                    Some(known) => compare(value, known, &format!("{path}.{key}"), lost),
                    None => lost.push(format!("{path}.{key}")),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).for_each(|(a, b)| compare(a, b, path, lost));
        }
        (given, known) if given != known => lost.push(format!("{path}: {given} is {known}")),
        _ => {}
    }
}

#[test]
fn the_role_grants_what_krane_asks_for_and_nothing_else() {
    let all = read("rbac.yaml");
    let role = all.iter().find(|object| object["kind"] == "ClusterRole").unwrap();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    granted.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    let asked = RULES.iter().flat_map(|rule| {
        let whole =
            |verb: &&str| (rule.group.to_owned(), rule.resource.to_owned(), (*verb).to_owned());
        rule.verbs.iter().map(whole)
    });
    assert_eq!(granted, asked.collect());
}

/// Every request that the tests' server has seen is one that is asked for.
#[tokio::test]
async fn krane_does_nothing_that_it_does_not_ask_to_be_allowed() {
    let cluster = serving();
    let autoscale = Some(Autoscale { max_replicas: 5, cpu_percent: 80 });
    let settings = KubernetesSettings { autoscale, ..settings(&cluster, "ins-1") };
    let backend = KubernetesBackend::start(settings).await.unwrap();
    let mut spec = spec(2);
    backend.apply(&spec).await.unwrap();
    until(&backend, &spec.deployment_id, all_ready(2)).await;
    spec.processes[0].name = "other".parse().unwrap();
    backend.apply(&spec).await.unwrap();
    backend.list(false).await.unwrap();
    backend.delete(&spec.deployment_id).await.unwrap();
    let allowed = |verb: &str, resource: &str| {
        RULES.iter().any(|rule| rule.resource == resource && rule.verbs.contains(&verb))
    };
    let requests = cluster.requests();
    assert!(requests.len() > 20, "{requests:?}");
    for (verb, resource, name) in requests {
        assert!(allowed(&verb, &resource), "{verb} {resource} {name}");
    }
}

#[test]
fn every_manifest_is_one_that_a_cluster_takes() {
    for object in read("rbac.yaml").into_iter().chain(read("launchway.yaml")) {
        let checked = match object["kind"].as_str().unwrap() {
            "Namespace" => check::<Namespace>(&object),
            "ServiceAccount" => check::<ServiceAccount>(&object),
            "ClusterRole" => check::<ClusterRole>(&object),
            "ClusterRoleBinding" => check::<ClusterRoleBinding>(&object),
            "ConfigMap" => check::<ConfigMap>(&object),
            "Service" => check::<Service>(&object),
            "StatefulSet" => check::<StatefulSet>(&object),
            "Deployment" => check::<Deployment>(&object),
            "PodDisruptionBudget" => check::<PodDisruptionBudget>(&object),
            kind => Err(format!("a {kind} is not expected")),
        };
        checked.unwrap_or_else(|problem| panic!("{problem} in {object:#}"));
    }
}

#[test]
fn the_settings_of_the_example_are_settings() {
    let all = read("launchway.yaml");
    let map = all.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, map["data"]["config.toml"].as_str().unwrap()).unwrap();
    let overrides = Overrides { file: Some(file), set: Vec::new(), env: Vec::new() };
    let config = Config::load(dir.path().to_owned(), &overrides).unwrap();
    assert!(!config.needs_docker(), "there is none in the cluster");
    // Gateways carry the labels that the environments admit.
    let wanted = config.kubernetes.gateway_labels.split_once('=').unwrap();
    let gateway =
        all.iter().find(|object| object["metadata"]["name"] == "launchway-gateway").unwrap();
    assert_eq!(gateway["spec"]["template"]["metadata"]["labels"][wanted.0], wanted.1);
    assert_eq!(gateway["metadata"]["namespace"], *config.kubernetes.gateway_namespace);
}
