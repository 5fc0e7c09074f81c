//! Ids are types: a wrong id does not compile, and a printed one says what it
//! is. An id is a prefix and 26 characters of Crockford base 32 over a UUIDv7,
//! so ids of one kind sort by the time they were made.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ENCODED_LEN: usize = 26;

/// The text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{input}` is not a {kind} id: expected `{prefix}_` and 26 lower-case letters or digits")]
pub struct InvalidId {
    /// What was given.
    pub input: String,
    /// The kind that was wanted, e.g. `deployment`.
    pub kind: &'static str,
    /// Its prefix, e.g. `dep`.
    pub prefix: &'static str,
}

fn encode(uuid: uuid::Uuid) -> String {
    let mut rest = uuid.as_u128();
    let mut out = [0u8; ENCODED_LEN];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    out.iter().map(|byte| char::from(*byte)).collect()
}

fn is_encoded(text: &str) -> bool {
    text.len() == ENCODED_LEN && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $name(String);

        impl $name {
            /// What an id of this kind starts with, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id. Only for closures of steps and for callers outside
            /// handlers: a handler that is replayed would get another one.
            #[allow(clippy::disallowed_methods, clippy::new_without_default)]
            pub fn generate() -> Self {
                Self(format!("{}_{}", $prefix, encode(uuid::Uuid::now_v7())))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The random end of the id, for short unique suffixes of names.
            pub fn short(&self) -> &str {
                &self.0[self.0.len() - 6..]
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(input: &str) -> Result<Self, InvalidId> {
                match input.split_once('_') {
                    Some(($prefix, encoded)) if is_encoded(encoded) => Ok(Self(input.to_owned())),
                    _ => Err(InvalidId { input: input.to_owned(), kind: $kind, prefix: $prefix }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(input: String) -> Result<Self, InvalidId> { input.parse() }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self { id.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}

ids! {
    /// One submission of one source to one environment.
    DeploymentId, "dep", "deployment";
    /// One build of one image; the image's tag carries it.
    BuildId, "bld", "build";
    /// An application.
    ProjectId, "prj", "project";
    /// An environment of a project, such as preview or production.
    EnvironmentId, "env", "environment";
    /// An API key (the public part, never the secret).
    ApiKeyId, "key", "API key";
}

/// The owner of projects; `local` on one machine. Lower-case letters, digits
/// and inner hyphens, at most 24 characters, because hostnames end with it.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct WorkspaceId(String);

impl WorkspaceId {
    /// The only workspace of a single-machine set-up.
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for WorkspaceId {
    type Error = crate::names::InvalidName;
    fn try_from(input: String) -> Result<Self, Self::Error> {
        crate::names::check_slug("workspace", &input, 24)?;
        Ok(Self(input))
    }
}

impl From<WorkspaceId> for String {
    fn from(id: WorkspaceId) -> Self {
        id.0
    }
}

/// Restate's id of the invocation that owns a deployment's row. Never made
/// here, and never part of a journal entry: a restarted attempt has another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InvocationId(pub String);

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_parses_as_its_own_kind_only() {
        let id = DeploymentId::generate();
        assert_eq!(id.as_str().parse::<DeploymentId>().unwrap(), id);
        let error = id.as_str().parse::<BuildId>().unwrap_err();
        assert!(error.to_string().contains("is not a build id"), "{error}");
    }

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let first = BuildId::generate();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(first < BuildId::generate());
    }

    #[test]
    fn refuses_what_could_leave_an_object_prefix() {
        for input in
            ["", "dep_", "dep_../../etc/passwd", "prj_0123", "dep_0123456789ABCDEFGHJKMNPQRS"]
        {
            assert!(input.parse::<DeploymentId>().is_err(), "{input}");
        }
    }
}
