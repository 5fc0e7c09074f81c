//! What waiting cannot help is an error at once, and leaves nothing.

use launchway_proto::krane::v1::NotReadyReason;

use super::*;
use crate::krane::kubernetes::check_cluster;

async fn refused(backend: &KubernetesBackend, spec: &InstanceSpec) -> BackendError {
    timeout(PATIENCE, backend.apply(spec)).await.expect("it fails fast").unwrap_err()
}

#[tokio::test]
async fn an_image_that_is_not_there_is_named_and_leaves_nothing() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    cluster.script("gone", Behaviour::Pull { message: "manifest unknown".to_owned() });
    let spec = InstanceSpec { image: "gone".to_owned(), ..spec(1) };
    let error = refused(&backend, &spec).await;
    let BackendError::ImageUnavailable { image, reason } = &error else { panic!("{error}") };
    assert!(image == "gone" && reason.contains("manifest unknown"), "{error}");
    assert_eq!(objects_of(&cluster, &spec.deployment_id), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_of_a_docker_engine_is_refused_with_the_remedy() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let spec = InstanceSpec { image: "sha256:ab".to_owned(), ..spec(1) };
    let error = refused(&backend, &spec).await.to_string();
    assert!(error.contains("registry.host"), "{error}");
    assert!(cluster.list("namespaces").is_empty(), "something was made for it");
}

#[tokio::test]
async fn one_that_no_node_takes_fails_with_the_schedulers_word() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    cluster.script("huge", Behaviour::Unschedulable);
    let spec = InstanceSpec { image: "huge".to_owned(), ..spec(1) };
    let error = refused(&backend, &spec).await;
    assert_eq!(error.reason(), NotReadyReason::Unschedulable);
    assert!(error.to_string().contains("Insufficient memory"), "{error}");
    // A node that comes in time is waited for.
    let id = spec.deployment_id.clone();
    let (applied, ()) = tokio::join!(backend.apply(&spec), async {
        until(&backend, &id, |all| all.iter().any(|one| one.message.contains("no node"))).await;
        cluster.script("huge", Behaviour::serve());
    });
    applied.unwrap();
    until(&backend, &id, all_ready(1)).await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_named() {
    let cluster = serving();
    let quota = Quota { pods: 2, ..Quota::default() };
    let settings = KubernetesSettings { quota, ..settings(&cluster, "ins-1") };
    let backend = KubernetesBackend::start(settings).await.unwrap();
    let fits = spec(2);
    backend.apply(&fits).await.unwrap();
    until(&backend, &fits.deployment_id, all_ready(2)).await;
    let more = InstanceSpec { deployment_id: DeploymentId::generate(), ..fits.clone() };
    let error = refused(&backend, &more).await;
    assert_eq!(error.reason(), NotReadyReason::QuotaExceeded);
    let error = error.to_string();
    assert!(error.contains("exceeded quota") && error.contains("kubernetes.max_"), "{error}");
    assert_eq!(objects_of(&cluster, &more.deployment_id), Vec::<String>::new());
    assert!(all_ready(2)(&backend.get(&fits.deployment_id).await.unwrap()));
}

#[tokio::test]
async fn an_image_that_wants_to_be_root_is_refused_with_the_remedy() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let message = "container has runAsNonRoot and image will run as root".to_owned();
    cluster.script("root", Behaviour::Refused { message });
    let error = refused(&backend, &InstanceSpec { image: "root".to_owned(), ..spec(1) }).await;
    assert!(error.to_string().contains("kubernetes.run_as_user"), "{error}");
}

#[tokio::test]
async fn a_namespace_of_somebody_else_is_left_alone() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let spec = spec(1);
    let theirs =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(&spec)}});
    let before = cluster.create("namespaces", theirs);
    let error = refused(&backend, &spec).await.to_string();
    assert!(error.contains("namespace_prefix"), "{error}");
    assert_eq!(cluster.get("namespaces", "", &namespace(&spec)).unwrap(), before);
    assert_eq!(cluster.list("configmaps"), Vec::<Value>::new());
}

#[tokio::test]
async fn a_missing_permission_is_named_by_the_call_and_by_the_check() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let kubeconfig = Cluster { kubeconfig: Some(cluster.kubeconfig()), context: None };
    let fine = check_cluster(&kubeconfig).await.unwrap();
    assert!(fine.contains("v1.33"), "{fine}");
    cluster.forbid("patch", "deployments");
    cluster.forbid("patch", "pods/status");
    let error = refused(&backend, &spec(1)).await;
    assert!(matches!(error, BackendError::Rejected(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("cannot patch resource \"deployments\"") && text.contains("rbac.yaml"),
        "{text}"
    );
    let missing = check_cluster(&kubeconfig).await.unwrap_err();
    for rule in ["patch deployments (apps)", "patch pods/status (core)", "rbac.yaml"] {
        assert!(missing.contains(rule), "{rule}: {missing}");
    }
}

#[tokio::test]
async fn a_variable_that_cannot_be_set_is_named() {
    let cluster = serving();
    let backend = backend(&cluster).await;
    let env = BTreeMap::from([("GRÖSSE".to_owned(), "1".to_owned())]);
    let error = refused(&backend, &InstanceSpec { env, ..spec(1) }).await.to_string();
    assert!(error.contains("GRÖSSE"), "{error}");
}
