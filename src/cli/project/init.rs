//! `init`: a first `launchway.toml`, out of what is in the directory.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::Path,
};

use serde_json::json;

use super::directory_name;
use crate::cli::{
    Exit, Failure,
    args::Global,
    render::{Renderer, emit, print},
};

/// Where a Dockerfile is looked for.
const DOCKERFILES: [&str; 4] =
    ["Dockerfile", "deploy/Dockerfile", "docker/Dockerfile", "build/Dockerfile"];

pub(in crate::cli) fn init(global: &Global, dir: &Path) -> Result<Exit, Failure> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", dir.display())));
    }
    let name = global.project.clone().unwrap_or_else(|| directory_name(dir));
    launchway_workflows::names::check_slug("project", &name, 30)
        .map_err(|error| Failure::usage(format!("{error}; name it with --project")))?;
    let dockerfile = DOCKERFILES.into_iter().find(|path| dir.join(path).is_file());
    let port = dockerfile.and_then(|path| exposed(&dir.join(path)));
    let text = content(&name, dockerfile, port);
    let path = dir.join("launchway.toml");
    let made = OpenOptions::new().write(true).create_new(true).open(&path);
    made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let shown = path.display();
        match error.kind() {
            ErrorKind::AlreadyExists => Failure::new(
                Exit::Refused,
                format!("{shown} exists already: edit it, or remove it first"),
            ),
            _ => Failure::usage(format!("{shown} cannot be written: {error}")),
        }
    })?;
    if dockerfile.is_none() {
        Renderer::for_people().warning(
            "there is no Dockerfile here: add one, or name it with `dockerfile` in launchway.toml",
        );
    }
    match global.json {
        true => emit(&json!({"type": "result", "file": path, "project": name})),
        false => print(&path.display().to_string()),
    }
    Ok(Exit::Success)
}

/// The only port that a Dockerfile exposes.
fn exposed(dockerfile: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(dockerfile).ok()?;
    let mut ports = text
        .lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(|(word, _)| word.eq_ignore_ascii_case("EXPOSE"))
        .flat_map(|(_, ports)| ports.split_whitespace())
        .filter_map(|port| port.trim_end_matches("/tcp").parse().ok());
    let first = ports.next()?;
    ports.all(|port: u16| port == first).then_some(first)
}

fn content(project: &str, dockerfile: Option<&str>, port: Option<u16>) -> String {
    let dockerfile = match dockerfile {
        Some("Dockerfile") | None => "# dockerfile = \"Dockerfile\"".to_owned(),
        Some(path) => format!("dockerfile = \"{path}\""),
    };
    let port = match port {
        Some(port) => {
            format!("# The Dockerfile exposes it; another one goes before that.\n# port = {port}")
        }
        None => "# Else the image's only EXPOSE, else 8080. The application finds it in PORT.\n\
                 # port = 3000"
            .to_owned(),
    };
    format!(
        r#"# How this directory is deployed: `launchway deploy`. Every key may be left out;
# docs/launchway-toml.md of launchway explains each of them.
project = "{project}"
# Where it is deployed unless --env or --prod says otherwise.
# environment = "preview"
{dockerfile}
# target = "runtime"
{port}

# Else what `launchway scale` has set for the environment, else one without limits.
# replicas = 2
# Thousandths of a core, and MiB, of each instance.
# cpu = 500
# memory = 256

# Runs once in the new image before any instance of it starts.
# release = "bin/migrate up"

# When an instance is ready: any HTTP answer below 500 on `path`; or `tcp = true`,
# or `command = "bin/alive"`.
# [health]
# path = "/"
# start_period = "60s"

# Several processes of the image, each with its command; those with a port, and
# `web`, get requests.
# [processes.web]
# port = 3000
# [processes.worker]
# command = "bin/work"
"#
    )
}

/// The file as it was written can be read.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::project::ProjectFile;

    fn is_example(line: &str) -> bool {
        line.starts_with('[') || line.split(' ').nth(1) == Some("=")
    }

    #[test]
    fn what_is_written_is_a_file_that_can_be_read_with_and_without_its_examples() {
        let written = content("shop", Some("deploy/Dockerfile"), Some(3000));
        let file = ProjectFile::parse(&written).unwrap();
        assert_eq!(file.project.as_deref(), Some("shop"));
        assert_eq!(file.dockerfile.as_deref(), Some("deploy/Dockerfile"));
        let examples: String = content("shop", None, None)
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(example) if is_example(example) => example,
                _ => line,
            })
            // Beside processes there is no port and no health of the whole.
            .take_while(|line| !line.starts_with("[processes"))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = ProjectFile::parse(&examples).unwrap_or_else(|problems| {
            panic!("{problems:#?} in\n{examples}");
        });
        assert_eq!((file.run.port, file.run.replicas), (3000, 2));
        assert!(file.run.release.is_some() && file.run.health.is_some());
    }

    #[test]
    fn the_only_port_of_a_dockerfile_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Dockerfile");
        for (text, port) in [
            ("FROM scratch\nEXPOSE 3000\n", Some(3000)),
            ("expose 3000/tcp\n", Some(3000)),
            ("EXPOSE 3000 4000\n", None),
            ("EXPOSE $PORT\n", None),
            ("FROM scratch\n", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(exposed(&path), port, "{text}");
        }
    }
}
