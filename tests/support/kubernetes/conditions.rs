//! Conditions of a pod.

use serde_json::{Value, json};

use super::store::now;

/// Sets a condition; its time is when its status changed last.
pub fn condition(status: &mut Value, kind: &str, holds: bool, reason: Option<&str>, message: &str) {
    let text = if holds { "True" } else { "False" };
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let all = status["conditions"].as_array_mut().expect("made so");
    let known = all.iter().find(|one| one["type"] == kind);
    let since = match known {
        Some(known) if known["status"] == text => known["lastTransitionTime"].clone(),
        _ => json!(now()),
    };
    all.retain(|one| one["type"] != kind);
    let mut fresh = json!({"type": kind, "status": text, "lastTransitionTime": since});
    if let Some(reason) = reason {
        fresh["reason"] = json!(reason);
        fresh["message"] = json!(message);
    }
    all.push(fresh);
    all.sort_by_key(|one| one["type"].as_str().unwrap_or_default().to_owned());
}
