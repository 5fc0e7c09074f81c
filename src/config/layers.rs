//! The layers of a configuration and how they are laid over each other.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, ConfigError};

const DEFAULTS: &str = include_str!("default.toml");
const ENV_PREFIX: &str = "LAUNCHWAY_";

/// What is laid over the defaults.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`; default `config.toml` in the data directory, if present.
    pub file: Option<PathBuf>,
    /// `--set section.key=value`, in order.
    pub set: Vec<String>,
    /// The environment's variables.
    pub env: Vec<(String, String)>,
}

impl Overrides {
    /// With the process's environment.
    pub fn from_environment(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        Self { file, set, env }
    }
}

pub(super) fn merge(data_dir: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    let mut table: Table =
        DEFAULTS.parse().map_err(|error| ConfigError(vec![format!("default.toml: {error}")]))?;
    let mut problems = Vec::new();
    if let Some((path, text)) = file_layer(data_dir, overrides, &mut problems) {
        match text.parse::<Table>() {
            Ok(layer) => overlay(&mut table, layer, &path, &mut problems),
            Err(error) => problems.push(format!("{path}: {error}")),
        }
    }
    for (name, value) in &overrides.env {
        if let Some(key) = key_of_variable(&table, name) {
            assign(&mut table, &key, value, name, &mut problems);
        }
    }
    for text in &overrides.set {
        match text.split_once('=') {
            Some((key, value)) => {
                assign(&mut table, key, value, &format!("--set {text}"), &mut problems)
            }
            None => problems.push(format!("--set {text}: give section.key=value")),
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    table.try_into().map_err(|error| ConfigError(vec![format!("{error}")]))
}

fn file_layer(
    data_dir: &Path,
    overrides: &Overrides,
    problems: &mut Vec<String>,
) -> Option<(String, String)> {
    let wanted = overrides.file.is_some();
    let path = overrides.file.clone().unwrap_or_else(|| data_dir.join("config.toml"));
    match std::fs::read_to_string(&path) {
        Ok(text) => Some((path.display().to_string(), text)),
        Err(error) if wanted || error.kind() != std::io::ErrorKind::NotFound => {
            problems.push(format!("{}: cannot be read: {error}", path.display()));
            None
        }
        Err(_) => None,
    }
}

/// Lays a file's table over the defaults; unknown keys are problems.
fn overlay(table: &mut Table, layer: Table, path: &str, problems: &mut Vec<String>) {
    for (section, value) in layer {
        match (table.get_mut(&section), value) {
            (Some(Value::Table(known)), Value::Table(given)) => {
                for (key, value) in given {
                    match known.get_mut(&key) {
                        Some(slot) => *slot = value,
                        None => {
                            problems.push(format!("{path}: there is no setting {section}.{key}"))
                        }
                    }
                }
            }
            (Some(_), _) => problems.push(format!("{path}: [{section}] must be a section")),
            (None, _) => problems.push(format!("{path}: there is no section [{section}]")),
        }
    }
}

/// `LAUNCHWAY_GATEWAY_BIND` is `gateway.bind`. Variables of the CLI, such as
/// LAUNCHWAY_TOKEN, name no section and are not ours.
fn key_of_variable(table: &Table, name: &str) -> Option<String> {
    let rest = name.strip_prefix(ENV_PREFIX)?.to_ascii_lowercase();
    let (section, key) = rest.split_once('_')?;
    table.get(section)?.as_table()?;
    Some(format!("{section}.{key}"))
}

/// Sets a key from text, read as the type that its default has.
fn assign(table: &mut Table, key: &str, text: &str, source: &str, problems: &mut Vec<String>) {
    let slot = key
        .split_once('.')
        .and_then(|(section, key)| table.get_mut(section)?.as_table_mut()?.get_mut(key));
    let Some(slot) = slot else {
        problems.push(format!("{source}: there is no setting {key}"));
        return;
    };
    let parsed = match slot {
        Value::Integer(_) => text.parse().map(Value::Integer).map_err(|_| "a whole number"),
        Value::Boolean(_) => text.parse().map(Value::Boolean).map_err(|_| "true or false"),
        _ => Ok(Value::String(text.to_owned())),
    };
    match parsed {
        Ok(value) => *slot = value,
        Err(wanted) => problems.push(format!("{source}: {key} must be {wanted}, not `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(file: Option<&str>, env: &[(&str, &str)], set: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = file {
            std::fs::write(dir.path().join("config.toml"), text).unwrap();
        }
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        merge(dir.path(), &Overrides { file: None, set, env })
    }

    #[test]
    fn flags_go_before_environment_before_file() {
        let file =
            "[build]\nconcurrency = 3\n[run]\nkeep_running = 3\n[server]\napex = \"file.test\"";
        let env = [("LAUNCHWAY_BUILD_CONCURRENCY", "4"), ("LAUNCHWAY_RUN_KEEP_RUNNING", "4")];
        let config = with(Some(file), &env, &["build.concurrency=5"]).unwrap();
        assert_eq!(config.build.concurrency, 5);
        assert_eq!(config.run.keep_running, 4);
        assert_eq!(config.server.apex, "file.test");
    }

    #[test]
    fn unknown_and_mistyped_settings_are_named_with_their_source() {
        let error = with(
            Some("[bild]\nx = 1"),
            &[("LAUNCHWAY_BUILD_CONCURRENCY", "many")],
            &["gateway.bnd=1"],
        );
        let problems = error.unwrap_err().0.join("\n");
        for text in ["[bild]", "LAUNCHWAY_BUILD_CONCURRENCY", "whole number", "gateway.bnd"] {
            assert!(problems.contains(text), "{text}: {problems}");
        }
    }

    #[test]
    fn variables_of_the_cli_are_not_settings() {
        assert!(with(None, &[("LAUNCHWAY_TOKEN", "x"), ("LAUNCHWAY_PROJECT", "y")], &[]).is_ok());
    }
}
