//! What a pod says of itself, as krane reports it. Nothing here asks a server.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use launchway_proto::krane::v1::{DeploymentStatus, Instance, NotReadyReason};

use super::{
    names::keys,
    objects::{ANSWERS, CONTAINER},
    quantity,
    settings::Patience,
    trouble,
};

/// What krane has found out about a pod beside what the cluster says.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// It has been ready, so that an end is a restart and no failure to start.
    pub(super) was_ready: bool,
    /// How its first life ended before it was ready. Kubernetes starts it again
    /// and again; to a deployment that waits the first end is the end.
    pub(super) end: Option<Ended>,
    /// The last probe of ours, and how many there were.
    pub(super) message: String,
    pub(super) probes: u32,
}

/// An end, as it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) reason: NotReadyReason,
    pub(super) message: String,
    pub(super) tail: Vec<String>,
}

/// The end that the cluster knows of, told with its last lines. One that was not
/// ready within its start period is ended for that.
pub(super) fn ended(pod: &Pod, end: &ContainerStateTerminated, tail: Vec<String>) -> Ended {
    let millis = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map(|time| time.0.as_millisecond())
    };
    let period = start_period(pod).zip(millis(&end.started_at)).zip(millis(&end.finished_at));
    let killed = matches!(end.exit_code, 137 | 143);
    let (reason, message) = match period {
        _ if is_out_of_memory(end) => (NotReadyReason::OutOfMemory, "out of memory".to_owned()),
        // The cluster's times are whole seconds.
        Some(((period, begun), finished)) if killed && finished - begun + 1000 >= period => {
            (NotReadyReason::ProbeFailing, not_in_time(period))
        }
        _ => (NotReadyReason::Exited, end.message.clone().unwrap_or_default()),
    };
    Ended { exit_code: end.exit_code, reason, message, tail }
}

pub(super) fn is_out_of_memory(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some("OOMKilled")
}

pub(super) fn start_period(pod: &Pod) -> Option<i64> {
    pod.annotations().get(keys::START_PERIOD)?.parse().ok()
}

pub(super) fn not_in_time(period: i64) -> String {
    format!("it was not ready within {period} ms of its start")
}

/// The application's container, once the kubelet knows of it.
pub(super) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|status| status.name == CONTAINER)
}

/// How the container's last life ended.
pub(super) fn last_end(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let status = container(pod)?;
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| status.last_state.as_ref()?.terminated.as_ref())
}

pub(super) fn runs(pod: &Pod) -> bool {
    container(pod)
        .and_then(|status| status.state.as_ref())
        .is_some_and(|state| state.running.is_some())
}

pub(super) fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Its containers have ended for good: it was evicted, or its node is gone.
pub(super) fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Failed" | "Succeeded")
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn condition<'a>(
    pod: &'a Pod,
    kind: &str,
) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn is_true(pod: &Pod, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| condition.status == "True")
}

pub(super) fn restarts(pod: &Pod) -> i32 {
    container(pod).map_or(0, |status| status.restart_count)
}

/// What krane writes beside its condition: which life of the container answered.
pub(super) fn life(pod: &Pod) -> String {
    format!("restart {}", restarts(pod))
}

fn gate(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    gates.into_iter().flatten().any(|gate| gate.condition_type == ANSWERS)
}

/// Nobody hears what it finds, only whether it is content.
fn is_asked_by_kubelet(pod: &Pod) -> bool {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    !gate(pod) && container.is_some_and(|container| container.readiness_probe.is_some())
}

/// Whether krane has still to find out if this life of the container answers.
pub(super) fn awaits_answer(pod: &Pod) -> bool {
    let answered = condition(pod, ANSWERS).is_some_and(|condition| {
        condition.status == "True" && condition.message.as_deref() == Some(&life(pod))
    });
    gate(pod) && !answered
}

/// Requests may be sent to it. `Err`: not before this long.
pub(super) fn readiness(pod: &Pod, now: i64) -> Result<bool, Duration> {
    if is_going(pod) || !is_true(pod, "Ready") || awaits_answer(pod) {
        return Ok(false);
    }
    let stays_up = pod.annotations().get(keys::STAYS_UP).and_then(|text| text.parse::<i64>().ok());
    let Some(stays_up) = stays_up else { return Ok(true) };
    let due = started_at(pod) + stays_up;
    match u64::try_from(due - now) {
        Ok(rest) if rest > 0 => Err(Duration::from_millis(rest)),
        _ => Ok(true),
    }
}

/// When its report changes although nothing of it does, in milliseconds since the
/// epoch.
pub(super) fn due(pod: &Pod, patience: &Patience, now: i64) -> Option<i64> {
    match readiness(pod, now) {
        Err(rest) => Some(now + i64::try_from(rest.as_millis()).unwrap_or(i64::MAX)),
        Ok(true) => None,
        Ok(false) => trouble::of(pod)?.hopeless_at(patience),
    }
}

fn started_at(pod: &Pod) -> i64 {
    let state = container(pod).and_then(|status| status.state.as_ref());
    let running = state.and_then(|state| state.running.as_ref());
    running
        .and_then(|running| running.started_at.as_ref())
        .map_or(0, |time| time.0.as_millisecond())
}

/// The report of one pod.
pub(super) fn instance(
    pod: &Pod,
    replica: u32,
    known: &Known,
    patience: &Patience,
    now: i64,
) -> Instance {
    let ready = readiness(pod, now) == Ok(true);
    let (cpu_millicores, memory_size_mib) = limits(pod);
    let process = pod.labels().get(keys::PROCESS).cloned().unwrap_or_default();
    let mut instance = Instance {
        id: pod.name_any(),
        address: address(pod).unwrap_or_default(),
        ready,
        restarts: u32::try_from(restarts(pod)).unwrap_or_default(),
        probe_attempts: known.probes,
        replica,
        process,
        cpu_millicores,
        memory_size_mib,
        started_at: started_at(pod),
        routed: pod.annotations().contains_key(keys::PORT),
        ..Instance::default()
    };
    let status = match (is_going(pod) || is_over(pod), runs(pod)) {
        (true, _) => DeploymentStatus::Terminating,
        (false, true) => DeploymentStatus::Running,
        (false, false) => DeploymentStatus::Pending,
    };
    instance.status = status.into();
    if !ready && !is_going(pod) {
        explain(&mut instance, pod, known, patience, now);
    }
    instance
}

/// Why it is not ready.
fn explain(instance: &mut Instance, pod: &Pod, known: &Known, patience: &Patience, now: i64) {
    if let (Some(end), false) = (&known.end, known.was_ready) {
        instance.set_status(DeploymentStatus::Terminating);
        instance.set_reason(end.reason);
        instance.permanent = true;
        instance.exit_code = Some(end.exit_code);
        instance.oom_killed = end.reason == NotReadyReason::OutOfMemory;
        instance.message.clone_from(&end.message);
        instance.log_tail.clone_from(&end.tail);
    } else if let (Some(end), true) = (last_end(pod), known.was_ready) {
        instance.oom_killed = is_out_of_memory(end);
        instance.set_reason(match instance.oom_killed {
            true => NotReadyReason::OutOfMemory,
            false => NotReadyReason::CrashLoop,
        });
        instance.message = format!("ended with code {}, and is started again", end.exit_code);
    } else if let Some(trouble) = trouble::of(pod) {
        instance.set_reason(trouble.reason);
        instance.permanent = trouble.is_hopeless(patience, now);
        instance.message = trouble.message;
    } else if !known.message.is_empty() {
        instance.set_reason(NotReadyReason::ProbeFailing);
        instance.message.clone_from(&known.message);
    } else if runs(pod) && is_asked_by_kubelet(pod) {
        instance.set_reason(NotReadyReason::ProbeFailing);
        instance.message = "the kubelet's probe has not passed".to_owned();
    }
}

fn address(pod: &Pod) -> Option<String> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref().filter(|ip| !ip.is_empty())?;
    let port = pod.annotations().get(keys::PORT)?;
    let ip: std::net::IpAddr = ip.parse().ok()?;
    Some(std::net::SocketAddr::new(ip, port.parse().ok()?).to_string())
}

fn limits(pod: &Pod) -> (u32, u64) {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let limits = container
        .and_then(|container| container.resources.as_ref()?.limits.as_ref())
        .cloned()
        .unwrap_or_default();
    let of = |key: &str| limits.get(key).and_then(|text| quantity::thousandths(&text.0));
    let cpu = of("cpu").and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    let memory = of("memory").map_or(0, |value| value / 1000 / (1 << 20));
    (cpu, u64::try_from(memory).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PATIENCE: Patience = Patience { schedule: Duration::ZERO, pull: Duration::ZERO };

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "dep-x-web-1", "uid": "u",
                "labels": {"launchway.dev/process": "web"},
                "annotations": {"launchway.dev/port": "8080"}},
            "spec": {"containers": [{"name": "app", "resources":
                {"limits": {"cpu": "1", "memory": "64Mi"}}}]},
            "status": status,
        }))
        .unwrap()
    }

    fn after_an_end(state: Value, restarts: i32) -> Pod {
        pod(json!({"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{"name": "app",
            "ready": false, "restartCount": restarts, "image": "", "imageID": "",
            "state": state, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled",
            "containerID": "containerd://1"}}}]}))
    }

    #[test]
    fn a_ready_pod_has_an_address_and_its_limits() {
        let ready = pod(json!({"phase": "Running", "podIP": "10.0.0.7",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "",
            "imageID": "", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}));
        let shown = instance(&ready, 2, &Known::default(), &PATIENCE, 0);
        assert!(shown.ready && shown.routed, "{shown:?}");
        assert_eq!((shown.address.as_str(), shown.replica), ("10.0.0.7:8080", 2));
        assert_eq!((shown.cpu_millicores, shown.memory_size_mib), (1000, 64));
        let mut going = ready;
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(
            !instance(&going, 2, &Known::default(), &PATIENCE, 0).ready,
            "traffic to what goes"
        );
    }

    #[test]
    fn a_first_end_is_told_with_its_output_and_a_later_one_is_a_restart() {
        let looping = after_an_end(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 1);
        let silent = instance(&looping, 0, &Known::default(), &PATIENCE, 0);
        assert_eq!(silent.exit_code, None, "without its last lines");
        let end = ended(&looping, last_end(&looping).unwrap(), vec!["boom".to_owned()]);
        let told =
            instance(&looping, 0, &Known { end: Some(end), ..Known::default() }, &PATIENCE, 0);
        assert_eq!((told.exit_code, told.oom_killed, told.permanent), (Some(137), true, true));
        assert_eq!(told.reason(), NotReadyReason::OutOfMemory);
        assert_eq!(told.log_tail, ["boom"]);
        let known = Known { was_ready: true, ..Known::default() };
        let again = instance(&looping, 0, &known, &PATIENCE, 0);
        assert_eq!((again.exit_code, again.restarts, again.permanent), (None, 1, false));
    }
}
