//! With an autoscaler the number of instances is its own.

use super::*;
use crate::krane::kubernetes::names;

#[tokio::test]
async fn an_autoscaler_keeps_the_number_that_it_has_chosen() {
    let cluster = serving();
    let autoscale = Some(Autoscale { max_replicas: 5, cpu_percent: 80 });
    let settings = KubernetesSettings { autoscale, ..settings(&cluster, "ins-1") };
    let backend = KubernetesBackend::start(settings).await.unwrap();
    let spec = spec(2);
    let id = &spec.deployment_id;
    backend.apply(&spec).await.unwrap();
    until(&backend, id, all_ready(2)).await;
    let name = names::workload(id, "web");
    let scaler = cluster.get("horizontalpodautoscalers", &namespace(&spec), &name).unwrap();
    assert_eq!(
        (&scaler["spec"]["minReplicas"], &scaler["spec"]["maxReplicas"]),
        (&json!(2), &json!(5))
    );
    let workload = Id::new("deployments", &namespace(&spec), &name);
    cluster
        .edit(&workload, "horizontal-pod-autoscaler", |value| value["spec"]["replicas"] = json!(4));
    until(&backend, id, all_ready(4)).await;
    backend.apply(&spec).await.unwrap();
    until(&backend, id, all_ready(4)).await;
    let found = cluster.get("deployments", &namespace(&spec), &name).unwrap();
    assert_eq!(found["spec"]["replicas"], 4, "the apply has taken it back");
}

#[tokio::test]
async fn an_autoscaler_that_is_switched_on_takes_over_the_number_that_runs() {
    let cluster = serving();
    let plain = backend(&cluster).await;
    let spec = spec(3);
    let id = &spec.deployment_id;
    plain.apply(&spec).await.unwrap();
    let before = until(&plain, id, all_ready(3)).await;
    let autoscale = Some(Autoscale { max_replicas: 5, cpu_percent: 80 });
    let settings = KubernetesSettings { autoscale, ..settings(&cluster, "ins-1") };
    let scaled = KubernetesBackend::start(settings).await.unwrap();
    scaled.apply(&spec).await.unwrap();
    let name = names::workload(id, "web");
    let found = cluster.get("deployments", &namespace(&spec), &name).unwrap();
    assert_eq!(found["spec"]["replicas"], 3, "{found:#}");
    let ids = |all: &[Instance]| {
        all.iter().map(|one| one.id.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(ids(&until(&scaled, id, all_ready(3)).await), ids(&before));
}
