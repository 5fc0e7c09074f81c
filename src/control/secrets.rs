//! Build secrets of a submission: sealed before anything else sees them.

use std::collections::{BTreeMap, HashMap};

use launchway_workflows::{ids::WorkspaceId, model::Sealed, secret::Secret};
use tonic::Status;

use crate::vault::Vault;

/// Most secrets of one build, and the bytes of one: far above tokens and keys.
const MAX_SECRETS: usize = 32;
const MAX_BYTES: usize = 64 * 1024;
const MAX_ID: usize = 64;

/// Seals what a caller has given.
pub(super) fn seal(
    vault: &Vault,
    workspace: &WorkspaceId,
    given: HashMap<String, String>,
) -> Result<BTreeMap<String, Sealed>, Status> {
    if given.len() > MAX_SECRETS {
        return Err(Status::invalid_argument(format!(
            "{} build secrets: give at most {MAX_SECRETS}",
            given.len()
        )));
    }
    given.into_iter().map(|(id, secret)| seal_one(vault, workspace, id, secret)).collect()
}

fn seal_one(
    vault: &Vault,
    workspace: &WorkspaceId,
    id: String,
    secret: String,
) -> Result<(String, Sealed), Status> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(allowed) {
        return Err(Status::invalid_argument(format!(
            "build secret `{id}`: give an id of at most {MAX_ID} letters, digits, `.`, `_` and `-`"
        )));
    }
    if secret.len() > MAX_BYTES {
        return Err(Status::invalid_argument(format!(
            "build secret `{id}` has {} bytes: give at most {MAX_BYTES}",
            secret.len()
        )));
    }
    let sealed = vault.seal(workspace, &id, &Secret::new(secret)).map_err(Status::internal)?;
    Ok((id, sealed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_rule_is_named_without_the_secret() {
        let vault = Vault::new(&Secret::new("key"));
        let refused = |given: HashMap<String, String>| {
            seal(&vault, &WorkspaceId::local(), given).unwrap_err().message().to_owned()
        };
        let of = |id: &str, text: String| HashMap::from([(id.to_owned(), text)]);
        assert!(refused(of("a/b", String::new())).contains("`a/b`"));
        let large = refused(of("large", "s3cret".repeat(20_000)));
        assert!(large.contains("`large`") && !large.contains("s3cret"), "{large}");
        let many = (0..40).map(|number| (number.to_string(), String::new())).collect();
        assert!(refused(many).contains("40"));
    }
}
