//! What is to run, in krane's words.

use std::collections::{BTreeMap, HashMap};

use launchway_proto::krane::v1::{DeploymentRequest, HealthCheck, Process, RunTaskRequest};
use launchway_workflows::{
    app::{self, Check, Health, WEB},
    ports::{RunSpec, TaskSpec},
    secret::Secret,
};

/// The wanted instances. A deployment without named processes asks for its one
/// as ever, so that what runs already is what is wanted.
pub(super) fn deployment(spec: &RunSpec) -> DeploymentRequest {
    let (plan, options) = (&spec.plan, &spec.options);
    let all = options.all_processes();
    let web = all.get(WEB).cloned().unwrap_or_default();
    let named = |(name, one): (&String, &app::Process)| process(name, one);
    DeploymentRequest {
        namespace: plan.environment_id.to_string(),
        deployment_id: plan.deployment_id.to_string(),
        image: spec.image.clone(),
        replicas: web.replicas,
        cpu_millicores: web.cpu_millicores,
        memory_size_mib: web.memory_mib,
        env: variables(&spec.env),
        port: web.port.map_or(0, u32::from),
        health: Some(web.health.as_ref().map(health).unwrap_or_default()),
        project_id: plan.project_id.to_string(),
        // Whole seconds: the rules have it so.
        stop_grace_seconds: options.drain_ms.unwrap_or(0).div_ceil(1000),
        service_name: plan.project_slug.clone(),
        processes: options.processes.iter().map(named).collect(),
        stop_signal: options.stop_signal.clone().unwrap_or_default(),
    }
}

/// With the size of the process that gets requests.
pub(super) fn task(task: &TaskSpec) -> RunTaskRequest {
    let (plan, size) = (&task.run.plan, task.run.options.main_process());
    RunTaskRequest {
        namespace: plan.environment_id.to_string(),
        deployment_id: plan.deployment_id.to_string(),
        task_id: task.id.clone(),
        project_id: plan.project_id.to_string(),
        image: task.run.image.clone(),
        command: task.command.clone(),
        env: variables(&task.run.env),
        cpu_millicores: size.cpu_millicores,
        memory_size_mib: size.memory_mib,
        time_limit_seconds: u32::try_from(task.time_limit.as_secs()).unwrap_or(u32::MAX),
        join_only: task.join_only,
        replace_entrypoint: false,
    }
}

fn variables(env: &BTreeMap<String, Secret>) -> HashMap<String, String> {
    env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
}

fn process(name: &str, process: &app::Process) -> Process {
    Process {
        name: name.to_owned(),
        command: process.command.clone(),
        replicas: process.replicas,
        port: process.port.map_or(0, u32::from),
        health: process.health.as_ref().map(health),
        cpu_millicores: process.cpu_millicores,
        memory_size_mib: process.memory_mib,
    }
}

fn health(health: &Health) -> HealthCheck {
    let (path, tcp, command) = match &health.check {
        Check::Path(path) => (path.clone(), false, Vec::new()),
        Check::Tcp => (String::new(), true, Vec::new()),
        Check::Command(command) => (String::new(), false, command.clone()),
    };
    HealthCheck {
        path,
        timeout_ms: health.timeout_ms.unwrap_or(0),
        interval_ms: health.interval_ms.unwrap_or(0),
        port: health.port.map_or(0, u32::from),
        tcp,
        command,
        start_period_ms: health.start_period_ms.unwrap_or(0),
    }
}
