//! What keeps a pod from running, and how long waiting may help.

use std::time::Duration;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use launchway_proto::krane::v1::NotReadyReason;

use super::{
    call::is_quota,
    report::{condition, container, phase},
    settings::Patience,
};
use crate::krane::backend::BackendError;

/// What keeps a pod from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: NotReadyReason,
    pub(super) message: String,
    lasting: Lasting,
}

/// Whether waiting can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    ForGood,
    ForNow,
    /// Until it has lasted too long; milliseconds since the epoch.
    Since(i64),
}

impl Trouble {
    /// When waiting has not helped, in milliseconds since the epoch; `None`: it
    /// may always.
    pub(super) fn hopeless_at(&self, patience: &Patience) -> Option<i64> {
        let limit = match self.reason {
            NotReadyReason::ImagePull => patience.pull,
            _ => patience.schedule,
        };
        match self.lasting {
            Lasting::ForGood => Some(i64::MIN),
            Lasting::ForNow => None,
            Lasting::Since(at) => Some(at + i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    pub(super) fn is_hopeless(&self, patience: &Patience, now: i64) -> bool {
        self.hopeless_at(patience).is_some_and(|at| at <= now)
    }

    /// How long it may still pass; `Err`: not at all.
    pub(super) fn wait(
        self,
        image: &str,
        patience: &Patience,
        now: i64,
    ) -> Result<Duration, BackendError> {
        if self.is_hopeless(patience, now) {
            return Err(self.error(image));
        }
        let left = self.hopeless_at(patience).and_then(|at| u64::try_from(at - now).ok());
        Ok(left.map_or(Duration::MAX, Duration::from_millis))
    }

    fn error(self, image: &str) -> BackendError {
        let Self { reason, message, lasting } = self;
        match (reason, lasting) {
            (NotReadyReason::ImagePull, Lasting::ForGood) => {
                BackendError::ImageUnavailable { image: image.to_owned(), reason: message }
            }
            // A registry that is away comes back.
            (NotReadyReason::ImagePull, _) => {
                BackendError::Unavailable(format!("image `{image}` cannot be pulled: {message}"))
            }
            _ => BackendError::NotReady { reason, message },
        }
    }
}

/// What keeps it from running, if something does.
pub(super) fn of(pod: &Pod) -> Option<Trouble> {
    ended_by_its_node(pod).or_else(|| unscheduled(pod)).or_else(|| waiting(pod))
}

fn ended_by_its_node(pod: &Pod) -> Option<Trouble> {
    if phase(pod) != "Failed" {
        return None;
    }
    let status = pod.status.as_ref()?;
    let reason = status.reason.as_deref().unwrap_or("Failed");
    let message = status.message.as_deref().unwrap_or("its node has ended it");
    Some(Trouble {
        reason: NotReadyReason::Evicted,
        message: format!("{reason}: {message}"),
        lasting: Lasting::ForNow,
    })
}

fn unscheduled(pod: &Pod) -> Option<Trouble> {
    let scheduled = condition(pod, "PodScheduled").filter(|one| one.status == "False")?;
    let message = scheduled.message.as_deref().unwrap_or("no further word");
    Some(Trouble {
        reason: NotReadyReason::Unschedulable,
        message: format!("no node for it: {message}"),
        lasting: Lasting::Since(millis(scheduled.last_transition_time.as_ref())),
    })
}

/// What its container waits for.
fn waiting(pod: &Pod) -> Option<Trouble> {
    let waiting = container(pod)?.state.as_ref()?.waiting.as_ref()?;
    let (reason, message) = (waiting.reason.as_deref()?, waiting.message.as_deref());
    let message = format!("{reason}: {}", message.unwrap_or("no further word"));
    let scheduled = condition(pod, "PodScheduled");
    let since = millis(scheduled.and_then(|one| one.last_transition_time.as_ref()));
    let (reason, lasting) = match reason {
        "InvalidImageName" | "ErrImageNeverPull" => (NotReadyReason::ImagePull, Lasting::ForGood),
        "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" => {
            let absent = is_absent(&message, image_of(pod));
            let lasting = if absent { Lasting::ForGood } else { Lasting::Since(since) };
            (NotReadyReason::ImagePull, lasting)
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            let lasting = if passes(&message) { Lasting::Since(since) } else { Lasting::ForGood };
            (NotReadyReason::Rejected, lasting)
        }
        _ => return None,
    };
    Some(Trouble { reason, message: remedied(message), lasting })
}

/// Why the cluster makes no pods for it: a quota, an admission.
pub(super) fn of_workload(workload: &Deployment) -> Option<Trouble> {
    let conditions = workload.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failure.message.as_deref().unwrap_or("no further word");
    let (reason, remedy) = match is_quota(message) {
        true => (
            NotReadyReason::QuotaExceeded,
            "; the environment's limits are kubernetes.max_*, and may have been changed in the cluster",
        ),
        false => (NotReadyReason::Rejected, ""),
    };
    let lasting = match is_refused(message) {
        true => Lasting::ForGood,
        false => Lasting::Since(millis(failure.last_transition_time.as_ref())),
    };
    let message = format!("the cluster makes no instance: {message}{remedy}");
    Some(Trouble { reason, message, lasting })
}

/// Other words are those of an admission that does not answer, or that knows nothing
/// yet of a namespace that was just made.
fn is_refused(message: &str) -> bool {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    has(&["forbidden", "denied", "invalid"])
        && !has(&["looking up service account", "status unknown for quota"])
}

fn millis(time: Option<&Time>) -> i64 {
    time.map_or(0, |time| time.0.as_millisecond())
}

fn image_of(pod: &Pod) -> &str {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    container.and_then(|container| container.image.as_deref()).unwrap_or_default()
}

/// The secret of its variables may be seen a moment later than it, and a node may
/// be busy.
fn passes(message: &str) -> bool {
    ["not found", "cache", "deadline exceeded", "timed out", "is reserved for"]
        .iter()
        .any(|words| message.contains(words))
}

/// A registry's answer that stays the same; what else a pull fails of passes.
fn is_absent(message: &str, image: &str) -> bool {
    // Its name is no answer.
    let message = message.replace(image, "").to_ascii_lowercase();
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
            let found = trouble(&waiting(reason, message)).unwrap();
            assert_eq!(found.reason, NotReadyReason::ImagePull);
            let is = found.lasting == Lasting::ForGood;
            assert_eq!(is, hopeless, "{reason} {message}");
        }
        let mut named_so = waiting("ErrImagePull", "denied@sha256:ab: i/o timeout");
        named_so.spec = serde_json::from_value(json!({"containers": [
            {"name": "app", "image": "denied@sha256:ab"}]}))
        .unwrap();
        assert!(trouble(&named_so).unwrap().lasting != Lasting::ForGood, "its name is no answer");
        assert_eq!(trouble(&waiting("ContainerCreating", "")), None);
        let root = trouble(&waiting(
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root",
        ));
        let root = root.unwrap();
        assert_eq!(root.reason, NotReadyReason::Rejected);
        assert!(root.message.contains("USER 1000"), "{root:?}");
    }

    #[test]
    fn what_no_node_takes_and_what_a_node_has_ended_says_why() {
        let nowhere = pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
            "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
            "lastTransitionTime": "1970-01-01T00:00:01Z"}]}));
        let patience = Patience { schedule: Duration::from_secs(60), pull: Duration::ZERO };
        let found = trouble(&nowhere).unwrap();
        assert_eq!(found.reason, NotReadyReason::Unschedulable);
        assert!(found.message.contains("0/3 nodes"), "{found:?}");
        assert!(!found.is_hopeless(&patience, 60_999), "an autoscaler may add one");
        assert!(found.is_hopeless(&patience, 61_000));
        let left = found.wait("image", &patience, 60_000).unwrap();
        assert_eq!(left, Duration::from_secs(1));
        let evicted = pod(json!({"phase": "Failed", "reason": "Evicted",
            "message": "The node was low on resource: memory."}));
        let shown = report::instance(&evicted, 0, &report::Known::default(), &patience, 0);
        assert!(shown.message.contains("low on resource"), "{shown:?}");
        assert_eq!((shown.exit_code, shown.permanent), (None, false), "another takes its place");
        assert_eq!(shown.reason(), NotReadyReason::Evicted);
    }

    #[test]
    fn an_admission_that_refuses_is_told_from_one_that_does_not_answer() {
        for (message, reason, lasting) in [
            (
                "pods \"x\" is forbidden: exceeded quota: launchway",
                NotReadyReason::QuotaExceeded,
                Lasting::ForGood,
            ),
            (
                "admission webhook \"x\" denied the request: no",
                NotReadyReason::Rejected,
                Lasting::ForGood,
            ),
            (
                "pods \"x\" is forbidden: error looking up service account env/default: serviceaccount \"default\" not found",
                NotReadyReason::Rejected,
                Lasting::Since(1000),
            ),
            (
                "failed calling webhook \"x\": context deadline exceeded",
                NotReadyReason::Rejected,
                Lasting::Since(1000),
            ),
        ] {
            let workload: Deployment = serde_json::from_value(json!({"status": {"conditions": [
                {"type": "ReplicaFailure", "status": "True", "message": message,
                 "lastTransitionTime": "1970-01-01T00:00:01Z"}]}}))
            .unwrap();
            let found = of_workload(&workload).unwrap();
            assert_eq!((found.reason, found.lasting), (reason, lasting), "{found:?}");
        }
    }
}
