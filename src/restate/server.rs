//! The restate-server program: finding it, checking it, configuring it.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

/// The version this launchway is built and tested with.
pub const VERSION: &str = "1.7.12";

const CONFIG: &str = include_str!("../../restate.toml");

/// The program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nowhere.
    #[error(
        "restate-server {VERSION} was not found: run `./dev setup`, or name it with --set restate.binary=PATH"
    )]
    Missing,
    /// Another version.
    #[error(
        "{path} is {found}, but this launchway needs restate-server {VERSION}: install that version, \
         or name another program with --set restate.binary=PATH"
    )]
    Version {
        /// The program.
        path: String,
        /// What it says it is.
        found: String,
    },
    /// It cannot be run.
    #[error("{path} cannot be run: {source}")]
    Run {
        /// The program.
        path: String,
        /// The system's error.
        source: io::Error,
    },
}

/// The server's addresses and directories.
pub struct ServerSettings<'a> {
    /// Where it keeps everything.
    pub base_dir: &'a Path,
    /// Ingress.
    pub ingress: SocketAddr,
    /// Admin API.
    pub admin: SocketAddr,
    /// Other nodes.
    pub node: SocketAddr,
    /// Private key for signing requests to workers.
    pub identity_key: &'a Path,
}

/// The program: as configured, else beside launchway, under `tools/`, in PATH.
///
/// # Errors
/// [`ServerError`], each a sentence with the remedy.
pub fn find(configured: &str) -> Result<PathBuf, ServerError> {
    let path = if configured.is_empty() {
        candidates().into_iter().find(|path| path.is_file()).ok_or(ServerError::Missing)?
    } else {
        PathBuf::from(configured)
    };
    let name = path.display().to_string();
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|source| ServerError::Run { path: name.clone(), source })?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if said == format!("restate-server {VERSION}") {
        Ok(path)
    } else {
        let found = if said.is_empty() { "not a restate-server".to_owned() } else { said };
        Err(ServerError::Version { path: name, found })
    }
}

fn candidates() -> Vec<PathBuf> {
    const PROGRAM: &str = "restate-server";
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let tools = format!("tools/node_modules/@restatedev/restate-server-linux-{arch}/bin/{PROGRAM}");
    let mut found = Vec::new();
    if let Ok(own) = std::env::current_exe() {
        found.extend(own.parent().map(|dir| dir.join(PROGRAM)));
        found.extend(own.ancestors().map(|dir| dir.join(&tools)));
    }
    found.extend(std::env::current_dir().map(|dir| dir.join(&tools)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)));
    found
}

/// Writes the server's configuration and returns its path.
///
/// # Errors
/// The file cannot be written.
pub fn write_config(settings: &ServerSettings<'_>) -> io::Result<PathBuf> {
    let mut config: toml::Table = CONFIG.parse().map_err(io::Error::other)?;
    let text = |value: String| toml::Value::String(value);
    config.insert("base-dir".to_owned(), text(settings.base_dir.display().to_string()));
    config.insert("bind-address".to_owned(), text(settings.node.to_string()));
    config.insert("advertised-address".to_owned(), text(format!("http://{}", settings.node)));
    let mut put = |section: &str, key: &str, value: String| {
        let section =
            config.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let Some(table) = section.as_table_mut() {
            table.insert(key.to_owned(), toml::Value::String(value));
        }
    };
    put("ingress", "bind-address", settings.ingress.to_string());
    put("admin", "bind-address", settings.admin.to_string());
    if let Some(invoker) = config
        .get_mut("worker")
        .and_then(|worker| worker.get_mut("invoker"))
        .and_then(toml::Value::as_table_mut)
    {
        let key = settings.identity_key.display().to_string();
        invoker
            .insert("request-identity-private-key-pem-file".to_owned(), toml::Value::String(key));
    }
    std::fs::create_dir_all(settings.base_dir)?;
    let path = settings.base_dir.join("restate.toml");
    std::fs::write(&path, toml::to_string(&config).map_err(io::Error::other)?)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn another_version_is_refused_with_both_versions_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("restate-server");
        std::fs::write(&path, "#!/bin/sh\necho restate-server 1.0.0\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let error = find(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("1.0.0") && error.contains(VERSION), "{error}");
    }
}
