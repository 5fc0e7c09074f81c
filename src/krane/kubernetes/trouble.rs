//! What keeps a pod from running, and whether waiting can help.

use k8s_openapi::api::core::v1::Pod;

use super::report::{condition, container, phase};

/// What keeps a pod from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No node has room for it, or none that it may run on.
    Unschedulable { message: String, since: i64 },
    /// Its image cannot be pulled; `hopeless`: it is not there, or not for us.
    Image { message: String, hopeless: bool, since: i64 },
    /// Its settings cannot be used on any node.
    Refused(String),
    /// Its node has ended it; another takes its place.
    Evicted(String),
}

impl Trouble {
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Unschedulable { message, .. }
            | Self::Image { message, .. }
            | Self::Refused(message)
            | Self::Evicted(message) => message,
        }
    }
}

/// What keeps it from running, if something does.
pub(super) fn of(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    if phase(pod) == "Failed" {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        let message = status.message.as_deref().unwrap_or("its node has ended it");
        return Some(Trouble::Evicted(format!("{reason}: {message}")));
    }
    let scheduled = condition(pod, "PodScheduled");
    let since = scheduled
        .and_then(|scheduled| scheduled.last_transition_time.as_ref())
        .map_or(0, |time| time.0.as_millisecond());
    if let Some(scheduled) = scheduled.filter(|scheduled| scheduled.status == "False") {
        let message = scheduled.message.clone().unwrap_or_default();
        return Some(Trouble::Unschedulable {
            message: format!("no node for it: {message}"),
            since,
        });
    }
    let waiting = container(pod)?.state.as_ref()?.waiting.as_ref()?;
    let (reason, message) = (waiting.reason.as_deref()?, waiting.message.as_deref());
    let text = format!("{reason}: {}", message.unwrap_or("no further word"));
    match reason {
        "InvalidImageName" | "ErrImageNeverPull" => {
            Some(Trouble::Image { message: text, hopeless: true, since })
        }
        "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" => {
            Some(Trouble::Image { hopeless: is_absent(&text), message: text, since })
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            // The secret of its variables may be seen a moment later than it.
            let passes = text.contains("not found") || text.contains("cache");
            (!passes).then_some(Trouble::Refused(remedied(text)))
        }
        _ => None,
    }
}

/// A registry's answer that stays the same; what else a pull fails of passes.
fn is_absent(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["not found", "manifest unknown", "does not exist", "unauthorized", "denied", "forbidden"]
        .iter()
        .any(|words| message.contains(words))
}

fn remedied(text: String) -> String {
    if !text.contains("runAsNonRoot") {
        return text;
    }
    format!(
        "{text}; name a user other than root in the Dockerfile (USER 1000), or set kubernetes.run_as_user, or kubernetes.pod_security = \"baseline\""
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{of as trouble, *};
    use crate::krane::kubernetes::report;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "x"}, "status": status})).unwrap()
    }

    fn waiting(reason: &str, message: &str) -> Pod {
        pod(json!({"phase": "Pending", "containerStatuses": [{"name": "app", "ready": false,
            "restartCount": 0, "image": "", "imageID": "",
            "state": {"waiting": {"reason": reason, "message": message}}}]}))
    }

    #[test]
    fn a_pull_that_cannot_help_to_wait_for_is_told_from_one_that_can() {
        for (reason, message, hopeless) in [
            ("ErrImagePull", "manifest unknown", true),
            ("ImagePullBackOff", "failed to pull: 401 Unauthorized", true),
            ("ErrImagePull", "dial tcp: i/o timeout", false),
            ("InvalidImageName", "couldn't parse image name", true),
        ] {
            let found = trouble(&waiting(reason, message));
            let Some(Trouble::Image { hopeless: is, .. }) = found else { panic!("{found:?}") };
            assert_eq!(is, hopeless, "{reason} {message}");
        }
        assert_eq!(trouble(&waiting("ContainerCreating", "")), None);
        let root = trouble(&waiting(
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root",
        ));
        let Some(Trouble::Refused(text)) = root else { panic!("{root:?}") };
        assert!(text.contains("USER 1000"), "{text}");
    }

    #[test]
    fn what_no_node_takes_and_what_a_node_has_ended_says_why() {
        let nowhere = pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
            "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
            "lastTransitionTime": "1970-01-01T00:00:01Z"}]}));
        let Some(Trouble::Unschedulable { since: 1000, message }) = trouble(&nowhere) else {
            panic!("{:?}", trouble(&nowhere));
        };
        assert!(message.contains("0/3 nodes"), "{message}");
        let evicted = pod(json!({"phase": "Failed", "reason": "Evicted",
            "message": "The node was low on resource: memory."}));
        let shown = report::instance(&evicted, 0, &report::Known::default(), 0);
        assert!(shown.message.contains("low on resource"), "{shown:?}");
        assert_eq!(shown.exit_code, None, "another takes its place");
    }
}
