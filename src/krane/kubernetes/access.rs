//! What krane must be allowed to do, asked one by one.
//! `deploy/kubernetes/rbac.yaml` grants exactly this.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};

use super::{
    call::{CallError, call},
    connect::Cluster,
};

/// A resource and what is done with it. `pods/log` is a subresource.
pub(super) struct Rule {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) verbs: &'static [&'static str],
}

const fn rule(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Rule {
    Rule { group, resource, verbs }
}

/// An apply needs `patch`, and `create` where there is nothing yet.
pub(super) const RULES: [Rule; 17] = [
    rule("", "namespaces", &["get", "list", "create", "patch"]),
    rule("", "configmaps", &["list", "watch", "create", "patch", "delete"]),
    // Clusters that enforce it ask for this of whoever sets an owner.
    rule("", "configmaps/finalizers", &["update"]),
    rule("", "secrets", &["get", "create", "patch"]),
    rule("", "services", &["get", "create", "patch"]),
    rule("", "resourcequotas", &["create", "patch"]),
    rule("", "limitranges", &["create", "patch"]),
    rule("", "pods", &["list", "watch", "patch"]),
    rule("", "pods/log", &["get"]),
    rule("", "pods/status", &["patch"]),
    rule("", "pods/exec", &["get", "create"]),
    rule("apps", "deployments", &["list", "watch", "create", "patch", "delete"]),
    rule("batch", "jobs", &["get", "list", "create"]),
    rule("autoscaling", "horizontalpodautoscalers", &["create", "patch", "delete"]),
    rule("policy", "poddisruptionbudgets", &["create", "patch", "delete"]),
    rule("networking.k8s.io", "networkpolicies", &["create", "patch"]),
    rule("authorization.k8s.io", "selfsubjectaccessreviews", &["create"]),
];

/// Questions asked at a time.
const AT_ONCE: usize = 8;

fn question(rule: &Rule, verb: &str) -> SelfSubjectAccessReview {
    let (resource, subresource) = match rule.resource.split_once('/') {
        Some((resource, sub)) => (resource, Some(sub.to_owned())),
        None => (rule.resource, None),
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(rule.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

/// The rules that are not granted.
async fn missing(client: &Client) -> Result<Vec<String>, CallError> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let asked = RULES.iter().flat_map(|rule| rule.verbs.iter().map(move |verb| (rule, *verb)));
    let answers = stream::iter(asked.map(|(rule, verb)| {
        let api = api.clone();
        async move {
            let (params, question) = (PostParams::default(), question(rule, verb));
            let create = || api.create(&params, &question);
            let answer = call("SelfSubjectAccessReview", create).await?;
            let allowed = answer.status.is_some_and(|status| status.allowed);
            let group = if rule.group.is_empty() { "core" } else { rule.group };
            let text = format!("{verb} {} ({group})", rule.resource);
            Ok((!allowed).then_some(text))
        }
    }));
    let all: Vec<Option<String>> = answers.buffered(AT_ONCE).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

/// Whether the cluster answers and lets us do what we must: what it is, or one
/// sentence with the remedy.
///
/// # Errors
/// It does not answer, or which rules are missing.
pub async fn check_cluster(cluster: &Cluster) -> Result<String, String> {
    let connection = cluster.connect().await?;
    let asking = connection.client.apiserver_version();
    let version = match tokio::time::timeout(std::time::Duration::from_secs(10), asking).await {
        Ok(Ok(version)) => version.git_version,
        Ok(Err(error)) => {
            return Err(format!("{}: {}", connection.url, crate::http::deepest(&error)));
        }
        Err(_) => return Err(format!("{} does not answer within 10 s", connection.url)),
    };
    let missing = missing(&connection.client).await.map_err(|error| error.to_string())?;
    let rules: usize = RULES.iter().map(|rule| rule.verbs.len()).sum();
    if missing.is_empty() {
        return Ok(format!("{version} {}, all {rules} permissions", connection.url));
    }
    Err(format!(
        "{version} {}: not allowed to {}; apply deploy/kubernetes/rbac.yaml",
        connection.url,
        missing.join(", ")
    ))
}
