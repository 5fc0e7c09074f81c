//! Who may do what, and how much of it.

use serde_json::{Value, json};

use super::{Shared, refusal::Refusal, store::Store};

/// The thousandths of `500m`, `1` or `64Mi`.
fn amount(value: &Value) -> i128 {
    let text = value.as_str().unwrap_or_default();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: i128 = text[..split].parse().unwrap_or(0);
    number
        * match &text[split..] {
            "m" => 1,
            "Ki" => 1000 << 10,
            "Mi" => 1000 << 20,
            "Gi" => 1000 << 30,
            _ => 1000,
        }
}

fn used(pod: &Value, key: &str) -> i128 {
    if key == "pods" {
        return 1000;
    }
    let resource = key.strip_prefix("limits.").unwrap_or(key);
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    containers.iter().map(|one| amount(&one["resources"]["limits"][resource])).sum()
}

/// The quota's admission of one more pod.
pub fn quota(store: &Store, namespace: &str, pod: &Value) -> Result<(), String> {
    let here = |value: &&Value| value["metadata"]["namespace"] == namespace;
    let (quotas, pods) = (store.list("resourcequotas"), store.list("pods"));
    for quota in quotas.iter().filter(here) {
        let name = &quota["metadata"]["name"].as_str().unwrap_or_default();
        for (key, hard) in quota["spec"]["hard"].as_object().into_iter().flatten() {
            let counted = pods.iter().filter(here).filter(|pod| {
                !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
            });
            let sum: i128 = counted.map(|pod| used(pod, key)).sum();
            let wanted = used(pod, key);
            if key.starts_with("limits.") && wanted == 0 {
                return Err(format!("failed quota: {name}: must specify {key}"));
            }
            if sum + wanted > amount(hard) {
                return Err(format!(
                    "exceeded quota: {name}, requested: {key}={}, used: {key}={}, limited: {key}={}",
                    wanted / 1000,
                    sum / 1000,
                    hard.as_str().unwrap_or_default()
                ));
            }
        }
    }
    Ok(())
}

impl Shared {
    pub fn is_allowed(&self, verb: &str, resource: &str) -> bool {
        let forbidden = self.forbidden.lock().unwrap();
        !forbidden.iter().any(|(v, r)| v == verb && r == resource)
    }

    pub fn authorize(
        &self,
        verb: &str,
        resource: &str,
        group: &str,
        namespace: &str,
    ) -> Result<(), Refusal> {
        if self.is_allowed(verb, resource) {
            return Ok(());
        }
        let place = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let full =
            if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        Err(Refusal::new(
            403,
            "Forbidden",
            format!(
                "{full} is forbidden: User \"krane\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}"
            ),
        ))
    }

    /// `SelfSubjectAccessReview`
    pub fn review(&self, mut review: Value) -> Value {
        let asked = &review["spec"]["resourceAttributes"];
        let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let (resource, sub) = (text("resource"), text("subresource"));
        let resource = if sub.is_empty() { resource } else { format!("{resource}/{sub}") };
        let allowed = self.is_allowed(&text("verb"), &resource);
        review["apiVersion"] = json!("authorization.k8s.io/v1");
        review["kind"] = json!("SelfSubjectAccessReview");
        review["status"] = json!({"allowed": allowed});
        review
    }
}
