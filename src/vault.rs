//! Seals what must be kept and must not be seen: build secrets travel through
//! submissions, and lie in the database like the values of variables, only like
//! this.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use launchway_workflows::{ids::WorkspaceId, model::Sealed, ports::Unsealer, secret::Secret};
use rand::RngCore;
use sha2::{Digest, Sha256};

const NONCE: usize = 24;

/// Seals and opens with one key. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    cipher: XChaCha20Poly1305,
    /// Tells a text of another key from a damaged one.
    key_id: String,
}

impl Vault {
    /// With the key that a text of any length stands for.
    pub fn new(key: &Secret) -> Self {
        let bytes: [u8; 32] = Sha256::digest(key.expose()).into();
        let id = Sha256::digest(bytes);
        let key_id = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self { cipher: XChaCha20Poly1305::new(&bytes.into()), key_id }
    }

    /// Seals a secret for one workspace and one name: nobody can give it another.
    ///
    /// # Errors
    /// The text is too long for the cipher (256 GiB).
    pub fn seal(
        &self,
        workspace: &WorkspaceId,
        name: &str,
        secret: &Secret,
    ) -> Result<Sealed, String> {
        let mut nonce = [0; NONCE];
        rand::rng().fill_bytes(&mut nonce);
        let aad = bound_to(workspace, name);
        let payload = Payload { msg: secret.expose().as_bytes(), aad: &aad };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| "the secret cannot be sealed".to_owned())?;
        let text = BASE64.encode([nonce.as_slice(), &sealed].concat());
        Ok(Sealed(format!("{}.{text}", self.key_id)))
    }

    fn opened(&self, workspace: &WorkspaceId, name: &str, sealed: &Sealed) -> Result<Secret, &str> {
        let (key_id, text) = sealed.0.split_once('.').ok_or("it is not a sealed secret")?;
        if key_id != self.key_id {
            return Err("it was sealed with another key: see server.sealing_key_file");
        }
        let bytes = BASE64.decode(text).map_err(|_| "it is damaged")?;
        let (nonce, msg) = bytes.split_first_chunk::<NONCE>().ok_or("it is damaged")?;
        let payload = Payload { msg, aad: &bound_to(workspace, name) };
        let opened = self
            .cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| "it is damaged, or was sealed for another workspace or name")?;
        String::from_utf8(opened).map(Secret::new).map_err(|_| "it is damaged")
    }
}

impl Unsealer for Vault {
    fn open(&self, workspace: &WorkspaceId, name: &str, sealed: &Sealed) -> Result<Secret, String> {
        self.opened(workspace, name, sealed).map_err(str::to_owned)
    }
}

fn bound_to(workspace: &WorkspaceId, name: &str) -> Vec<u8> {
    format!("{workspace}\0{name}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_workspace_and_name_open_it() {
        let vault = Vault::new(&Secret::new("key one"));
        let here = WorkspaceId::local();
        let secret = Secret::new("a token\nof two lines");
        let sealed = vault.seal(&here, "npm", &secret).unwrap();
        assert!(!sealed.0.contains("token"), "{sealed:?}");
        assert_ne!(sealed.0, vault.seal(&here, "npm", &secret).unwrap().0, "a nonce is reused");
        assert!(vault.open(&here, "npm", &sealed).unwrap() == secret);
        let there: WorkspaceId = "elsewhere".to_owned().try_into().unwrap();
        let other = Vault::new(&Secret::new("key two"));
        for (what, opened) in [
            ("another name", vault.open(&here, "pip", &sealed)),
            ("another workspace", vault.open(&there, "npm", &sealed)),
            ("another key", other.open(&here, "npm", &sealed)),
            ("a damaged text", vault.open(&here, "npm", &Sealed(format!("{}A", sealed.0)))),
            ("any text", vault.open(&here, "npm", &Sealed("plain".to_owned()))),
        ] {
            assert!(opened.is_err(), "{what} opened it");
        }
    }
}
