//! The key pair with which Restate signs its requests to the worker.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};

/// The public half of the key at `path`, as the SDK wants it
/// (`publickeyv1_…`); a new private key (PKCS#8 PEM, 0600) where there is none.
///
/// # Errors
/// The file cannot be read or written, or holds something else.
pub fn ensure(path: &Path) -> io::Result<String> {
    let invalid = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let key = match std::fs::read_to_string(path) {
        Ok(pem) => SigningKey::from_pkcs8_pem(&pem).map_err(|error| invalid(&error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = SigningKey::from_bytes(&rand::random());
            let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| invalid(&error))?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(pem.as_bytes())?;
            key
        }
        Err(error) => return Err(error),
    };
    let public = bs58::encode(key.verifying_key().as_bytes()).into_string();
    Ok(format!("publickeyv1_{public}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        let first = ensure(&path).unwrap();
        assert_eq!(ensure(&path).unwrap(), first);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.starts_with("publickeyv1_"));
    }
}
