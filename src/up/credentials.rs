//! The CLI's credentials file: which servers there are, and the key for each.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// URL of the server that is meant where none is named.
    #[serde(default)]
    pub default: String,
    /// By URL.
    #[serde(default)]
    pub servers: BTreeMap<String, Server>,
}

/// A server's entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    /// API key.
    pub token: String,
}

/// `$XDG_CONFIG_HOME/launchway/credentials.toml`.
pub fn config_path() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".config");
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).unwrap_or_else(home);
    config.join("launchway/credentials.toml")
}

/// Reads the file; none is empty.
///
/// # Errors
/// It cannot be read or is not what it should be.
pub fn read(path: &Path) -> io::Result<Credentials> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Credentials::default()),
        Err(error) => Err(error),
    }
}

/// Adds or replaces a server and makes it the default; 0600.
pub(super) fn add(path: &Path, url: &str, token: &str) -> io::Result<()> {
    let mut credentials = read(path)?;
    url.clone_into(&mut credentials.default);
    credentials.servers.insert(url.to_owned(), Server { token: token.to_owned() });
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(toml::to_string(&credentials).map_err(io::Error::other)?.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn other_servers_stay_and_the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("launchway/credentials.toml");
        add(&path, "http://a", "one").unwrap();
        add(&path, "http://b", "two").unwrap();
        let read = read(&path).unwrap();
        assert_eq!(
            (read.default.as_str(), read.servers["http://a"].token.as_str()),
            ("http://b", "one")
        );
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
