//! The registry that images are pushed to: names in it, the login, and whether
//! it has a manifest.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ports::BuildSpec,
    secret::Secret,
};
use oci_client::{
    Reference,
    client::{Client, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};

use crate::http::tls_by_ring;

/// Longest wait for one answer of a registry.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// The hosts under which clients and engines know Docker's own registry.
const DOCKER_HUB: [&str; 4] =
    ["docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"];

/// Who we are to a registry.
#[derive(Debug, Clone)]
pub struct Login {
    /// The registry's host, with its port if it has one.
    pub host: String,
    /// The user, e.g. `x-token`.
    pub username: String,
    /// Its password or token.
    pub password: Secret,
}

impl Login {
    /// As a Docker engine is told it.
    pub(crate) fn for_engine(&self) -> DockerCredentials {
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.expose().to_owned()),
            serveraddress: Some(self.host.clone()),
            ..DockerCredentials::default()
        }
    }

    /// Whether it is for this host, by whichever of its names.
    pub fn is_for(&self, host: &str) -> bool {
        self.host == host
            || (DOCKER_HUB.contains(&host) && DOCKER_HUB.contains(&self.host.as_str()))
    }
}

/// A registry and where in it our images go.
#[derive(Debug, Clone)]
pub struct Registry {
    /// `registry.example.com` or `127.0.0.1:5000`.
    pub host: String,
    /// First part of every repository's name; may be empty.
    pub prefix: String,
    /// It speaks HTTP.
    pub plain_http: bool,
    /// `None`: it lets everybody in.
    pub login: Option<Login>,
    /// Keep the layers of builds in it, for other builders.
    pub cache: bool,
}

/// Where layers of earlier builds are.
#[derive(Debug, Clone)]
pub struct CacheRef {
    /// With tag.
    pub(crate) reference: String,
    /// The registry speaks HTTP.
    pub(crate) plain_http: bool,
}

impl Registry {
    /// Repository and tag of a build. The tag is the build's id, so that the
    /// image is found again and no other build ever has its name.
    pub(crate) fn reference(&self, spec: &BuildSpec) -> String {
        format!("{}:{}", self.repository(spec), tag(spec))
    }

    /// Where the layers of a project's builds are kept.
    pub(crate) fn cache(&self, spec: &BuildSpec) -> Option<CacheRef> {
        self.cache.then(|| CacheRef {
            reference: format!("{}:buildcache", self.repository(spec)),
            plain_http: self.plain_http,
        })
    }

    /// Workspace and project are path segments of their own: slugs may contain
    /// hyphens, so that joined by one they could be another pair's.
    fn repository(&self, spec: &BuildSpec) -> String {
        let prefix = self.prefix.trim_matches('/');
        let parts = [&self.host, prefix, spec.workspace_id.as_str(), &spec.project_slug];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("/")
    }

    /// The digest of the manifest that the reference names, if it has one.
    ///
    /// # Errors
    /// `registry-auth` or `registry-unavailable`.
    pub(crate) async fn digest_of(&self, reference: &str) -> Result<Option<String>, StepError> {
        let parsed: Reference = reference.parse().map_err(|error| {
            let message = format!("`{reference}` is not an image reference: {error}");
            StepError::permanent(ErrorCode::Internal, message)
        })?;
        let (client, auth) = (self.client(), self.auth());
        let asking = client.fetch_manifest_digest(&parsed, &auth);
        match tokio::time::timeout(ANSWER_LIMIT, asking).await {
            Ok(Ok(digest)) => Ok(Some(digest)),
            Ok(Err(error)) if is_absent(&error) => Ok(None),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.unavailable("it does not answer within 15 s")),
        }
    }

    /// The only port that an image exposes; `None`: none, several, or there is no
    /// such image.
    ///
    /// # Errors
    /// `registry-auth` or `registry-unavailable`.
    pub(crate) async fn exposed_port(&self, reference: &str) -> Result<Option<u16>, StepError> {
        let Ok(parsed) = reference.parse::<Reference>() else { return Ok(None) };
        let (client, auth) = (self.client(), self.auth());
        let asking = client.pull_manifest_and_config(&parsed, &auth);
        match tokio::time::timeout(ANSWER_LIMIT, asking).await {
            Ok(Ok((_, _, config))) => Ok(only_port(&config)),
            Ok(Err(error)) if is_absent(&error) => Ok(None),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.unavailable("it does not answer within 15 s")),
        }
    }

    fn auth(&self) -> RegistryAuth {
        match &self.login {
            None => RegistryAuth::Anonymous,
            Some(login) => {
                let password = login.password.expose().to_owned();
                RegistryAuth::Basic(login.username.clone(), password)
            }
        }
    }

    /// Checks that the registry has exactly this manifest.
    ///
    /// # Errors
    /// `registry-unavailable` too when it has lost or replaced it.
    pub(crate) async fn verify(&self, reference: &str, digest: &str) -> Result<(), StepError> {
        match self.digest_of(reference).await? {
            Some(found) if found == digest => Ok(()),
            Some(found) => {
                let said = format!("`{reference}` is {found} there, not {digest} as was built");
                Err(self.unavailable(&said))
            }
            None => Err(self.unavailable(&format!("it has no manifest `{reference}`"))),
        }
    }

    fn client(&self) -> Client {
        tls_by_ring();
        let protocol = if self.plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
        Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(ANSWER_LIMIT),
            read_timeout: Some(ANSWER_LIMIT),
            ..ClientConfig::default()
        })
    }

    fn failed(&self, error: &OciDistributionError) -> StepError {
        match error {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => self.refused(),
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|error| {
                    matches!(error.code, OciErrorCode::Unauthorized | OciErrorCode::Denied)
                }) =>
            {
                self.refused()
            }
            error => self.unavailable(&error.to_string()),
        }
    }

    fn refused(&self) -> StepError {
        let who = match &self.login {
            Some(login) => format!("the login `{}`", login.username),
            None => "an anonymous client".to_owned(),
        };
        let message = format!("the registry {} refuses {who}", self.host);
        StepError::permanent(ErrorCode::RegistryAuth, message)
    }

    fn unavailable(&self, why: &str) -> StepError {
        let message = format!("the registry {} failed: {why}", self.host);
        StepError::transient(ErrorCode::RegistryUnavailable, message)
    }
}

fn only_port(config: &str) -> Option<u16> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let exposed = config["config"]["ExposedPorts"].as_object()?;
    let mut ports = exposed.keys().filter_map(|port| port.strip_suffix("/tcp")?.parse().ok());
    ports.next().filter(|_| ports.next().is_none())
}

/// The tag of a build's image.
pub(crate) fn tag(spec: &BuildSpec) -> String {
    spec.build_id.as_str().replace('_', "-")
}

fn is_absent(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| {
                matches!(
                    error.code,
                    OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                )
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::only_port;

    #[test]
    fn one_exposed_port_is_the_port_and_several_are_none() {
        let config = |ports: &str| format!(r#"{{"config": {{"ExposedPorts": {{{ports}}}}}}}"#);
        assert_eq!(only_port(&config(r#""3000/tcp": {}, "53/udp": {}"#)), Some(3000));
        assert_eq!(only_port(&config(r#""3000/tcp": {}, "4000/tcp": {}"#)), None);
        assert_eq!(only_port("{}"), None);
    }
}
