//! The kinds that it serves, and what it refuses of them.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::Job,
    core::v1::{ConfigMap, LimitRange, Namespace, Pod, ResourceQuota, Secret, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    check: fn(&Value) -> Result<(), String>,
}

macro_rules! kinds {
    ($($group:literal $version:literal $plural:literal $kind:ident $namespaced:literal;)*) => {
        pub const KINDS: &[Kind] = &[$(Kind {
            group: $group, version: $version, plural: $plural, kind: stringify!($kind),
            namespaced: $namespaced, check: round_trip::<$kind>,
        }),*];
    };
}

kinds! {
    "" "v1" "namespaces" Namespace false;
    "" "v1" "configmaps" ConfigMap true;
    "" "v1" "secrets" Secret true;
    "" "v1" "services" Service true;
    "" "v1" "resourcequotas" ResourceQuota true;
    "" "v1" "limitranges" LimitRange true;
    "" "v1" "pods" Pod true;
    "apps" "v1" "deployments" Deployment true;
    "apps" "v1" "replicasets" ReplicaSet true;
    "batch" "v1" "jobs" Job true;
    "autoscaling" "v2" "horizontalpodautoscalers" HorizontalPodAutoscaler true;
    "policy" "v1" "poddisruptionbudgets" PodDisruptionBudget true;
    "networking.k8s.io" "v1" "networkpolicies" NetworkPolicy true;
}

pub fn of(plural: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.plural == plural).expect("a kind that is served")
}

/// Strict field validation: what the schema does not have, or has with another
/// type, is refused. The schema is k8s-openapi's.
fn round_trip<T: Serialize + DeserializeOwned>(value: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    unknown(value, &again, "")
}

fn unknown(given: &Value, known: &Value, path: &str) -> Result<(), String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            given.iter().try_for_each(|(key, value)| {
                let path = format!("{path}.{key}");
                match known.get(key) {
                    Some(known) => unknown(value, known, &path),
                    None if is_empty(value) => Ok(()),
                    None => Err(format!("unknown field \"{}\"", path.trim_start_matches('.'))),
                }
            })
        }
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).enumerate().try_for_each(|(at, (given, known))| {
                unknown(given, known, &format!("{path}[{at}]"))
            })
        }
        _ => Ok(()),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

impl Kind {
    /// 400 of strict validation.
    pub fn check_schema(&self, value: &Value) -> Result<(), String> {
        (self.check)(value)
    }

    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub fn resource(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// 422: what the schema cannot say. `before`: what it was.
    pub fn problems(&self, value: &Value, before: Option<&Value>) -> Vec<String> {
        let mut problems = Vec::new();
        names(self, value, &mut problems);
        labels(&value["metadata"]["labels"], "metadata.labels", &mut problems);
        match self.plural {
            "deployments" => deployment(value, before, &mut problems),
            "jobs" => job(value, before, &mut problems),
            "pods" => pod(&value["spec"], "spec", &mut problems),
            "services" => service(value, &mut problems),
            "secrets" => secret(value, before, &mut problems),
            _ => {}
        }
        problems
    }
}

fn is_dns(text: &str, most: usize, dots: bool) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= most
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dots && c == '.'))
}

fn names(kind: &Kind, value: &Value, problems: &mut Vec<String>) {
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    let valid = match kind.plural {
        "namespaces" => is_dns(name, 63, false),
        // RFC 1035, as before Kubernetes 1.34.
        "services" => is_dns(name, 63, false) && !name.starts_with(|c: char| c.is_ascii_digit()),
        "jobs" => is_dns(name, 63, true),
        _ => is_dns(name, 253, true),
    };
    if !valid {
        problems.push(format!("metadata.name: Invalid value: \"{name}\""));
    }
}

fn labels(labels: &Value, path: &str, problems: &mut Vec<String>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let valid = value.len() <= 63
            && edge(value.chars().next())
            && edge(value.chars().last())
            && value.chars().all(inner);
        if !valid {
            problems.push(format!("{path}: Invalid value: \"{value}\" of {key}"));
        }
    }
}

fn required(value: &Value, path: &str, problems: &mut Vec<String>) {
    if value.is_null() {
        problems.push(format!("{path}: Required value"));
    }
}

fn deployment(value: &Value, before: Option<&Value>, problems: &mut Vec<String>) {
    let (spec, template) = (&value["spec"], &value["spec"]["template"]);
    required(&spec["selector"], "spec.selector", problems);
    let wanted = spec["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let has = &template["metadata"]["labels"];
    if wanted.iter().any(|(key, value)| has[key] != *value) {
        problems.push("spec.template.metadata.labels: `selector` does not match".to_owned());
    }
    if before.is_some_and(|before| before["spec"]["selector"] != spec["selector"]) {
        problems.push("spec.selector: field is immutable".to_owned());
    }
    labels(has, "spec.template.metadata.labels", problems);
    if template["spec"]["restartPolicy"].as_str().unwrap_or("Always") != "Always" {
        problems.push("spec.template.spec.restartPolicy: Unsupported value".to_owned());
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        problems.push("spec.template.spec.activeDeadlineSeconds: Forbidden".to_owned());
    }
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling["maxSurge"] == 0 && rolling["maxUnavailable"] == 0 {
        problems.push("spec.strategy.rollingUpdate: may not both be 0".to_owned());
    }
    pod(&template["spec"], "spec.template.spec", problems);
}

fn job(value: &Value, before: Option<&Value>, problems: &mut Vec<String>) {
    let template = &value["spec"]["template"];
    let policy = template["spec"]["restartPolicy"].as_str().unwrap_or("Always");
    if policy == "Always" {
        problems.push(
            "spec.template.spec.restartPolicy: Required value: OnFailure or Never".to_owned(),
        );
    }
    if before.is_some_and(|before| before["spec"]["template"] != *template) {
        problems.push("spec.template: field is immutable".to_owned());
    }
    pod(&template["spec"], "spec.template.spec", problems);
}

fn pod(spec: &Value, path: &str, problems: &mut Vec<String>) {
    let containers = spec["containers"].as_array().cloned().unwrap_or_default();
    if containers.is_empty() {
        problems.push(format!("{path}.containers: Required value"));
    }
    let volumes: Vec<&Value> =
        spec["volumes"].as_array().into_iter().flatten().map(|volume| &volume["name"]).collect();
    for container in &containers {
        let name = container["name"].as_str().unwrap_or_default();
        if !is_dns(name, 63, false) {
            problems.push(format!("{path}.containers.name: Invalid value: \"{name}\""));
        }
        if container["image"].as_str().unwrap_or_default().is_empty() {
            problems.push(format!("{path}.containers.image: Required value"));
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            check_probe(&container[probe], &format!("{path}.containers.{probe}"), problems);
        }
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            if !volumes.contains(&&mount["name"]) {
                problems
                    .push(format!("{path}.containers.volumeMounts: Not found: {}", mount["name"]));
            }
        }
        let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap_or(0);
        if sleep > spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30) {
            problems.push(format!("{path}.containers.lifecycle.preStop.sleep: Invalid value"));
        }
    }
}

fn check_probe(probe: &Value, path: &str, problems: &mut Vec<String>) {
    if probe.is_null() {
        return;
    }
    let handlers =
        ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|kind| !probe[**kind].is_null());
    if handlers.count() != 1 {
        problems.push(format!("{path}: must specify one handler type"));
    }
    for field in ["periodSeconds", "timeoutSeconds", "failureThreshold"] {
        if probe[field].as_i64().is_some_and(|value| value < 1) {
            problems.push(format!("{path}.{field}: must be greater than 0"));
        }
    }
}

fn service(value: &Value, problems: &mut Vec<String>) {
    let ports = value["spec"]["ports"].as_array().cloned().unwrap_or_default();
    if ports.is_empty() {
        problems.push("spec.ports: Required value".to_owned());
    }
    let mut seen = BTreeMap::new();
    for port in ports {
        let number = port["port"].as_i64().unwrap_or(0);
        if !(1..=65535).contains(&number) || seen.insert(number, ()).is_some() {
            problems.push(format!("spec.ports.port: Invalid value: {number}"));
        }
    }
}

fn secret(value: &Value, before: Option<&Value>, problems: &mut Vec<String>) {
    for key in value["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if key.is_empty() || !key.chars().all(valid) {
            problems.push(format!("data[{key}]: Invalid value"));
        }
    }
    if before.is_some_and(|before| before["type"] != value["type"]) {
        problems.push("type: field is immutable".to_owned());
    }
}
