//! What an application may say about itself. Every breach is named, with the
//! key, the rule and the remedy.

use super::{Check, Health, Process, ReleaseCommand, RunOptions, WEB};
use crate::names::check_slug;

/// Instances of one deployment, of all its processes.
pub const MAX_REPLICAS: u32 = 100;
/// Longest run of a release command, in milliseconds: an hour.
pub const MAX_RELEASE_LIMIT: u32 = 3_600_000;
/// Processes of one deployment.
const MAX_PROCESSES: usize = 16;
/// Longest name of a process: names of containers have it.
const MAX_NAME: usize = 20;
/// Longest time of a health check, in milliseconds: an hour.
const MAX_HEALTH_MS: u32 = 3_600_000;
/// Shortest pause between checks.
const MIN_INTERVAL_MS: u32 = 10;
/// Longest path of a health check.
const MAX_PATH: usize = 1024;
/// Bytes of one command.
const MAX_COMMAND: usize = 32 * 1024;
/// Longest drain, in milliseconds.
const MAX_DRAIN_MS: u32 = 60_000;
/// Idle timeouts, in milliseconds: from a second, which is for trials, to 30 days.
const IDLE_MS: std::ops::RangeInclusive<u32> = 1000..=2_592_000_000;
/// What engines take.
const CPU: std::ops::RangeInclusive<u32> = 10..=1_000_000;
const MEMORY: std::ops::RangeInclusive<u64> = 6..=16_777_216;
/// What processes know how to be asked with.
const SIGNALS: [&str; 12] = [
    "SIGTERM",
    "SIGINT",
    "SIGQUIT",
    "SIGHUP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGWINCH",
    "SIGABRT",
    "SIGALRM",
    "SIGPIPE",
    "SIGKILL",
    "SIGRTMIN+3",
];

/// Collects breaches; `at` is the key that they are below.
struct Problems {
    found: Vec<String>,
}

impl Problems {
    fn rule(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.found.push(problem());
        }
    }
}

impl RunOptions {
    /// Everything that breaks a rule: one sentence each, which begins with the
    /// key.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems { found: Vec::new() };
        problems.deployment(self);
        if self.processes.is_empty() {
            problems.replicas("replicas", self.replicas);
            problems.limits("", self.cpu_millicores, self.memory_mib);
            if let Some(health) = &self.health {
                problems.health("health", health, true);
            }
        } else {
            problems.processes(self);
        }
        if let Some(release) = &self.release {
            problems.release(release);
        }
        problems.found
    }
}

impl Problems {
    fn deployment(&mut self, options: &RunOptions) {
        if let Some(signal) = &options.stop_signal {
            self.rule(SIGNALS.contains(&signal.as_str()), || {
                format!("stop_signal = `{signal}` is not known: give one of {}", SIGNALS.join(", "))
            });
        }
        if let Some(drain) = options.drain_ms {
            self.rule((1000..=MAX_DRAIN_MS).contains(&drain) && drain % 1000 == 0, || {
                format!("drain = {drain} ms is refused: give whole seconds from 1s to 60s")
            });
        }
        if let Some(idle) = options.idle_timeout_ms {
            self.rule(idle == 0 || IDLE_MS.contains(&idle), || {
                format!("idle_timeout = {idle} ms is refused: give 1s to 720h, or 0s for never")
            });
        }
    }

    fn processes(&mut self, options: &RunOptions) {
        let moved = [
            ("port", options.port > 0),
            ("replicas", options.replicas > 0),
            ("health", options.health.is_some()),
        ];
        for (key, given) in moved {
            self.rule(!given, || {
                format!(
                    "{key} is given beside processes, which have their own: move it into processes.{WEB}"
                )
            });
        }
        self.limits("", options.cpu_millicores, options.memory_mib);
        let count = options.processes.len();
        let instances = options.instances();
        self.rule(instances <= MAX_REPLICAS, || {
            format!("the processes have {instances} replicas together: give at most {MAX_REPLICAS}")
        });
        self.rule(count <= MAX_PROCESSES, || {
            format!("processes has {count} entries: give at most {MAX_PROCESSES}")
        });
        for (name, process) in &options.processes {
            self.process(name, process);
        }
    }

    fn process(&mut self, name: &str, process: &Process) {
        let at = format!("processes.{name}");
        if let Err(error) = check_slug("process", name, MAX_NAME) {
            self.found.push(format!("{at}: {error}"));
        }
        self.replicas(&format!("{at}.replicas"), process.replicas);
        self.limits(&format!("{at}."), process.cpu_millicores, process.memory_mib);
        self.rule(process.port != Some(0), || {
            format!("{at}.port = 0 is no port: leave it out, or give one from 1 to 65535")
        });
        self.command(&format!("{at}.command"), &process.command);
        if let Some(health) = &process.health {
            self.health(&format!("{at}.health"), health, process.is_routed(name));
        }
    }

    fn replicas(&mut self, key: &str, replicas: u32) {
        self.rule(replicas <= MAX_REPLICAS, || {
            format!("{key} = {replicas} is over the limit: give at most {MAX_REPLICAS}")
        });
    }

    fn limits(&mut self, at: &str, cpu: u32, memory: u64) {
        self.rule(cpu == 0 || CPU.contains(&cpu), || {
            format!(
                "{at}cpu = {cpu} is refused: give thousandths of a core from {} to {}, e.g. 500 for half a core",
                CPU.start(),
                CPU.end()
            )
        });
        self.rule(memory == 0 || MEMORY.contains(&memory), || {
            format!(
                "{at}memory = {memory} is refused: give MiB from {} to {}, e.g. 256",
                MEMORY.start(),
                MEMORY.end()
            )
        });
    }

    fn health(&mut self, at: &str, health: &Health, has_port: bool) {
        match &health.check {
            Check::Path(path) => {
                let fine = path.starts_with('/')
                    && path.len() <= MAX_PATH
                    && !path.chars().any(|c| c.is_whitespace() || c.is_control());
                self.rule(fine, || {
                    format!(
                        "{at}.path = `{path}` is refused: begin it with `/`, without spaces, with at most \
                         {MAX_PATH} bytes"
                    )
                });
            }
            Check::Tcp => {}
            Check::Command(command) => {
                self.rule(!command.is_empty(), || {
                    format!("{at}.command is empty: give a command, or leave it out")
                });
                self.command(&format!("{at}.command"), command);
                self.rule(health.port.is_none(), || {
                    format!(
                        "{at}.port is given beside {at}.command, which needs none: leave it out"
                    )
                });
            }
        }
        let asks = !matches!(health.check, Check::Command(_));
        self.rule(!asks || has_port || health.port.is_some(), || {
            format!(
                "{at} asks over the network and the process has no port: give {at}.port, or {at}.command instead"
            )
        });
        self.rule(health.port != Some(0), || {
            format!("{at}.port = 0 is no port: leave it out, or give one from 1 to 65535")
        });
        for (key, millis, least) in [
            ("interval", health.interval_ms, MIN_INTERVAL_MS),
            ("timeout", health.timeout_ms, 1),
            ("start_period", health.start_period_ms, 1),
        ] {
            let fine = millis.is_none_or(|millis| (least..=MAX_HEALTH_MS).contains(&millis));
            self.rule(fine, || {
                let given = millis.unwrap_or_default();
                format!("{at}.{key} = {given} ms is refused: give a time from {least}ms to 1h")
            });
        }
    }

    fn command(&mut self, key: &str, command: &[String]) {
        self.rule(command.first().is_none_or(|first| !first.is_empty()), || {
            format!("{key} begins with an empty word: name the program first")
        });
        self.rule(!command.iter().any(|word| word.contains('\0')), || {
            format!("{key} has a NUL character, which no argument can have: remove it")
        });
        let size: usize = command.iter().map(String::len).sum();
        self.rule(size <= MAX_COMMAND, || {
            format!(
                "{key} has {size} bytes: give at most {MAX_COMMAND}, and put the rest into a file"
            )
        });
    }

    fn release(&mut self, release: &ReleaseCommand) {
        self.rule(!release.command.is_empty(), || {
            "release is an empty command: give one, or leave it out".to_owned()
        });
        self.command("release", &release.command);
        if let Some(limit) = release.time_limit_ms {
            let fine = (1000..=MAX_RELEASE_LIMIT).contains(&limit) && limit % 1000 == 0;
            self.rule(fine, || {
                format!(
                    "release_time_limit = {limit} ms is refused: give whole seconds from 1s to 1h"
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(check: Check) -> Health {
        Health { check, port: None, interval_ms: None, timeout_ms: None, start_period_ms: None }
    }

    fn web(process: Process) -> RunOptions {
        RunOptions { processes: [(WEB.to_owned(), process)].into(), ..RunOptions::default() }
    }

    #[test]
    fn what_breaks_no_rule_is_taken() {
        assert_eq!(RunOptions::default().problems(), Vec::<String>::new());
        let health = Health { port: Some(9000), ..health(Check::Path("/healthz?deep=1".into())) };
        let process = Process { port: Some(3000), health: Some(health), ..Process::default() };
        let options = RunOptions {
            stop_signal: Some("SIGINT".to_owned()),
            drain_ms: Some(15_000),
            cpu_millicores: 500,
            release: Some(ReleaseCommand {
                command: vec!["migrate".to_owned()],
                idempotent: false,
                time_limit_ms: Some(60_000),
            }),
            ..web(process)
        };
        assert_eq!(options.problems(), Vec::<String>::new());
    }

    #[test]
    fn every_breach_is_named_at_once_with_its_key() {
        let worker = Process {
            replicas: MAX_REPLICAS + 1,
            memory_mib: 1,
            health: Some(health(Check::Tcp)),
            ..Process::default()
        };
        let odd = Process {
            command: vec![String::new()],
            health: Some(Health { interval_ms: Some(1), ..health(Check::Path("healthz".into())) }),
            ..Process::default()
        };
        let options = RunOptions {
            port: 80,
            replicas: 2,
            stop_signal: Some("TERM".to_owned()),
            drain_ms: Some(500),
            cpu_millicores: 1,
            processes: [("worker".to_owned(), worker), ("Web_1".to_owned(), odd)].into(),
            release: Some(ReleaseCommand {
                command: Vec::new(),
                idempotent: false,
                time_limit_ms: Some(MAX_RELEASE_LIMIT + 1000),
            }),
            ..RunOptions::default()
        };
        let found = options.problems();
        for begin in [
            "stop_signal = `TERM`",
            "drain = 500 ms",
            "port is given beside processes",
            "replicas is given beside processes",
            "cpu = 1 ",
            "processes.worker.replicas = 101",
            "the processes have 102 replicas together",
            "processes.worker.memory = 1 ",
            "processes.worker.health asks over the network",
            "processes.Web_1: process name `Web_1`",
            "processes.Web_1.command begins",
            "processes.Web_1.health.path = `healthz`",
            "processes.Web_1.health.interval = 1 ms",
            "release is an empty command",
            "release_time_limit = 3601000 ms",
        ] {
            assert!(found.iter().any(|text| text.starts_with(begin)), "{begin}: {found:#?}");
        }
    }
}
