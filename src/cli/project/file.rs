//! The content of `launchway.toml`. docs/launchway-toml.md is its manual.

use launchway_workflows::app::{Health, Process, ReleaseCommand, RunOptions};
use toml::Table;

use super::section::Section;
use crate::run_options::check;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct ProjectFile {
    pub(in crate::cli) project: Option<String>,
    pub(in crate::cli) environment: Option<String>,
    pub(in crate::cli) dockerfile: Option<String>,
    pub(in crate::cli) target: Option<String>,
    /// `supersede-queued` or `queue`.
    pub(in crate::cli) queue: Option<String>,
    pub(in crate::cli) run: RunOptions,
}

impl ProjectFile {
    /// The file's text.
    ///
    /// # Errors
    /// Everything that is wrong: the key, the rule and the remedy of each.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let table: Table = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        let file = top(table, &mut problems);
        problems.extend(file.run.problems());
        if problems.is_empty() { Ok(file) } else { Err(problems) }
    }
}

fn top(table: Table, problems: &mut Vec<String>) -> ProjectFile {
    let mut top = Section::new("", table, problems);
    let mut file = ProjectFile {
        project: top.text("project"),
        environment: top.text("environment"),
        dockerfile: top.text("dockerfile"),
        target: top.text("target"),
        queue: top.text("queue"),
        run: RunOptions {
            port: top.number("port", "3000").unwrap_or_default(),
            replicas: top.number("replicas", "2").unwrap_or_default(),
            cpu_millicores: top.number("cpu", "500").unwrap_or_default(),
            memory_mib: top.number("memory", "256").unwrap_or_default(),
            stop_signal: top.text("stop_signal"),
            drain_ms: top.millis("drain", "15s"),
            idle_timeout_ms: top.millis("idle_timeout", "30m"),
            release: release(&mut top),
            ..RunOptions::default()
        },
    };
    let health_table = top.table("health");
    let processes = top.table("processes");
    file.run.health = health_table.map(|table| health("health", table, top.problems()));
    for (name, value) in processes.unwrap_or_default() {
        match value {
            toml::Value::Table(table) => {
                let process = process(&name, table, top.problems());
                file.run.processes.insert(name, process);
            }
            other => {
                top.problem(format!(
                    "processes.{name} = {other}: give a table: [processes.{name}]"
                ));
            }
        }
    }
    top.end();
    file
}

fn release(top: &mut Section<'_>) -> Option<ReleaseCommand> {
    let command = top.words("release");
    let idempotent = top.flag("release_idempotent");
    let time_limit_ms = top.millis("release_time_limit", "5m");
    if command.is_none() && (idempotent.is_some() || time_limit_ms.is_some()) {
        top.problem(
            "release_idempotent and release_time_limit say how `release` is run, and there is none: give \
             it, or leave them out"
                .to_owned(),
        );
    }
    let idempotent = idempotent.unwrap_or(false);
    command.map(|command| ReleaseCommand { command, idempotent, time_limit_ms })
}

fn process(name: &str, table: Table, problems: &mut Vec<String>) -> Process {
    let at = format!("processes.{name}");
    let mut section = Section::new(&at, table, problems);
    let mut process = Process {
        command: section.words("command").unwrap_or_default(),
        replicas: section.number("replicas", "2").unwrap_or_default(),
        port: section.number("port", "3000"),
        health: None,
        cpu_millicores: section.number("cpu", "500").unwrap_or_default(),
        memory_mib: section.number("memory", "256").unwrap_or_default(),
    };
    let health_table = section.table("health");
    process.health =
        health_table.map(|table| health(&format!("{at}.health"), table, section.problems()));
    section.end();
    process
}

fn health(at: &str, table: Table, problems: &mut Vec<String>) -> Health {
    let mut section = Section::new(at, table, problems);
    let (path, tcp) = (section.text("path"), section.flag("tcp").unwrap_or(false));
    let check = check(at, path, tcp, section.words("command"));
    let health = Health {
        check: check.unwrap_or_else(|problem| {
            section.problem(problem);
            launchway_workflows::app::Check::Tcp
        }),
        port: section.number("port", "9000"),
        interval_ms: section.millis("interval", "500ms"),
        timeout_ms: section.millis("timeout", "2s"),
        start_period_ms: section.millis("start_period", "2m"),
    };
    section.end();
    health
}

#[cfg(test)]
mod tests {
    use launchway_workflows::app::Check;

    use super::*;

    const WHOLE: &str = r#"
project = "shop"
environment = "staging"
dockerfile = "deploy/Dockerfile"
target = "runtime"
queue = "queue"
cpu = 500
memory = 256
stop_signal = "SIGINT"
drain = "15s"
release = "bin/migrate up --to 'the latest'"
release_idempotent = true
release_time_limit = "5m"

[processes.web]
command = ["bin/serve", "--port", "3000"]
replicas = 2
port = 3000
health = { path = "/healthz", interval = "500ms", timeout = "2s", start_period = "2m" }

[processes.worker]
command = "bin/work --queue 'a b'"
memory = 64

[processes.worker.health]
command = "bin/alive"
"#;

    #[test]
    fn every_key_is_read() {
        let file = ProjectFile::parse(WHOLE).unwrap();
        assert_eq!(file.project.as_deref(), Some("shop"));
        assert_eq!((file.run.cpu_millicores, file.run.drain_ms), (500, Some(15_000)));
        let release = file.run.release.unwrap();
        assert_eq!(release.command, ["bin/migrate", "up", "--to", "the latest"]);
        assert!(release.idempotent);
        assert_eq!(release.time_limit_ms, Some(300_000));
        let web = &file.run.processes["web"];
        assert_eq!((web.replicas, web.port), (2, Some(3000)));
        let health = web.health.as_ref().unwrap();
        assert_eq!(health.check, Check::Path("/healthz".to_owned()));
        assert_eq!((health.interval_ms, health.start_period_ms), (Some(500), Some(120_000)));
        let worker = &file.run.processes["worker"];
        assert_eq!(worker.command, ["bin/work", "--queue", "a b"]);
        let alive = Check::Command(vec!["bin/alive".to_owned()]);
        assert_eq!(worker.health.as_ref().unwrap().check, alive);
        assert_eq!(ProjectFile::parse("").unwrap(), ProjectFile::default());
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let problems = ProjectFile::parse(
            r#"
projct = "shop"
port = 70000
replicas = "2"
cpu = 0
drain = "15"
stop_signal = "INT"
release = "migrate && seed"
[health]
path = "healthz"
tcp = true
interval = 2
[processes.worker]
comand = "work"
[processes.worker.health]
tcp = true
"#,
        )
        .unwrap_err();
        for begin in [
            "projct is not a key",
            "port = 70000: give a whole number",
            "replicas = \"2\": give a whole number",
            "cpu = 0: give a whole number",
            "drain = \"15\": give a time with its unit",
            "stop_signal = `INT` is not known",
            "release = \"migrate && seed\": `&` needs a shell",
            "health has several of path, tcp and command",
            "health.interval = 2: give a time with its unit",
            "processes.worker.comand is not a key of launchway.toml: there are command, replicas",
            "processes.worker.health asks over the network",
            "health is given beside processes",
        ] {
            assert!(problems.iter().any(|text| text.starts_with(begin)), "{begin}: {problems:#?}");
        }
    }

    /// The examples of the manual, the first of which has every key.
    #[test]
    fn what_the_manual_shows_is_read() {
        let manual = include_str!("../../../docs/launchway-toml.md");
        let examples: Vec<&str> =
            manual.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(examples.len() > 2, "the manual was not understood");
        for example in examples {
            ProjectFile::parse(example).unwrap_or_else(|problems| {
                panic!("{problems:#?} in\n{example}");
            });
        }
    }

    #[test]
    fn how_a_release_is_run_needs_a_release() {
        let problems = ProjectFile::parse("release_idempotent = true").unwrap_err();
        assert!(problems[0].contains("`release`"), "{problems:?}");
    }
}
