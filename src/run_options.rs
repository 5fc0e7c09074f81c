//! How to run, in the words of the API and of the durable core. Both ways are
//! here, so that nothing that one says is lost in the other.

use launchway_proto::ctrl::v1 as proto;
use launchway_workflows::app::{Check, Health, Process, ReleaseCommand, RunOptions};

/// For a client, and for what is shown.
pub(crate) fn to_proto(options: &RunOptions) -> proto::RunOptions {
    let process = |(name, process): (&String, &Process)| {
        let process = proto::ProcessOptions {
            command: process.command.clone(),
            replicas: process.replicas,
            port: process.port.map(u32::from),
            health: process.health.as_ref().map(health_to_proto),
            cpu_millicores: process.cpu_millicores,
            memory_mib: process.memory_mib,
        };
        (name.clone(), process)
    };
    proto::RunOptions {
        port: u32::from(options.port),
        replicas: options.replicas,
        health: options.health.as_ref().map(health_to_proto),
        stop_signal: options.stop_signal.clone(),
        drain_ms: options.drain_ms,
        processes: options.processes.iter().map(process).collect(),
        release: options.release.as_ref().map(|release| proto::ReleaseOptions {
            command: release.command.clone(),
            idempotent: release.idempotent,
            time_limit_ms: release.time_limit_ms,
        }),
        cpu_millicores: options.cpu_millicores,
        memory_mib: options.memory_mib,
        idle_timeout_ms: options.idle_timeout_ms,
    }
}

/// What a client asks for.
///
/// # Errors
/// Names the key, the rule and the remedy.
pub(crate) fn from_proto(options: proto::RunOptions) -> Result<RunOptions, String> {
    let process = |(name, process): (String, proto::ProcessOptions)| {
        let at = format!("processes.{name}");
        let process = Process {
            command: process.command,
            replicas: process.replicas,
            port: process.port.map(|number| port(&format!("{at}.port"), number)).transpose()?,
            health: process
                .health
                .map(|health| health_from_proto(&format!("{at}.health"), health))
                .transpose()?,
            cpu_millicores: process.cpu_millicores,
            memory_mib: process.memory_mib,
        };
        Ok((name, process))
    };
    Ok(RunOptions {
        port: port("port", options.port)?,
        replicas: options.replicas,
        health: options.health.map(|health| health_from_proto("health", health)).transpose()?,
        stop_signal: options.stop_signal.filter(|signal| !signal.is_empty()),
        drain_ms: options.drain_ms,
        cpu_millicores: options.cpu_millicores,
        memory_mib: options.memory_mib,
        idle_timeout_ms: options.idle_timeout_ms,
        processes: options.processes.into_iter().map(process).collect::<Result<_, String>>()?,
        release: options.release.map(|release| ReleaseCommand {
            command: release.command,
            idempotent: release.idempotent,
            time_limit_ms: release.time_limit_ms,
        }),
    })
}

fn port(key: &str, number: u32) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{key} {number} is over 65535: give a smaller one"))
}

fn health_to_proto(health: &Health) -> proto::HealthOptions {
    let mut options = proto::HealthOptions {
        port: health.port.map(u32::from),
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        start_period_ms: health.start_period_ms,
        ..proto::HealthOptions::default()
    };
    match &health.check {
        Check::Path(path) => options.path = Some(path.clone()),
        Check::Tcp => options.tcp = true,
        Check::Command(command) => options.command.clone_from(command),
    }
    options
}

fn health_from_proto(at: &str, health: proto::HealthOptions) -> Result<Health, String> {
    Ok(Health {
        check: check(at, health.path, health.tcp, Some(health.command))?,
        port: health.port.map(|number| port(&format!("{at}.port"), number)).transpose()?,
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        start_period_ms: health.start_period_ms,
    })
}

/// The one way to ask; without any, HTTP on `/`.
///
/// # Errors
/// There are several.
pub(crate) fn check(
    at: &str,
    path: Option<String>,
    tcp: bool,
    command: Option<Vec<String>>,
) -> Result<Check, String> {
    match (path, tcp, command.filter(|command| !command.is_empty())) {
        (path, false, None) => Ok(Check::Path(path.unwrap_or_else(|| "/".to_owned()))),
        (None, true, None) => Ok(Check::Tcp),
        (None, false, Some(command)) => Ok(Check::Command(command)),
        _ => Err(format!("{at} has several of path, tcp and command: give one of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_api_and_back() {
        let health = |check| Health {
            check,
            port: Some(9000),
            interval_ms: Some(250),
            timeout_ms: Some(1000),
            start_period_ms: Some(90_000),
        };
        let worker = Process {
            command: vec!["work".to_owned(), "--all".to_owned()],
            replicas: 3,
            port: Some(9001),
            health: Some(health(Check::Command(vec!["check".to_owned()]))),
            cpu_millicores: 100,
            memory_mib: 64,
        };
        let options = RunOptions {
            port: 3000,
            replicas: 2,
            health: Some(health(Check::Tcp)),
            stop_signal: Some("SIGINT".to_owned()),
            drain_ms: Some(15_000),
            cpu_millicores: 500,
            memory_mib: 256,
            idle_timeout_ms: Some(1_800_000),
            processes: [("worker".to_owned(), worker)].into(),
            release: Some(ReleaseCommand {
                command: vec!["migrate".to_owned()],
                idempotent: true,
                time_limit_ms: Some(60_000),
            }),
        };
        assert_eq!(from_proto(to_proto(&options)), Ok(options));
        assert_eq!(from_proto(to_proto(&RunOptions::default())), Ok(RunOptions::default()));
        let path = RunOptions {
            health: Some(health(Check::Path("/healthz".to_owned()))),
            ..RunOptions::default()
        };
        assert_eq!(from_proto(to_proto(&path)), Ok(path));
    }

    #[test]
    fn two_ways_to_ask_and_a_port_that_is_none_are_refused_by_name() {
        let health = proto::HealthOptions {
            path: Some("/".to_owned()),
            tcp: true,
            ..proto::HealthOptions::default()
        };
        let both = proto::RunOptions { health: Some(health), ..proto::RunOptions::default() };
        assert!(from_proto(both).unwrap_err().starts_with("health has several"));
        let large = proto::RunOptions { port: 70_000, ..proto::RunOptions::default() };
        assert!(from_proto(large).unwrap_err().contains("70000"));
    }
}
