//! The S3 client.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    presigning::PresigningConfig,
    primitives::ByteStream,
};
use aws_smithy_http_client::{Builder as HttpBuilder, tls};
use base64::Engine;
use bytes::Bytes;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ports::{ContextStore, ObjectMeta, SignedUrl, StoredContext},
};
use tracing::Instrument;

/// Longest single call that does not carry a body.
const CALL: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Objects of one listing: bounds its memory. The oldest are not always among
/// them, but what is removed makes room for others.
pub const MAX_LISTED: usize = 50_000;

/// Where the store is and how to enter it.
#[derive(Clone)]
pub struct StorageSettings {
    /// For our own calls.
    pub url: String,
    /// As the uploader reaches it; part of what is signed.
    pub uploader_url: String,
    /// As the builder reaches it; part of what is signed.
    pub builder_url: String,
    /// The bucket; created when absent.
    pub bucket: String,
    /// Any name for stores that know no regions.
    pub region: String,
    /// Public half of the credentials.
    pub access_key_id: String,
    /// Secret half.
    pub secret_access_key: String,
    /// Lifetime of an upload URL; also what callers are told.
    pub upload_url_lifetime: Duration,
}

/// The store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No such object.
    #[error("the object store has no `{0}`")]
    NotFound(String),
    /// Anything else.
    #[error("object store: {action} failed: {reason}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The store's code and message.
        reason: String,
    },
}

/// An upload that the holder of the URL may do, and no other.
#[derive(Debug, Clone)]
pub struct PresignedPut {
    /// Carries a signature: never logged.
    pub url: SignedUrl,
    /// Headers the upload must carry.
    pub headers: BTreeMap<String, String>,
    /// Until then, from now.
    pub expires_in: Duration,
}

/// An S3 bucket.
#[derive(Clone)]
pub struct S3Storage {
    own: Client,
    uploader: Client,
    builder: Client,
    settings: StorageSettings,
}

impl S3Storage {
    /// A client; no connection is made yet.
    pub fn new(settings: StorageSettings) -> Self {
        let client = |url: &str| Client::from_conf(config(&settings, url));
        Self {
            own: client(&settings.url),
            uploader: client(&settings.uploader_url),
            builder: client(&settings.builder_url),
            settings,
        }
    }

    /// Creates the bucket where it is absent. Bounded by the call's timeouts.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    pub async fn ensure_bucket(&self) -> Result<(), StorageError> {
        let bucket = &self.settings.bucket;
        if self.own.head_bucket().bucket(bucket).send().await.is_ok() {
            return Ok(());
        }
        let created = self.own.create_bucket().bucket(bucket).send().await;
        match created {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            Err(error) => Err(failed("creating the bucket", &error)),
        }
    }

    /// A PUT of exactly this body: its length and hash are part of the
    /// signature.
    ///
    /// # Errors
    /// The hash is not SHA-256 in hex, or signing fails.
    pub async fn presign_put(
        &self,
        key: &str,
        size: u64,
        sha256_hex: &str,
    ) -> Result<PresignedPut, StorageError> {
        let invalid =
            |reason: String| StorageError::Failed { action: "signing the upload", reason };
        let checksum = base64::engine::general_purpose::STANDARD.encode(
            from_hex(sha256_hex)
                .ok_or_else(|| invalid(format!("`{sha256_hex}` is not a SHA-256 in hex")))?,
        );
        let length = i64::try_from(size).map_err(|error| invalid(error.to_string()))?;
        let signed = self
            .uploader
            .put_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .content_length(length)
            .checksum_sha256(checksum)
            .presigned(lifetime(self.settings.upload_url_lifetime)?)
            .await
            .map_err(|error| failed("signing the upload", &error))?;
        let headers = signed
            .headers()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .filter(|(name, _)| name != "host" && name != "content-length")
            .collect();
        Ok(PresignedPut {
            url: SignedUrl(signed.uri().to_owned()),
            headers,
            expires_in: self.settings.upload_url_lifetime,
        })
    }

    /// Writes an object.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        let put = self.own.put_object().bucket(&self.settings.bucket).key(key);
        let sent = put.body(ByteStream::from(body)).send();
        let span = tracing::debug_span!("s3 put", key);
        sent.instrument(span).await.map(drop).map_err(|error| failed("writing", &error))
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], or the store does not answer.
    pub async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        let get = self.own.get_object().bucket(&self.settings.bucket).key(key).send();
        let object =
            get.instrument(tracing::debug_span!("s3 get", key)).await.map_err(|error| {
                if error.code() == Some("NoSuchKey") {
                    return StorageError::NotFound(key.to_owned());
                }
                failed("reading", &error)
            })?;
        let body = object.body.collect().await;
        body.map(|body| body.into_bytes())
            .map_err(|error| StorageError::Failed { action: "reading", reason: error.to_string() })
    }

    /// Removes an object; an absent one is fine.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let delete = self.own.delete_object().bucket(&self.settings.bucket).key(key).send();
        let span = tracing::debug_span!("s3 delete", key);
        delete.instrument(span).await.map(drop).map_err(|error| failed("deleting", &error))
    }

    /// What there is under a prefix, by key; at most [`MAX_LISTED`].
    ///
    /// # Errors
    /// The store does not answer or refuses.
    pub async fn list(&self, prefix: &str) -> Result<Vec<StoredContext>, StorageError> {
        let mut pages = self
            .own
            .list_objects_v2()
            .bucket(&self.settings.bucket)
            .prefix(prefix)
            .into_paginator()
            .send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed("listing", &error))?;
            keys.extend(page.contents().iter().filter_map(|object| {
                Some(StoredContext {
                    key: object.key()?.to_owned(),
                    size: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0),
                    written_at: object.last_modified().map_or(i64::MAX, |at| at.secs() * 1000),
                })
            }));
            if keys.len() >= MAX_LISTED {
                break;
            }
        }
        Ok(keys)
    }

    /// Size of an object; `None` when there is none.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, StorageError> {
        let head = self.own.head_object().bucket(&self.settings.bucket).key(key).send();
        match head.instrument(tracing::debug_span!("s3 head", key)).await {
            Ok(head) => Ok(Some(u64::try_from(head.content_length().unwrap_or(0)).unwrap_or(0))),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => {
                Ok(None)
            }
            Err(error) => Err(failed("looking", &error)),
        }
    }

    /// The addresses for uploader and builder that do not answer from here,
    /// by their settings. It may be that only the other side reaches them.
    pub async fn unreachable(&self) -> Vec<StorageError> {
        let mut found = Vec::new();
        for (action, client) in [
            ("reaching storage.uploader_url", &self.uploader),
            ("reaching storage.builder_url", &self.builder),
        ] {
            let head = client.head_bucket().bucket(&self.settings.bucket).send().await;
            found.extend(head.err().map(|error| failed(action, &error)));
        }
        found
    }
}

#[async_trait]
impl ContextStore for S3Storage {
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StepError> {
        let size = self.size(key).await.map_err(|error| transient(&error))?;
        Ok(size.map(|size| ObjectMeta { size }))
    }

    async fn presign_get(&self, key: &str, valid: Duration) -> Result<SignedUrl, StepError> {
        let signed = self
            .builder
            .get_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .presigned(lifetime(valid).map_err(|error| transient(&error))?)
            .await
            .map_err(|error| transient(&failed("signing the download", &error)))?;
        Ok(SignedUrl(signed.uri().to_owned()))
    }

    async fn stored(&self) -> Result<Vec<StoredContext>, StepError> {
        self.list(&format!("{}/", super::CONTEXTS)).await.map_err(|error| transient(&error))
    }

    async fn delete(&self, key: &str) -> Result<(), StepError> {
        S3Storage::delete(self, key).await.map_err(|error| transient(&error))
    }
}

fn transient(error: &StorageError) -> StepError {
    StepError::transient(ErrorCode::StorageUnavailable, error.to_string())
}

fn lifetime(valid: Duration) -> Result<PresigningConfig, StorageError> {
    PresigningConfig::expires_in(valid)
        .map_err(|error| StorageError::Failed { action: "signing", reason: error.to_string() })
}

fn failed<E, R>(action: &'static str, error: &SdkError<E, R>) -> StorageError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let reason = match (error.code(), error.message()) {
        (Some(code), message) => format!("{code}: {}", message.unwrap_or_default()),
        (None, _) => aws_sdk_s3::error::DisplayErrorContext(error).to_string(),
    };
    StorageError::Failed { action, reason }
}

fn config(settings: &StorageSettings, url: &str) -> aws_sdk_s3::Config {
    let credentials = Credentials::new(
        &settings.access_key_id,
        &settings.secret_access_key,
        None,
        None,
        "launchway",
    );
    let http = HttpBuilder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .read_timeout(CALL)
        .operation_attempt_timeout(CALL)
        .build();
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new(settings.region.clone()))
        .credentials_provider(credentials)
        .http_client(http)
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts)
        .build()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits
        .then(|| {
            (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
        })
        .flatten()
}
