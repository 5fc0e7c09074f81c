//! Names and labels of our objects: valid for any id, and no two alike.

use std::collections::BTreeMap;

use launchway_workflows::ids::{DeploymentId, EnvironmentId};
use sha2::{Digest, Sha256};

/// Who owns the fields that we apply.
pub(super) const MANAGER: &str = "launchway";

/// Deployments become part of the names of pods, which have 17 more characters.
const WORKLOAD: usize = 46;
/// Jobs' names are values of labels, and their pods have 6 more characters.
const TASK: usize = 57;
/// A DNS label, and a label's value.
const LABEL: usize = 63;

/// Keys of our labels and annotations.
pub(super) mod keys {
    pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    pub(crate) const INSTALLATION: &str = "launchway.dev/installation";
    pub(crate) const DEPLOYMENT: &str = "launchway.dev/deployment";
    pub(crate) const PROJECT: &str = "launchway.dev/project";
    pub(crate) const ENVIRONMENT: &str = "launchway.dev/environment";
    pub(crate) const PROCESS: &str = "launchway.dev/process";
    pub(crate) const SERVICE: &str = "launchway.dev/service";
    pub(crate) const TASK: &str = "launchway.dev/task";
    /// Annotations: what cannot be a label's value, or must not be selected by.
    pub(crate) const SPEC: &str = "launchway.dev/spec";
    pub(crate) const PORT: &str = "launchway.dev/port";
    /// What krane asks: a check, as JSON.
    pub(crate) const CHECK: &str = "launchway.dev/check";
    pub(crate) const CHECK_TIMEOUT: &str = "launchway.dev/check-timeout-ms";
    pub(crate) const CHECK_INTERVAL: &str = "launchway.dev/check-interval-ms";
    pub(crate) const START_PERIOD: &str = "launchway.dev/start-period-ms";
    pub(crate) const STAYS_UP: &str = "launchway.dev/stays-up-ms";
    /// Kubernetes' own: the job of a pod.
    pub(crate) const JOB: &str = "batch.kubernetes.io/job-name";
    /// Kubernetes' own: which pods go first.
    pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
}

/// Labels or annotations.
pub(super) type Map = BTreeMap<String, String>;

/// A DNS label of at most `most` characters for any text. What had to be
/// changed for it ends with a hash of the whole, so that two texts never share
/// a label.
pub(super) fn dns_label(text: &str, most: usize) -> String {
    let wanted: String = text.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    let wanted = wanted.trim_matches('-');
    if wanted == text && text.len() <= most && !text.is_empty() {
        return text.to_owned();
    }
    let hash = short_hash(text);
    let room = most.saturating_sub(hash.len() + 1);
    let head = wanted.get(..room.min(wanted.len())).unwrap_or_default().trim_matches('-');
    if head.is_empty() { format!("x-{hash}") } else { format!("{head}-{hash}") }
}

/// A label's value for any text, as [`dns_label`]; upper case, `_` and `.` stay.
pub(super) fn label_value(text: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = text.len() <= LABEL
        && text.chars().all(inner)
        && ends(text.chars().next())
        && ends(text.chars().last());
    if text.is_empty() || valid { text.to_owned() } else { dns_label(text, LABEL) }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// Ids have one underscore and no hyphen, so this is one name per id.
fn of_id(id: &str) -> String {
    id.replace('_', "-")
}

/// The namespace of an environment. The prefix is checked with the settings.
pub(super) fn namespace(prefix: &str, environment: &EnvironmentId) -> String {
    format!("{prefix}{}", of_id(environment.as_str()))
}

/// What owns everything of a deployment, and its variables.
pub(super) fn root(id: &DeploymentId) -> String {
    of_id(id.as_str())
}

/// The workload of a process. An id has a fixed length, so the hyphen between
/// the two is always the same one.
pub(super) fn workload(id: &DeploymentId, process: &str) -> String {
    let id = of_id(id.as_str());
    let room = WORKLOAD - id.len() - 1;
    format!("{id}-{}", dns_label(process, room))
}

/// A task's job and what owns it.
pub(super) fn task(id: &DeploymentId, task: &str) -> String {
    let id = of_id(id.as_str());
    let room = TASK - id.len() - "-task-".len();
    format!("{id}-task-{}", dns_label(task, room))
}

/// A service's name must not begin with a digit before Kubernetes 1.34.
pub(super) fn service(name: &str) -> String {
    let label = dns_label(name, LABEL - 2);
    if label.starts_with(|c: char| c.is_ascii_digit()) { format!("s-{label}") } else { label }
}

/// Of everything that an installation has made.
pub(super) fn installation_labels(owner: &str) -> Map {
    Map::from([
        (keys::MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (keys::INSTALLATION.to_owned(), label_value(owner)),
    ])
}

/// Selects everything that an installation has made.
pub(super) fn installation_selector(owner: &str) -> String {
    format!("{}={}", keys::INSTALLATION, label_value(owner))
}

/// Selects what an installation has made for a deployment.
pub(super) fn deployment_selector(owner: &str, id: &DeploymentId) -> String {
    format!("{},{}={id}", installation_selector(owner), keys::DEPLOYMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_label(text: &str, most: usize) -> bool {
        !text.is_empty()
            && text.len() <= most
            && text.chars().all(is_plain)
            && !text.starts_with('-')
            && !text.ends_with('-')
    }

    #[test]
    fn names_are_valid_and_different_for_any_text() {
        let texts = [
            "web",
            "Web",
            "wEb",
            "web-",
            "-web",
            "we_b",
            "we-b",
            "",
            "-",
            "ß",
            "日本",
            "a.b",
            "a/b",
            "one-very-long-name-of-a-process-that-does-not-fit-into-anything",
            "one-very-long-name-of-a-process-that-does-not-fit-into-anything-else",
        ];
        let id = DeploymentId::generate();
        let mut seen = std::collections::HashSet::new();
        for text in texts {
            for (name, most) in [
                (workload(&id, text), 46),
                (task(&id, text), 57),
                (service(text), 63),
                (dns_label(text, 12), 12),
            ] {
                assert!(is_label(&name, most), "`{text}` became `{name}`");
                assert!(seen.insert((most, name.clone())), "`{name}` stands for two");
            }
        }
        assert_eq!(workload(&id, "web"), format!("{}-web", id.as_str().replace('_', "-")));
        assert_eq!(service("2048"), "s-2048");
    }

    #[test]
    fn values_of_labels_are_kept_where_they_are_valid() {
        assert_eq!(label_value("prj_Ab.c"), "prj_Ab.c");
        assert_eq!(label_value(""), "");
        for text in ["_x", "x ", "a/b", &"x".repeat(64)] {
            assert!(is_label(&label_value(text), 63), "{text}");
        }
    }
}
