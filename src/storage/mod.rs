//! The object store: one S3 client for any S3, and an S3 of our own for one
//! machine.

mod client;
mod embedded;
mod guard;
#[cfg(test)]
pub(crate) mod tests;
mod verified;

pub use client::{PresignedPut, S3Storage, StorageError, StorageSettings};
pub use embedded::{EmbeddedError, EmbeddedS3, EmbeddedSettings};

use launchway_workflows::ids::ProjectId;

/// Prefix of all build contexts.
const CONTEXTS: &str = "contexts";

/// The object key of a new context: under the project's prefix, with the
/// content's hash for people and a random part against collisions.
pub fn context_key(project: &ProjectId, sha256: &str) -> String {
    let hash: String = sha256.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    format!("{CONTEXTS}/{project}/{hash}-{}.tar.gz", uuid::Uuid::new_v4().simple())
}

#[cfg(test)]
mod key_tests {
    use super::*;

    /// Checklist 24, 25.
    #[test]
    fn two_contexts_of_the_same_content_have_two_keys_under_the_project() {
        let project = ProjectId::generate();
        let keys = [context_key(&project, "ab/../c"), context_key(&project, "ab/../c")];
        assert_ne!(keys[0], keys[1]);
        for key in keys {
            assert!(key.starts_with(&format!("contexts/{project}/abc-")), "{key}");
            assert!(!key.contains(".."), "{key}");
        }
    }
}
