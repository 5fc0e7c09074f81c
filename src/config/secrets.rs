//! Secrets are never settings themselves: a setting names a file.

use std::os::unix::fs::PermissionsExt;

use launchway_workflows::secret::Secret;

use super::ConfigError;

/// Of a setting that need not be: empty is none.
pub(super) fn optional(key: &str, file: &str) -> Result<Option<Secret>, ConfigError> {
    if file.is_empty() {
        return Ok(None);
    }
    let secret = read_private(key, file);
    secret.map(|secret| Some(Secret::new(secret))).map_err(|problem| ConfigError(vec![problem]))
}

/// The content of a secret's file, without its line end.
pub(crate) fn read_secret(key: &str, file: &str) -> Result<String, String> {
    match std::fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(format!("{key} = `{file}`: the file is empty")),
        Err(error) => Err(format!("{key} = `{file}`: cannot be read: {error}")),
    }
}

/// The content of a secret's file that only its owner can read. What is mounted
/// under `/run/secrets` is for one container alone, whatever its mode.
pub(super) fn read_private(key: &str, file: &str) -> Result<String, String> {
    let secret = read_secret(key, file)?;
    let mode = std::fs::metadata(file).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o077 != 0 && !file.starts_with("/run/secrets/") {
        return Err(format!(
            "{key} = `{file}`: others may read the file (mode {:03o}): chmod 600 it",
            mode & 0o777
        ));
    }
    Ok(secret)
}
