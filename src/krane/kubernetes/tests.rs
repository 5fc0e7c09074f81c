//! The backend against an API server of the tests (tests/support/kubernetes).

#[path = "../../../tests/support/kubernetes/mod.rs"]
mod cluster;
mod failures;
mod losses;
mod manifests;
mod refusals;
mod scaling;
mod tasks;

use std::{collections::BTreeMap, time::Duration};

use cluster::{Behaviour, Id, TestCluster};
use launchway_proto::krane::v1::Instance;
use launchway_workflows::ids::{DeploymentId, EnvironmentId};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Admitted, Autoscale, Cluster, KubernetesBackend, KubernetesSettings, Patience, PodSecurity,
    Probes, Quota,
};
use crate::krane::backend::{
    Backend, BackendError, Check, Health, InstanceSpec, Port, ProcessSpec,
};

const PATIENCE: Duration = Duration::from_secs(30);
const IMAGE: &str = "registry.example.com/shop@sha256:ab";

fn settings(cluster: &TestCluster, owner: &str) -> KubernetesSettings {
    KubernetesSettings {
        owner: owner.to_owned(),
        cluster: Cluster { kubeconfig: Some(cluster.kubeconfig()), context: None },
        namespace_prefix: "launchway-".to_owned(),
        registry: None,
        gateway: Admitted { namespace: "launchway".to_owned(), ..Admitted::default() },
        quota: Quota::default(),
        security: PodSecurity::Restricted,
        read_only_root: false,
        run_as_user: None,
        autoscale: None,
        probes: Probes::Krane,
        patience: Patience { schedule: Duration::from_millis(1500), pull: Duration::from_secs(30) },
    }
}

async fn backend(cluster: &TestCluster) -> KubernetesBackend {
    KubernetesBackend::start(settings(cluster, "ins-1")).await.unwrap()
}

/// A cluster whose pods of [`IMAGE`] serve.
fn serving() -> TestCluster {
    let cluster = TestCluster::start();
    cluster.script(IMAGE, Behaviour::serve());
    cluster
}

fn process(name: &str, replicas: u32) -> ProcessSpec {
    ProcessSpec {
        name: name.parse().unwrap(),
        command: Vec::new(),
        replicas,
        port: Port::Given(8080),
        health: Health {
            check: Check::Http { path: "/".to_owned(), port: None },
            timeout: Duration::from_secs(1),
            interval: Duration::from_millis(50),
            start_period: None,
        },
        cpu_millicores: 250,
        memory_mib: 64,
    }
}

fn spec(replicas: u32) -> InstanceSpec {
    InstanceSpec {
        deployment_id: DeploymentId::generate(),
        namespace: EnvironmentId::generate(),
        project_id: "prj_x".to_owned(),
        service_name: "shop".to_owned(),
        image: IMAGE.to_owned(),
        env: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
        stop_signal: None,
        stop_grace: Duration::from_secs(1),
        processes: vec![process("web", replicas)],
    }
}

fn namespace(spec: &InstanceSpec) -> String {
    super::names::namespace("launchway-", &spec.namespace)
}

async fn until(
    backend: &KubernetesBackend,
    id: &DeploymentId,
    wanted: impl Fn(&[Instance]) -> bool,
) -> Vec<Instance> {
    let mut watched = backend.table().watch(id);
    let waiting = watched.wait_for(|present| wanted(&present.instances));
    match timeout(PATIENCE, waiting).await {
        Ok(present) => present.unwrap().instances.to_vec(),
        Err(_) => panic!("waited in vain: {:#?}", backend.table().get(id)),
    }
}

fn all_ready(count: usize) -> impl Fn(&[Instance]) -> bool {
    move |instances| instances.len() == count && instances.iter().all(|instance| instance.ready)
}

/// Everything of a deployment that the cluster has.
fn objects_of(cluster: &TestCluster, id: &DeploymentId) -> Vec<String> {
    let store = cluster.shared.store();
    let label = |value: &Value| value["metadata"]["labels"]["launchway.dev/deployment"].clone();
    store
        .all()
        .filter(|(_, value)| label(value) == json!(id.as_str()))
        .map(|(id, _)| format!("{}/{}", id.plural, id.name))
        .collect()
}

#[tokio::test]
async fn applying_again_changes_nothing_and_scaling_keeps_what_runs() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let mut spec = spec(1);
    let id = spec.deployment_id.clone();
    backend.apply(&spec).await.unwrap();
    let first = until(&backend, &id, all_ready(1)).await;
    assert!(first[0].routed && first[0].process == "web" && first[0].replica == 0, "{first:?}");
    let answer = reqwest::get(format!("http://{}/", first[0].address)).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
    let version = |kind: &str| {
        let all = cluster.list(kind);
        all.iter().map(|one| one["metadata"]["resourceVersion"].clone()).collect::<Vec<_>>()
    };
    let kinds = ["configmaps", "secrets", "services", "deployments", "poddisruptionbudgets"];
    let before = kinds.map(version);
    backend.apply(&spec).await.unwrap();
    assert_eq!(kinds.map(version), before, "the same apply has written something");
    spec.processes[0].replicas = 3;
    backend.apply(&spec).await.unwrap();
    let three = until(&backend, &id, all_ready(3)).await;
    assert!(three.contains(&first[0]), "the first one was replaced: {three:#?}");
    spec.processes[0].replicas = 1;
    backend.apply(&spec).await.unwrap();
    assert_eq!(until(&backend, &id, all_ready(1)).await, first, "another one was kept");
}

#[tokio::test]
async fn one_delete_removes_everything_of_a_deployment_and_nothing_else() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let one = spec(2);
    let other = InstanceSpec {
        deployment_id: DeploymentId::generate(),
        processes: vec![process("web", 1), process("admin", 1)],
        ..one.clone()
    };
    backend.apply(&one).await.unwrap();
    backend.apply(&other).await.unwrap();
    until(&backend, &other.deployment_id, all_ready(2)).await;
    let foreign = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "somebody-elses", "namespace": namespace(&one)}});
    cluster.create("configmaps", foreign);
    backend.delete(&one.deployment_id).await.unwrap();
    assert_eq!(objects_of(&cluster, &one.deployment_id), Vec::<String>::new());
    assert!(backend.get(&one.deployment_id).await.unwrap().is_empty());
    // The name that both are reached by is the other's alone now.
    let service = cluster.get("services", &namespace(&one), "shop").expect("it has an owner yet");
    assert_eq!(service["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    assert!(cluster.get("configmaps", &namespace(&one), "somebody-elses").is_some());
    assert!(all_ready(2)(&backend.get(&other.deployment_id).await.unwrap()));
    backend.delete(&other.deployment_id).await.unwrap();
    assert!(cluster.get("services", &namespace(&one), "shop").is_none());
    backend.delete(&other.deployment_id).await.unwrap();
    // The environment stays, and is what `list` finds.
    let found = backend.list(false).await.unwrap();
    let kinds: Vec<&str> = found.iter().map(|found| found.kind.as_str()).collect();
    assert_eq!(kinds, ["namespace"], "{found:?}");
}

#[tokio::test]
async fn a_changed_process_is_replaced_by_one_that_is_ready_first() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let mut spec = spec(2);
    let id = spec.deployment_id.clone();
    backend.apply(&spec).await.unwrap();
    let before = until(&backend, &id, all_ready(2)).await;
    spec.env.insert("COLOUR".to_owned(), "red".to_owned());
    let mut watched = backend.table().watch(&id);
    let seen = async {
        loop {
            watched.changed().await.unwrap();
            let now = watched.borrow_and_update().instances.clone();
            let ready: Vec<&Instance> = now.iter().filter(|one| one.ready).collect();
            assert!(!ready.is_empty(), "nobody serves: {now:#?}");
            let fresh = |one: &&Instance| before.iter().all(|old| old.id != one.id);
            if ready.iter().all(fresh) && ready.len() == 2 && now.len() == 2 {
                return;
            }
        }
    };
    let (applied, ()) = tokio::join!(backend.apply(&spec), seen);
    applied.unwrap();
}

#[tokio::test]
async fn a_change_that_cannot_start_is_an_error_and_leaves_what_serves() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let spec = spec(1);
    let id = spec.deployment_id.clone();
    backend.apply(&spec).await.unwrap();
    let before = until(&backend, &id, all_ready(1)).await;
    cluster.script("broken", Behaviour::Exit { code: 3, output: "no database".to_owned() });
    let broken = InstanceSpec { image: "broken".to_owned(), ..spec.clone() };
    let refused = backend.apply(&broken).await.unwrap_err();
    assert!(matches!(&refused, BackendError::Rejected(why) if why.contains("code 3")), "{refused}");
    let now = until(&backend, &id, all_ready(1)).await;
    assert_eq!(now, before);
    // What comes next begins from what serves.
    backend.apply(&spec).await.unwrap();
    assert_eq!(until(&backend, &id, all_ready(1)).await, before);
}

#[tokio::test]
async fn each_process_with_a_port_has_a_name_of_its_own() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let mut spec = spec(1);
    spec.processes.push(ProcessSpec { port: Port::Given(9000), ..process("admin", 1) });
    spec.processes.push(ProcessSpec {
        port: Port::None,
        health: Health { check: Check::StaysUp, ..process("x", 1).health },
        ..process("worker", 1)
    });
    backend.apply(&spec).await.unwrap();
    let ready = until(&backend, &spec.deployment_id, all_ready(3)).await;
    let worker = ready.iter().find(|one| one.process == "worker").unwrap();
    assert!(worker.address.is_empty() && !worker.routed, "{worker:?}");
    let services = cluster.list("services");
    let ports: Vec<(&str, &Value)> = services
        .iter()
        .map(|one| (one["metadata"]["name"].as_str().unwrap(), &one["spec"]["ports"][0]["port"]))
        .collect();
    assert_eq!(ports, [("shop", &json!(8080)), ("shop-admin", &json!(9000))]);
    // No pod is chosen by two of them.
    let chosen = |service: &Value| {
        let selector = service["spec"]["selector"].as_object().cloned().unwrap();
        let fits = |pod: &&Value| selector.iter().all(|(k, v)| pod["metadata"]["labels"][k] == *v);
        cluster.list("pods").iter().filter(fits).count()
    };
    assert_eq!(services.iter().map(chosen).collect::<Vec<_>>(), [1, 1]);
    // One process less: its objects go, the others stay.
    spec.processes.pop();
    backend.apply(&spec).await.unwrap();
    until(&backend, &spec.deployment_id, all_ready(2)).await;
    // The cluster's collector takes it away, a moment after it was told to.
    let budgets = || (cluster.list("poddisruptionbudgets").len() == 2).then_some(());
    cluster::eventually("the budget of the worker is gone", budgets);
}

#[tokio::test]
async fn what_an_operator_has_changed_of_an_environment_stays() {
    let cluster = serving();
    let quota = Quota { pods: 10, ..Quota::default() };
    let settings = KubernetesSettings { quota, ..settings(&cluster, "ins-1") };
    let backend = KubernetesBackend::start(settings).await.unwrap();
    let spec = spec(1);
    backend.apply(&spec).await.unwrap();
    let id = Id::new("resourcequotas", &namespace(&spec), "launchway");
    cluster.edit(&id, "kubectl", |value| value["spec"]["hard"]["pods"] = json!("50"));
    backend.apply(&spec).await.unwrap();
    let quota = cluster.get("resourcequotas", &namespace(&spec), "launchway").unwrap();
    assert_eq!(quota["spec"]["hard"]["pods"], "50");
}
