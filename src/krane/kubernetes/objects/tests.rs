//! The objects, as a cluster would see them.

use std::{collections::BTreeMap, time::Duration};

use launchway_workflows::{
    ids::{DeploymentId, EnvironmentId},
    secret::Secret as Hidden,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    krane::{
        backend::{Check, Health, Port, TaskSpec},
        kubernetes::{
            connect::Cluster,
            settings::{Admitted, KubernetesSettings, Patience, Probes, Quota},
        },
    },
    registry::{Login, Registry},
};

fn style() -> Style {
    Style {
        owner: "ins-1".to_owned(),
        security: PodSecurity::Restricted,
        read_only_root: false,
        run_as_user: None,
        pulls_with_login: false,
        krane_probes: true,
        autoscale: None,
    }
}

fn process(name: &str, check: Check, port: Port) -> ProcessSpec {
    ProcessSpec {
        name: name.parse().unwrap(),
        command: Vec::new(),
        replicas: 2,
        port,
        health: Health {
            check,
            timeout: Duration::from_millis(2000),
            interval: Duration::from_millis(500),
            start_period: None,
        },
        cpu_millicores: 250,
        memory_mib: 64,
    }
}

fn http() -> Check {
    Check::Http { path: "/up?x=1".to_owned(), port: None }
}

fn spec(processes: Vec<ProcessSpec>) -> InstanceSpec {
    InstanceSpec {
        deployment_id: DeploymentId::generate(),
        namespace: EnvironmentId::generate(),
        project_id: "prj_x".to_owned(),
        service_name: "shop".to_owned(),
        image: "registry.example.com/shop@sha256:ab".to_owned(),
        env: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
        stop_signal: None,
        stop_grace: Duration::from_secs(10),
        processes,
    }
}

fn owner() -> Root {
    Root { namespace: "n".to_owned(), name: "dep-x".to_owned(), uid: "uid-1".to_owned() }
}

fn shown(style: &Style, spec: &InstanceSpec, at: usize, port: Option<u16>) -> Value {
    let process = &spec.processes[at];
    serde_json::to_value(deployment(style, &owner(), Wanted { spec, process, port })).unwrap()
}

fn container(shown: &Value) -> &Value {
    &shown["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn pods_have_few_rights_and_the_limits_asked_for() {
    let spec = spec(vec![process("web", http(), Port::Given(8080))]);
    let shown = shown(&style(), &spec, 0, Some(8080));
    let pod = &shown["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = container(&shown);
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["resources"]["limits"], json!({"cpu": "250m", "memory": "64Mi"}));
    assert_eq!(container["env"], json!([{"name": "PORT", "value": "8080"}]));
    // No variable's value is where everybody who may see pods sees it.
    assert!(!shown.to_string().contains("blue"), "{shown}");
}

#[test]
fn a_root_that_cannot_be_written_leaves_a_place_for_temporary_files() {
    let spec = spec(vec![process("web", http(), Port::Given(8080))]);
    let style = Style { read_only_root: true, run_as_user: Some(1000), ..style() };
    let shown = shown(&style, &spec, 0, Some(8080));
    assert_eq!(container(&shown)["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container(&shown)["volumeMounts"][0]["mountPath"], "/tmp");
    assert_eq!(shown["spec"]["template"]["spec"]["securityContext"]["runAsUser"], 1000);
}

#[test]
fn krane_asks_over_http_where_it_can_and_the_kubelet_where_it_cannot() {
    let spec = spec(vec![process("web", http(), Port::Given(8080))]);
    let gated = shown(&style(), &spec, 0, Some(8080));
    let template = &gated["spec"]["template"];
    assert_eq!(template["spec"]["readinessGates"], json!([{"conditionType": ANSWERS}]));
    assert_eq!(
        template["metadata"]["annotations"]["launchway.dev/check"],
        r#"{"http":[8080,"/up?x=1"]}"#
    );
    assert_eq!(container(&gated)["readinessProbe"]["tcpSocket"]["port"], 8080);
    let kubelet = Style { krane_probes: false, ..style() };
    let plain = shown(&kubelet, &spec, 0, Some(8080));
    assert_eq!(plain["spec"]["template"]["spec"]["readinessGates"], Value::Null);
    assert_eq!(container(&plain)["readinessProbe"]["httpGet"]["path"], "/up?x=1");
    // An application whose database is away is not helped by being killed.
    assert_eq!(container(&plain)["livenessProbe"]["httpGet"], Value::Null);
    assert_eq!(container(&plain)["livenessProbe"]["tcpSocket"]["port"], 8080);
}

#[test]
fn checks_by_command_and_by_staying_up_are_the_kubelets_and_the_clocks() {
    let command = Check::Command(vec!["/bin/check".to_owned()]);
    let mut spec = spec(vec![
        process("worker", command, Port::None),
        process("idle", Check::StaysUp, Port::None),
    ]);
    spec.processes[0].health.start_period = Some(Duration::from_millis(2500));
    let worker = shown(&style(), &spec, 0, None);
    let container_of = container(&worker);
    assert_eq!(container_of["readinessProbe"]["exec"]["command"], json!(["/bin/check"]));
    assert_eq!(container_of["startupProbe"]["failureThreshold"], 4);
    assert_eq!(container_of["livenessProbe"], Value::Null);
    assert_eq!(container_of["env"], Value::Null, "no port, no PORT");
    let idle = shown(&style(), &spec, 1, None);
    assert_eq!(idle["spec"]["minReadySeconds"], 2);
    assert_eq!(container(&idle)["readinessProbe"], Value::Null);
}

#[test]
fn an_autoscaler_owns_the_number_of_instances() {
    let spec = spec(vec![process("web", http(), Port::Given(8080))]);
    let process = &spec.processes[0];
    let wanted = Wanted { spec: &spec, process, port: Some(8080) };
    assert!(autoscaler(&style(), &owner(), wanted).is_none());
    assert_eq!(shown(&style(), &spec, 0, Some(8080))["spec"]["replicas"], 2);
    let autoscale = Some(Autoscale { max_replicas: 5, cpu_percent: 70 });
    let style = Style { autoscale, ..style() };
    assert_eq!(shown(&style, &spec, 0, Some(8080))["spec"]["replicas"], Value::Null);
    let scaler = serde_json::to_value(autoscaler(&style, &owner(), wanted).unwrap()).unwrap();
    assert_eq!(scaler["spec"]["minReplicas"], 2);
    assert_eq!(scaler["spec"]["maxReplicas"], 5);
    assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], scaler["metadata"]["name"]);
}

#[test]
fn everything_of_a_deployment_has_one_owner() {
    let spec = spec(vec![process("web", http(), Port::Given(8080))]);
    let wanted = Wanted { spec: &spec, process: &spec.processes[0], port: Some(8080) };
    let labels = BTreeMap::new();
    let service = service(&style(), "n", wanted, vec![owner().reference()]).unwrap();
    for object in [
        shown(&style(), &spec, 0, Some(8080)),
        serde_json::to_value(variables(&owner(), &labels, &spec.env)).unwrap(),
        serde_json::to_value(disruption_budget(&style(), &owner(), wanted)).unwrap(),
        serde_json::to_value(&service).unwrap(),
    ] {
        let owners = &object["metadata"]["ownerReferences"];
        assert_eq!(owners[0]["uid"], "uid-1", "{object}");
        assert_eq!(owners[0]["blockOwnerDeletion"], true);
    }
    // By name: a project's next deployment may listen on another port.
    let service = serde_json::to_value(&service).unwrap();
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
}

/// A changed variable makes another pod, a changed number of them does not.
#[test]
fn pods_are_replaced_for_what_is_in_them_alone() {
    let one = spec(vec![process("web", http(), Port::Given(8080))]);
    let hash = |spec: &InstanceSpec| {
        let shown = shown(&style(), spec, 0, Some(8080));
        shown["spec"]["template"]["metadata"]["annotations"]["launchway.dev/spec"].clone()
    };
    let mut more = one.clone();
    more.processes[0].replicas = 5;
    assert_eq!(hash(&one), hash(&more));
    let mut other = one.clone();
    other.env.insert("COLOUR".to_owned(), "red".to_owned());
    assert_ne!(hash(&one), hash(&other));
}

#[test]
fn a_task_runs_once_or_not_at_all() {
    let task = TaskSpec {
        deployment_id: DeploymentId::generate(),
        namespace: EnvironmentId::generate(),
        project_id: "prj_x".to_owned(),
        task_id: "release-1".parse().unwrap(),
        image: "shop".to_owned(),
        command: vec!["migrate".to_owned()],
        replace_entrypoint: true,
        env: BTreeMap::new(),
        cpu_millicores: 0,
        memory_mib: 0,
        time_limit: Duration::from_secs(600),
        join_only: false,
    };
    let shown = serde_json::to_value(job(&style(), &owner(), &task)).unwrap();
    assert_eq!(shown["spec"]["backoffLimit"], 0);
    assert_eq!(shown["spec"]["podReplacementPolicy"], "Failed");
    assert_eq!(shown["spec"]["ttlSecondsAfterFinished"], Value::Null, "kept until it is deleted");
    let pod = &shown["spec"]["template"]["spec"];
    assert_eq!(
        (&pod["restartPolicy"], &pod["activeDeadlineSeconds"]),
        (&json!("Never"), &json!(600))
    );
    assert_eq!(pod["containers"][0]["command"], json!(["migrate"]));
}

#[test]
fn an_environment_lets_in_the_gateway_and_its_own_alone() {
    let settings = KubernetesSettings {
        owner: "ins-1".to_owned(),
        cluster: Cluster::default(),
        namespace_prefix: "launchway-".to_owned(),
        registry: Some(Registry {
            host: "registry.example.com".to_owned(),
            prefix: String::new(),
            plain_http: false,
            login: Some(Login {
                host: "registry.example.com".to_owned(),
                username: "u".to_owned(),
                password: Hidden::new("p"),
            }),
            cache: false,
        }),
        gateway: Admitted {
            namespace: "launchway".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "launchway".to_owned())]),
            cidrs: vec!["10.1.2.3/32".to_owned()],
        },
        quota: Quota { pods: 10, default_memory_mib: 128, ..Quota::default() },
        security: PodSecurity::Restricted,
        read_only_root: false,
        run_as_user: None,
        autoscale: None,
        probes: Probes::Krane,
        patience: Patience::default(),
    };
    let made = furniture(&settings, &EnvironmentId::generate());
    let policy = serde_json::to_value(&made.policy).unwrap();
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    let from = policy["spec"]["ingress"][0]["from"].as_array().unwrap();
    assert_eq!(from.len(), 3, "{policy}");
    let labels = &from[1]["namespaceSelector"]["matchLabels"];
    assert_eq!(labels["kubernetes.io/metadata.name"], "launchway");
    assert_eq!(from[2]["ipBlock"]["cidr"], "10.1.2.3/32");
    let quota = serde_json::to_value(made.quota.unwrap()).unwrap();
    assert_eq!(quota["spec"]["hard"], json!({"pods": "10"}));
    let limits = serde_json::to_value(made.limits.unwrap()).unwrap();
    assert_eq!(limits["spec"]["limits"][0]["default"], json!({"memory": "128Mi"}));
    let namespace = serde_json::to_value(made.namespace).unwrap();
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    let secret = made.pull_secret.unwrap();
    let config = String::from_utf8(secret.data.unwrap()[".dockerconfigjson"].0.clone()).unwrap();
    assert!(config.contains("dTpw"), "user and password in base 64: {config}");
}
