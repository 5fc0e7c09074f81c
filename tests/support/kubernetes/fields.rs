//! Fields of objects as server-side apply sees them: lists that are maps by some
//! key are merged, all others are one value.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Steps such as `f:spec` and `k:{"name":"app"}`.
pub type Path = Vec<String>;

/// What identifies an item of a list, where the list is a map.
fn keys(field: &str, list: &[Value]) -> Option<&'static [&'static str]> {
    Some(match field {
        "containers" | "env" | "volumes" | "imagePullSecrets" => &["name"],
        "ownerReferences" => &["uid"],
        "conditions" => &["type"],
        "volumeMounts" => &["mountPath"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "ports" if list.iter().any(|item| !item["containerPort"].is_null()) => {
            &["containerPort", "protocol"]
        }
        "ports" => &["port", "protocol"],
        _ => return None,
    })
}

/// Maps that are one value.
fn is_atomic(field: &str) -> bool {
    matches!(field, "selector" | "labelSelector" | "podSelector" | "namespaceSelector")
}

fn key_of(item: &Value, keys: &[&str]) -> String {
    let named: Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), item[*key].clone())).collect();
    format!("k:{}", Value::Object(named))
}

/// The paths of all values.
pub fn leaves(value: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    for (field, value) in value.as_object().into_iter().flatten() {
        match field.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for (field, value) in value.as_object().into_iter().flatten() {
                    let identity = ["name", "namespace", "uid", "resourceVersion", "managedFields"];
                    if !identity.contains(&field.as_str()) {
                        walk(field, value, &mut vec!["f:metadata".to_owned()], &mut found);
                    }
                }
            }
            _ => walk(field, value, &mut Path::new(), &mut found),
        }
    }
    found
}

fn walk(field: &str, value: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    path.push(format!("f:{field}"));
    match value {
        Value::Object(map) if !map.is_empty() && !is_atomic(field) => {
            for (field, value) in map {
                walk(field, value, path, found);
            }
        }
        Value::Array(list) => match keys(field, list) {
            Some(keys) => {
                for item in list {
                    path.push(key_of(item, keys));
                    for (field, value) in item.as_object().into_iter().flatten() {
                        walk(field, value, path, found);
                    }
                    path.pop();
                }
            }
            None => drop(found.insert(path.clone())),
        },
        _ => drop(found.insert(path.clone())),
    }
    path.pop();
}

/// Lays `patch` over `value`: maps and lists that are maps by their keys, `null`
/// removes, everything else replaces.
pub fn merge(value: &mut Value, patch: &Value) {
    merge_at("", value, patch);
}

fn merge_at(field: &str, value: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) if !is_atomic(field) => {
            if !value.is_object() {
                *value = json!({});
            }
            let map = value.as_object_mut().expect("made so");
            for (field, patch) in patch {
                if patch.is_null() {
                    map.remove(field);
                } else {
                    merge_at(field, map.entry(field.clone()).or_insert(Value::Null), patch);
                }
            }
        }
        Value::Array(items) if keys(field, items).is_some() => {
            let keys = keys(field, items).expect("just seen");
            if !value.is_array() {
                *value = json!([]);
            }
            let list = value.as_array_mut().expect("made so");
            for item in items {
                let key = key_of(item, keys);
                match list.iter_mut().find(|known| key_of(known, keys) == key) {
                    Some(known) => merge_at("", known, item),
                    None => list.push(item.clone()),
                }
            }
        }
        other => *value = other.clone(),
    }
}

/// The value at a path.
pub fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((step, rest)) = path.split_first() else { return Some(value) };
    let next = match step.strip_prefix("f:") {
        Some(field) => value.get(field)?,
        None => value.as_array()?.iter().find(|item| is_item(item, step))?,
    };
    at(next, rest)
}

fn is_item(item: &Value, step: &str) -> bool {
    let key: Value = serde_json::from_str(step.trim_start_matches("k:")).unwrap_or_default();
    let key = key.as_object().cloned().unwrap_or_default();
    key.iter().all(|(field, value)| item.get(field).unwrap_or(&Value::Null) == value)
}

/// Removes the value at a path, and what is empty without it.
pub fn remove(value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else { return };
    match step.strip_prefix("f:") {
        Some(field) => {
            let Some(map) = value.as_object_mut() else { return };
            if rest.is_empty() {
                map.remove(field);
            } else if let Some(next) = map.get_mut(field) {
                remove(next, rest);
                if is_empty(next) {
                    map.remove(field);
                }
            }
        }
        None => {
            let Some(list) = value.as_array_mut() else { return };
            if let Some(item) = list.iter_mut().find(|item| is_item(item, step)) {
                remove(item, rest);
            }
            list.retain(|item| !is_empty(item));
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}
