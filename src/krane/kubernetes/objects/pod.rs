//! What a pod of ours looks like.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource, EnvVar,
        Lifecycle, LifecycleHandler, LocalObjectReference, PodOS, PodReadinessGate,
        PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
        SecretEnvSource, SecurityContext, SleepAction, TopologySpreadConstraint, Volume,
        VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use sha2::{Digest, Sha256};

use super::{
    PULL_SECRET, Style, Wanted, mebibytes, millicores,
    probes::{Question, liveness, readiness, startup},
};
use crate::krane::{
    backend::{Check, STAYS_UP, TaskSpec},
    kubernetes::{
        names::{self, Map, keys},
        settings::PodSecurity,
    },
};

/// The only container of a pod.
pub(crate) const CONTAINER: &str = "app";
/// The condition that krane sets once an instance has answered.
pub(crate) const ANSWERS: &str = "launchway.dev/answers";
/// From the word that a pod goes until it is told: gateways route elsewhere.
const DRAIN: Duration = Duration::from_secs(2);
/// Seconds that a task has to end once it is told to.
const TASK_GRACE: i64 = 5;
/// What images commonly need to become another user at start and to listen
/// below 1024; as on Docker.
const CAPABILITIES: [&str; 6] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID", "NET_BIND_SERVICE"];

/// Labels of a process's pods, which select them.
pub(super) fn selector(style: &Style, wanted: Wanted<'_>) -> Map {
    let mut labels = names::installation_labels(&style.owner);
    labels.insert(keys::DEPLOYMENT.to_owned(), wanted.spec.deployment_id.to_string());
    labels.insert(keys::PROCESS.to_owned(), wanted.process.name.to_string());
    labels
}

fn labels(style: &Style, wanted: Wanted<'_>) -> Map {
    let (spec, mut labels) = (wanted.spec, selector(style, wanted));
    labels.insert(keys::ENVIRONMENT.to_owned(), spec.namespace.to_string());
    labels.insert(keys::PROJECT.to_owned(), names::label_value(&spec.project_id));
    if let Some(name) = super::service_name(wanted) {
        labels.insert(keys::SERVICE.to_owned(), name);
    }
    labels
}

/// What krane must know of a pod that it has not made itself.
fn annotations(style: &Style, wanted: Wanted<'_>) -> Map {
    let mut notes = Map::from([(keys::SPEC.to_owned(), digest(style, wanted))]);
    let mut note = |key: &str, value: String| notes.insert(key.to_owned(), value);
    if let Some(port) = wanted.port {
        note(keys::PORT, port.to_string());
    }
    let health = &wanted.process.health;
    if health.check == Check::StaysUp {
        note(keys::STAYS_UP, STAYS_UP.as_millis().to_string());
    }
    if let Some(period) = health.start_period {
        note(keys::START_PERIOD, period.as_millis().to_string());
    }
    if let Some(question) = Question::of(style, health, wanted.port) {
        note(keys::CHECK, serde_json::to_string(&question).unwrap_or_default());
        note(keys::CHECK_TIMEOUT, health.timeout.as_millis().to_string());
        note(keys::CHECK_INTERVAL, health.interval.as_millis().to_string());
    }
    notes
}

/// Hash of what is not in the pod itself: a pod with other variables is another.
fn digest(style: &Style, wanted: Wanted<'_>) -> String {
    let mut hash = Sha256::new();
    let spec = wanted.spec;
    let about = format!(
        "{:?}/{:?}/{:?}{:?}",
        wanted.process, wanted.port, spec.stop_grace, spec.stop_signal
    );
    let style = format!(
        "{:?}{}{:?}{}",
        style.security, style.read_only_root, style.run_as_user, style.krane_probes
    );
    // Their number is not the pod's.
    let about = about.replace(&format!("replicas: {}", wanted.process.replicas), "");
    let texts = [&spec.image, &spec.service_name, &about, &style];
    let env = spec.env.iter().flat_map(|(name, value)| [name, value]);
    for text in texts.into_iter().chain(env) {
        hash.update(text.len().to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The pods of a process.
pub(super) fn template(style: &Style, wanted: Wanted<'_>) -> PodTemplateSpec {
    let (spec, process) = (wanted.spec, wanted.process);
    let gated = Question::of(style, &process.health, wanted.port).is_some();
    let signal = spec.stop_signal.clone();
    let drain = if wanted.port.is_some() { DRAIN } else { Duration::ZERO };
    let port = wanted.port.filter(|_| !spec.env.contains_key("PORT"));
    let container = Container {
        args: some(&process.command),
        env: port.map(|port| vec![variable("PORT", port)]),
        ports: wanted.port.map(|port| {
            vec![ContainerPort {
                container_port: i32::from(port),
                name: Some("http".to_owned()),
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]
        }),
        lifecycle: lifecycle(wanted.port.is_some(), signal.clone()),
        startup_probe: startup(style, &process.health, wanted.port),
        readiness_probe: readiness(style, &process.health, wanted.port),
        liveness_probe: liveness(&process.health, wanted.port),
        resources: resources(process.cpu_millicores, process.memory_mib),
        ..container(style, &spec.image, &names::root(&spec.deployment_id))
    };
    let grace = spec.stop_grace + drain;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(style, wanted)),
            annotations: Some(annotations(style, wanted)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            readiness_gates: gated
                .then(|| vec![PodReadinessGate { condition_type: ANSWERS.to_owned() }]),
            termination_grace_period_seconds: i64::try_from(grace.as_secs()).ok(),
            // Signals differ between systems, so the cluster wants to know.
            os: signal.map(|_| PodOS { name: "linux".to_owned() }),
            topology_spread_constraints: Some(spread(&selector(style, wanted))),
            ..pod(style, container)
        }),
    }
}

/// The pod of a task: it runs once, and stays to be asked.
pub(super) fn task_template(
    style: &Style,
    spec: &TaskSpec,
    secret: &str,
    labels: Map,
) -> PodTemplateSpec {
    let (command, args) = match spec.replace_entrypoint {
        true => (some(&spec.command), None),
        false => (None, some(&spec.command)),
    };
    let container = Container {
        command,
        args,
        resources: resources(spec.cpu_millicores, spec.memory_mib),
        ..container(style, &spec.image, secret)
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            // Of the pod, not of the job: a job deletes its pod with its output.
            active_deadline_seconds: i64::try_from(spec.time_limit.as_secs()).ok(),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(TASK_GRACE),
            ..pod(style, container)
        }),
    }
}

fn pod(style: &Style, container: Container) -> PodSpec {
    let restricted = style.security == PodSecurity::Restricted;
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        containers: vec![container],
        image_pull_secrets: style
            .pulls_with_login
            .then(|| vec![LocalObjectReference { name: PULL_SECRET.to_owned() }]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: restricted.then_some(true),
            run_as_user: style.run_as_user,
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        volumes: style.read_only_root.then(|| {
            vec![Volume {
                name: "tmp".to_owned(),
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..Volume::default()
            }]
        }),
        ..PodSpec::default()
    }
}

fn container(style: &Style, image: &str, secret: &str) -> Container {
    let add = match style.security {
        PodSecurity::Restricted => None,
        PodSecurity::Baseline => Some(CAPABILITIES.map(str::to_owned).to_vec()),
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        env_from: Some(vec![EnvFromSource {
            secret_ref: Some(SecretEnvSource {
                name: secret.to_owned(),
                ..SecretEnvSource::default()
            }),
            ..EnvFromSource::default()
        }]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".to_owned()]) }),
            read_only_root_filesystem: style.read_only_root.then_some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: style.read_only_root.then(|| {
            vec![VolumeMount {
                name: "tmp".to_owned(),
                mount_path: "/tmp".to_owned(),
                ..VolumeMount::default()
            }]
        }),
        ..Container::default()
    }
}

fn variable(name: &str, value: impl ToString) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_string()), value_from: None }
}

fn some(texts: &[String]) -> Option<Vec<String>> {
    (!texts.is_empty()).then(|| texts.to_vec())
}

/// What is asked for is what there is: no less on a full node, no more.
fn resources(cpu_millicores: u32, memory_mib: u64) -> Option<ResourceRequirements> {
    let cpu = (cpu_millicores > 0).then(|| ("cpu".to_owned(), millicores(cpu_millicores)));
    let memory = (memory_mib > 0).then(|| ("memory".to_owned(), mebibytes(memory_mib)));
    let limits: std::collections::BTreeMap<_, _> = cpu.into_iter().chain(memory).collect();
    (!limits.is_empty()).then(|| ResourceRequirements {
        requests: Some(limits.clone()),
        limits: Some(limits),
        ..ResourceRequirements::default()
    })
}

fn lifecycle(drains: bool, stop_signal: Option<String>) -> Option<Lifecycle> {
    let seconds = i64::try_from(DRAIN.as_secs()).unwrap_or_default();
    let sleep = Some(SleepAction { seconds });
    let pre_stop = drains.then(|| LifecycleHandler { sleep, ..LifecycleHandler::default() });
    (drains || stop_signal.is_some()).then(|| Lifecycle {
        pre_stop,
        stop_signal,
        ..Lifecycle::default()
    })
}

fn spread(selector: &Map) -> Vec<TopologySpreadConstraint> {
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        .map(|key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(selector.clone()),
                ..LabelSelector::default()
            }),
            ..TopologySpreadConstraint::default()
        })
        .to_vec()
}
