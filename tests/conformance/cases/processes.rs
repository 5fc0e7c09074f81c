//! Several processes of one image.

use launchway_proto::krane::v1::{DeploymentRequest, Instance, Process};

use crate::{harness::sh, image::SERVE, world::World};

fn three(world: &World<'_>) -> DeploymentRequest {
    let process = |name: &str, script: &str, replicas, port| Process {
        name: name.to_owned(),
        command: sh(script),
        replicas,
        port,
        ..Process::default()
    };
    let admin = Process { memory_size_mib: 32, ..process("admin", SERVE, 1, 9000) };
    let worker = "echo I am $GREETING, port \"${PORT-none}\"; while :; do /busybox sleep 1; done";
    let processes = vec![process("web", SERVE, 2, 8080), process("worker", worker, 2, 0), admin];
    DeploymentRequest { processes, ..world.request() }
}

fn of<'a>(instances: &'a [Instance], process: &str) -> Vec<&'a Instance> {
    instances.iter().filter(|instance| instance.process == process).collect()
}

pub async fn each_process_has_its_own_command_replicas_port_and_limits(world: &World<'_>) {
    let request = three(world);
    let ready = world.deploy(&request).await;
    let counts = ["web", "worker", "admin"].map(|name| of(&ready, name).len());
    assert_eq!(counts, [2, 2, 1]);
    for worker in of(&ready, "worker") {
        assert!(worker.address.is_empty() && !worker.routed, "{worker:?}");
        assert_eq!(worker.memory_size_mib, 64);
    }
    for routed in [of(&ready, "web"), of(&ready, "admin")].concat() {
        assert!(routed.routed);
        assert_eq!(world.body(routed).await, "hello");
    }
    assert_eq!(of(&ready, "admin")[0].memory_size_mib, 32);
    let mut logs = world.logs_of(&request.deployment_id);
    logs.process = "worker".to_owned();
    let lines = world.logs(logs).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line.text == "I am hello, port none"), "{lines:?}");
}

pub async fn a_process_is_scaled_without_touching_the_others(world: &World<'_>) {
    let mut request = three(world);
    let before = world.deploy(&request).await;
    request.processes[0].replicas = 3;
    request.processes[1].replicas = 0;
    world.apply(&request).await;
    let after = world.ready(&request.deployment_id, 4).await;
    assert!(of(&after, "worker").is_empty());
    assert_eq!(of(&after, "admin"), of(&before, "admin"));
    for web in of(&before, "web") {
        assert!(after.contains(web), "{web:?} was replaced: {after:#?}");
    }
}
