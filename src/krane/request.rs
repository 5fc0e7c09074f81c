//! Requests, checked: what is wrong is named with its rule and its remedy.

use std::{collections::HashSet, time::Duration};

use launchway_proto::krane::v1::{
    self as proto, DeploymentRequest, ExecStart, RunTaskRequest, StreamLogsRequest,
};
use launchway_workflows::{
    app::WEB,
    ids::{DeploymentId, EnvironmentId},
};
use tonic::Status;

use super::backend::{
    Check, ExecSpec, Health, InstanceSpec, Label, LogQuery, Port, ProcessSpec, TaskSpec,
};

/// Instances of one deployment.
const MAX_REPLICAS: u32 = 100;
const MAX_PROCESSES: usize = 20;
/// From the stop signal to SIGKILL: where nothing is said, and at most.
const GRACE: u32 = 10;
const MAX_GRACE: u32 = 60;
/// Of one check, and between two.
const CHECK_TIMEOUT_MS: u32 = 2000;
const CHECK_INTERVAL_MS: u32 = 500;
/// Of a task: where nothing is said, and at most.
const TASK_LIMIT_SECONDS: u32 = 600;
const MAX_TASK_LIMIT_SECONDS: u32 = 24 * 3600;

pub(super) fn deployment_id(text: &str) -> Result<DeploymentId, Status> {
    text.parse().map_err(|error| invalid(format!("deployment_id: {error}")))
}

pub(super) fn label(field: &str, text: &str) -> Result<Label, Status> {
    text.parse().map_err(|error| invalid(format!("{field} {error}")))
}

fn optional_label(field: &str, text: &str) -> Result<Option<Label>, Status> {
    if text.is_empty() { Ok(None) } else { label(field, text).map(Some) }
}

fn namespace(text: &str) -> Result<EnvironmentId, Status> {
    text.parse().map_err(|error| invalid(format!("namespace: {error}")))
}

fn image(text: String) -> Result<String, Status> {
    match text.is_empty() {
        true => Err(invalid("image is empty: give a reference or a local image's id")),
        false => Ok(text),
    }
}

fn port(field: &str, number: u32) -> Result<u16, Status> {
    u16::try_from(number).map_err(|_| invalid(format!("{field} {number} is over 65535")))
}

/// A deployment's instances.
pub(super) fn instances(wanted: DeploymentRequest) -> Result<InstanceSpec, Status> {
    let processes = processes(&wanted)?;
    let replicas: u32 = processes.iter().map(|process| process.replicas).sum();
    if replicas > MAX_REPLICAS {
        return Err(invalid(format!("replicas {replicas} is over the limit of {MAX_REPLICAS}")));
    }
    let grace = if wanted.stop_grace_seconds == 0 { GRACE } else { wanted.stop_grace_seconds };
    Ok(InstanceSpec {
        deployment_id: deployment_id(&wanted.deployment_id)?,
        namespace: namespace(&wanted.namespace)?,
        project_id: wanted.project_id,
        service_name: wanted.service_name,
        image: image(wanted.image)?,
        env: wanted.env.into_iter().collect(),
        stop_signal: Some(wanted.stop_signal).filter(|signal| !signal.is_empty()),
        stop_grace: Duration::from_secs(u64::from(grace.min(MAX_GRACE))),
        processes,
    })
}

fn processes(wanted: &DeploymentRequest) -> Result<Vec<ProcessSpec>, Status> {
    if wanted.processes.is_empty() {
        let web = proto::Process {
            name: WEB.to_owned(),
            // One is meant where nothing is said.
            replicas: wanted.replicas.max(1),
            port: wanted.port,
            health: wanted.health.clone(),
            ..proto::Process::default()
        };
        return Ok(vec![process(&web, wanted)?]);
    }
    let mut names = HashSet::new();
    if let Some(twice) = wanted.processes.iter().find(|process| !names.insert(&process.name)) {
        return Err(invalid(format!("processes: `{}` is there twice: give each once", twice.name)));
    }
    if names.len() > MAX_PROCESSES {
        return Err(invalid(format!(
            "processes: {} is over the limit of {MAX_PROCESSES}",
            names.len()
        )));
    }
    wanted.processes.iter().map(|given| process(given, wanted)).collect()
}

fn process(given: &proto::Process, wanted: &DeploymentRequest) -> Result<ProcessSpec, Status> {
    let name = label("processes:", &given.name)?;
    let port = match port(&format!("port of process `{name}`:"), given.port)? {
        0 if name.as_str() == WEB => Port::OfImage,
        0 => Port::None,
        number => Port::Given(number),
    };
    Ok(ProcessSpec {
        command: given.command.clone(),
        replicas: given.replicas,
        health: health(&name, port, given.health.as_ref())?,
        port,
        cpu_millicores: or(given.cpu_millicores, wanted.cpu_millicores),
        memory_mib: if given.memory_size_mib == 0 {
            wanted.memory_size_mib
        } else {
            given.memory_size_mib
        },
        name,
    })
}

fn or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

fn health(name: &Label, of: Port, given: Option<&proto::HealthCheck>) -> Result<Health, Status> {
    let given = given.cloned().unwrap_or_default();
    let millis = |value, default| Duration::from_millis(u64::from(or(value, default)));
    Ok(Health {
        check: check(name, of, &given)?,
        timeout: millis(given.timeout_ms, CHECK_TIMEOUT_MS),
        interval: millis(given.interval_ms, CHECK_INTERVAL_MS),
        start_period: (given.start_period_ms > 0).then(|| millis(given.start_period_ms, 0)),
    })
}

fn check(name: &Label, of: Port, given: &proto::HealthCheck) -> Result<Check, Status> {
    let number = match port(&format!("health.port of process `{name}`:"), given.port)? {
        0 => None,
        number => Some(number),
    };
    if !given.command.is_empty() {
        if given.tcp || !given.path.is_empty() || number.is_some() {
            return Err(invalid(format!(
                "health of process `{name}` has a command and a path, tcp or port: give one kind of check"
            )));
        }
        return Ok(Check::Command(given.command.clone()));
    }
    if given.tcp && !given.path.is_empty() {
        return Err(invalid(format!(
            "health of process `{name}` has a path and tcp: give one kind of check"
        )));
    }
    let somewhere = number.is_some() || of != Port::None;
    match (given.tcp, somewhere) {
        (true, true) => Ok(Check::Tcp { port: number }),
        (false, true) => Ok(Check::Http { path: path(name, &given.path)?, port: number }),
        (false, false) if given.path.is_empty() => Ok(Check::StaysUp),
        (_, false) => Err(invalid(format!(
            "health of process `{name}` asks for a connection but the process has no port: give \
             it a port, or health.port"
        ))),
    }
}

fn path(name: &Label, given: &str) -> Result<String, Status> {
    match given {
        "" => Ok("/".to_owned()),
        path if path.starts_with('/') => Ok(path.to_owned()),
        path => {
            Err(invalid(format!("health.path `{path}` of process `{name}` must begin with `/`")))
        }
    }
}

/// Which output.
pub(super) fn logs(wanted: &StreamLogsRequest) -> Result<LogQuery, Status> {
    Ok(LogQuery {
        deployment_id: deployment_id(&wanted.deployment_id)?,
        process: optional_label("process", &wanted.process)?,
        replica: wanted.replica,
        follow: wanted.follow,
        tail: Some(wanted.tail).filter(|lines| *lines > 0),
        since: wanted.since,
    })
}

/// A task.
pub(super) fn task(wanted: RunTaskRequest) -> Result<TaskSpec, Status> {
    if wanted.replace_entrypoint && wanted.command.is_empty() {
        return Err(invalid("replace_entrypoint without a command: give the command to run"));
    }
    let seconds = or(wanted.time_limit_seconds, TASK_LIMIT_SECONDS);
    if seconds > MAX_TASK_LIMIT_SECONDS {
        return Err(invalid(format!(
            "time_limit_seconds {seconds} is over the limit of {MAX_TASK_LIMIT_SECONDS}"
        )));
    }
    Ok(TaskSpec {
        deployment_id: deployment_id(&wanted.deployment_id)?,
        namespace: namespace(&wanted.namespace)?,
        project_id: wanted.project_id,
        task_id: label("task_id", &wanted.task_id)?,
        image: image(wanted.image)?,
        command: wanted.command,
        replace_entrypoint: wanted.replace_entrypoint,
        env: wanted.env.into_iter().collect(),
        cpu_millicores: wanted.cpu_millicores,
        memory_mib: wanted.memory_size_mib,
        time_limit: Duration::from_secs(u64::from(seconds)),
        join_only: wanted.join_only,
    })
}

/// A command in an instance.
pub(super) fn exec(wanted: ExecStart) -> Result<ExecSpec, Status> {
    if wanted.command.is_empty() {
        return Err(invalid("command is empty: give a program and its arguments"));
    }
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    Ok(ExecSpec {
        deployment_id: deployment_id(&wanted.deployment_id)?,
        process: optional_label("process", &wanted.process)?,
        replica: wanted.replica,
        command: wanted.command,
        tty: wanted.tty,
        size: wanted.size.map(|size| (cells(size.columns), cells(size.rows))),
    })
}

fn invalid(text: impl Into<String>) -> Status {
    Status::invalid_argument(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(processes: Vec<proto::Process>) -> DeploymentRequest {
        DeploymentRequest {
            namespace: EnvironmentId::generate().to_string(),
            deployment_id: DeploymentId::generate().to_string(),
            image: "sha256:ab".to_owned(),
            processes,
            ..DeploymentRequest::default()
        }
    }

    fn process(name: &str, health: proto::HealthCheck) -> proto::Process {
        let (name, replicas) = (name.to_owned(), 1);
        proto::Process { name, replicas, health: Some(health), ..proto::Process::default() }
    }

    fn refused(processes: Vec<proto::Process>) -> String {
        match instances(request(processes)) {
            Ok(_) => panic!("this was to be refused"),
            Err(status) => status.message().to_owned(),
        }
    }

    #[test]
    fn without_processes_there_is_one_that_gets_requests() {
        let spec = instances(DeploymentRequest { cpu_millicores: 250, ..request(vec![]) }).unwrap();
        let web = &spec.processes[0];
        assert_eq!((web.name.as_str(), web.replicas, web.port), (WEB, 1, Port::OfImage));
        assert_eq!(web.health.check, Check::Http { path: "/".to_owned(), port: None });
        assert_eq!((web.cpu_millicores, web.memory_mib), (250, 0));
    }

    #[test]
    fn one_without_a_port_must_stay_up_or_say_what_is_asked() {
        let spec = instances(request(vec![process("worker", Default::default())])).unwrap();
        assert_eq!(spec.processes[0].health.check, Check::StaysUp);
        let with_port = proto::HealthCheck { port: 9000, tcp: true, ..Default::default() };
        let spec = instances(request(vec![process("worker", with_port)])).unwrap();
        assert_eq!(spec.processes[0].health.check, Check::Tcp { port: Some(9000) });
        let tcp = proto::HealthCheck { tcp: true, ..Default::default() };
        assert!(refused(vec![process("worker", tcp)]).contains("health.port"));
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let command = vec!["true".to_owned()];
        let both = proto::HealthCheck { tcp: true, command, ..Default::default() };
        assert!(refused(vec![process("web", both)]).contains("one kind of check"));
        let both = proto::HealthCheck { tcp: true, path: "/".to_owned(), ..Default::default() };
        assert!(refused(vec![process("web", both)]).contains("one kind of check"));
        let path = proto::HealthCheck { path: "up".to_owned(), ..Default::default() };
        assert!(refused(vec![process("web", path)]).contains("`up`"));
        let twice = vec![process("a", Default::default()), process("a", Default::default())];
        assert!(refused(twice).contains("`a` is there twice"));
        assert!(refused(vec![process("Web", Default::default())]).contains("`Web`"));
        let many = proto::Process { replicas: 101, ..process("a", Default::default()) };
        assert!(refused(vec![many]).contains("101"));
    }
}
