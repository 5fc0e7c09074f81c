//! Secrets that an installation makes for itself: files of its own, 0600.

use std::{
    io::{self, Write},
    path::Path,
};

use rand::RngCore;

use super::{SetupError, layout::Layout};

/// See the module.
pub(super) struct Secrets {
    /// The API key of the user who runs `up`.
    pub(super) admin_key: String,
    /// Credentials of the embedded object store.
    pub(super) s3_access_key: String,
    pub(super) s3_secret_key: String,
    /// What build secrets are sealed with, unless another is configured.
    pub(super) sealing_key: String,
    /// What gateways show to the control API, unless another is configured.
    pub(super) gateway_key: String,
    /// Tells the containers of this installation from others'.
    pub(super) installation: String,
    /// Public half of the key Restate signs with.
    pub(super) identity_key: String,
}

impl Secrets {
    pub(super) fn ensure(layout: &Layout) -> Result<Self, SetupError> {
        let dir = layout.secrets();
        let secret = |name: &str, prefix: &str, bytes: usize| {
            ensure(&dir.join(name), || format!("{prefix}{}", random(bytes)))
                .map_err(|error| SetupError(format!("{}: {error}", dir.join(name).display())))
        };
        Ok(Self {
            admin_key: secret("admin-key", "lwk_", 32)?,
            s3_access_key: secret("s3-access-key", "LW", 12)?,
            s3_secret_key: secret("s3-secret-key", "", 32)?,
            sealing_key: secret("sealing-key", "", 32)?,
            gateway_key: secret("gateway-key", "lwg_", 32)?,
            installation: secret("installation", "ins-", 8)?,
            identity_key: crate::restate::identity::ensure(&dir.join("restate-identity.pem"))
                .map_err(SetupError::from)?,
        })
    }
}

fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::rng().fill_bytes(&mut random);
    bs58::encode(random).into_string()
}

fn ensure(path: &Path, make: impl Fn() -> String) -> io::Result<String> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        known => return known,
    }
    // Whole or not at all, and the first one's: processes that share the directory may
    // be starting together.
    let dir = path.parent().unwrap_or(Path::new("."));
    // 0600, as every one of these.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    writeln!(file, "{}", make())?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => read(path),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty: remove it")),
        secret => Ok(secret.to_owned()),
    }
}
