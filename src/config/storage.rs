//! `[storage]`

use std::net::SocketAddr;

use serde::Deserialize;

use super::{Period, problems::rule, sections::url_or};

/// Seconds; S3 signs no longer.
const LONGEST_SIGNATURE: u64 = 7 * 24 * 3600;

/// See the module.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Storage {
    pub embedded: bool,
    pub bind: SocketAddr,
    pub url: String,
    pub uploader_url: String,
    pub builder_url: String,
    pub bucket: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key_file: String,
    pub upload_url_lifetime: Period,
    pub context_url_lifetime: Period,
    pub max_context_bytes: u64,
}

impl Storage {
    pub(super) fn problems(&self) -> Vec<String> {
        let signed = [
            ("storage.upload_url_lifetime", &self.upload_url_lifetime),
            ("storage.context_url_lifetime", &self.context_url_lifetime),
        ];
        let too_long = signed.into_iter().filter_map(|(key, lifetime)| {
            rule(lifetime.get().as_secs() <= LONGEST_SIGNATURE, || {
                format!("{key} is over 7d: S3 signs at most 7 days")
            })
        });
        let needed = [
            ("storage.url", &self.url, "an external store needs its URL"),
            ("storage.access_key_id", &self.access_key_id, "an external store needs it"),
            (
                "storage.secret_access_key_file",
                &self.secret_access_key_file,
                "name the file that holds the secret",
            ),
        ];
        let missing = needed.into_iter().filter_map(|(key, value, remedy)| {
            rule(self.embedded || !value.is_empty(), || format!("{key} is empty: {remedy}"))
        });
        too_long.chain(missing).collect()
    }

    /// Address for launchway's own calls.
    pub fn url(&self) -> String {
        url_or(&self.url, self.bind)
    }

    /// Address as the CLI reaches the store.
    pub fn uploader_url(&self) -> String {
        if self.uploader_url.is_empty() { self.url() } else { self.uploader_url.clone() }
    }

    /// Address as the builder reaches the store.
    pub fn builder_url(&self) -> String {
        if self.builder_url.is_empty() { self.url() } else { self.builder_url.clone() }
    }
}
