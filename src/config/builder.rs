//! `[builder]`, `[buildkit]`, `[depot]`, `[registry]`: what builds, and where
//! images go. Checked as a whole; files are read only by who builds or pulls.

use std::{net::IpAddr, path::PathBuf};

use launchway_workflows::secret::Secret;
use reqwest::Url;
use serde::Deserialize;

use super::{Config, ConfigError, secrets::read_private};
use crate::{
    builder::{Address, DepotAccount, Tls, check_buildkit, check_depot, check_docker},
    registry::{Login, Registry},
};

/// Where Depot's images are, and who everybody is there.
const DEPOT_REGISTRY: &str = "registry.depot.dev";
const DEPOT_USER: &str = "x-token";

/// What builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The Docker engine.
    Docker,
    /// A buildkitd.
    Buildkit,
    /// Depot.
    Depot,
}

/// `[builder]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Builder {
    pub backend: Backend,
}

/// `[buildkit]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Buildkit {
    pub address: String,
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
    pub server_name: String,
}

/// `[depot]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Depot {
    pub api_url: String,
    pub token_file: String,
    pub organization: String,
    pub region: String,
}

/// `[registry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RegistrySection {
    pub host: String,
    pub repository: String,
    pub username: String,
    pub password_file: String,
    pub plain_http: bool,
    pub cache: bool,
}

/// A builder, with everything that it needs.
#[derive(Debug, Clone)]
pub enum BuilderSettings {
    /// The Docker engine; without a registry its images stay in it.
    Docker(Option<Registry>),
    /// A buildkitd, which can only push.
    Buildkit(Address, Registry),
    /// Depot, whose machines push to its registry.
    Depot(DepotAccount),
}

impl BuilderSettings {
    /// What it is, once it has answered.
    ///
    /// # Errors
    /// One sentence with the remedy.
    pub async fn check(&self) -> Result<String, String> {
        match self {
            Self::Docker(registry) => check_docker(registry.as_ref()).await,
            Self::Buildkit(address, registry) => check_buildkit(address, registry).await,
            Self::Depot(account) => check_depot(account).await,
        }
    }
}

impl Config {
    /// The builder, with the secrets of its files.
    ///
    /// # Errors
    /// Every file that cannot be read or that others may read.
    pub fn builder(&self) -> Result<BuilderSettings, ConfigError> {
        let mut problems = Vec::new();
        let settings = match self.builder.backend {
            Backend::Docker => BuilderSettings::Docker(self.read_registry(&mut problems)),
            Backend::Buildkit => {
                let address = self.read_address(&mut problems);
                let registry = self.read_registry(&mut problems);
                match (address, registry) {
                    (Some(address), Some(registry)) => BuilderSettings::Buildkit(address, registry),
                    _ => return Err(ConfigError(problems)),
                }
            }
            Backend::Depot => {
                let token = secret("depot.token_file", &self.depot.token_file, &mut problems);
                match (token, self.read_registry(&mut problems)) {
                    (Some(token), Some(registry)) => BuilderSettings::Depot(DepotAccount {
                        api_url: self.depot.api_url.trim_end_matches('/').to_owned(),
                        token,
                        organization: some(&self.depot.organization),
                        region: self.depot.region.clone(),
                        registry,
                    }),
                    _ => return Err(ConfigError(problems)),
                }
            }
        };
        if problems.is_empty() { Ok(settings) } else { Err(ConfigError(problems)) }
    }

    /// Where images are pulled from, for whoever runs them.
    ///
    /// # Errors
    /// The password's file cannot be read, or others may read it.
    pub fn registry(&self) -> Result<Option<Registry>, ConfigError> {
        let mut problems = Vec::new();
        let registry = self.read_registry(&mut problems);
        if problems.is_empty() { Ok(registry) } else { Err(ConfigError(problems)) }
    }

    pub(super) fn registry_host(&self) -> Option<&str> {
        match (self.registry.host.as_str(), self.builder.backend) {
            ("", Backend::Depot) => Some(DEPOT_REGISTRY),
            ("", _) => None,
            (host, _) => Some(host),
        }
    }

    fn registry_user(&self) -> &str {
        match (self.registry.username.as_str(), self.builder.backend) {
            ("", Backend::Depot) => DEPOT_USER,
            (user, _) => user,
        }
    }

    fn read_registry(&self, problems: &mut Vec<String>) -> Option<Registry> {
        let host = self.registry_host()?;
        let file = &self.registry.password_file;
        let login = if file.is_empty() {
            None
        } else {
            let password = secret("registry.password_file", file, problems)?;
            let username = self.registry_user().to_owned();
            Some(Login { host: host.to_owned(), username, password })
        };
        Some(Registry {
            host: host.to_owned(),
            prefix: self.registry.repository.clone(),
            plain_http: self.registry.plain_http || is_loopback(host),
            login,
            cache: self.registry.cache,
        })
    }

    fn read_address(&self, problems: &mut Vec<String>) -> Option<Address> {
        let buildkit = &self.buildkit;
        let (host, port) = match parse(&buildkit.address) {
            Ok(Place::Unix(path)) => return Some(Address::Unix(path)),
            Ok(Place::Tcp(host, port)) => (host, port),
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        };
        if buildkit.ca_file.is_empty() {
            return Some(Address::Tcp { host, port, tls: None });
        }
        let mut file = |key, file| secret(key, file, problems).map(bytes);
        // A certificate is no secret, but a file that others may write is no
        // authority: one rule for all three.
        let ca = file("buildkit.ca_file", &buildkit.ca_file);
        let cert = file("buildkit.cert_file", &buildkit.cert_file);
        let key = file("buildkit.key_file", &buildkit.key_file);
        let server_name = some(&buildkit.server_name).unwrap_or_else(|| host.clone());
        let tls = Some(Tls { ca: ca?, cert: cert?, key: key?, server_name });
        Some(Address::Tcp { host, port, tls })
    }

    /// What can be said without reading a file.
    pub(super) fn builder_problems(&self) -> Vec<String> {
        let mut problems = self.registry_problems();
        match self.builder.backend {
            Backend::Docker => {
                if self.registry_host().is_none() && !is_local(&self.krane.url) {
                    problems.push(format!(
                        "krane.url = `{}` is another machine, and images of the docker builder stay on \
                         this one: set registry.host, from which it can pull them",
                        self.krane.url
                    ));
                }
            }
            Backend::Buildkit => problems.extend(self.buildkit_problems()),
            Backend::Depot => problems.extend(self.depot_problems()),
        }
        problems
    }

    fn buildkit_problems(&self) -> Vec<String> {
        let buildkit = &self.buildkit;
        let mut problems = Vec::new();
        let place = parse(&buildkit.address);
        let files = [
            ("ca_file", &buildkit.ca_file),
            ("cert_file", &buildkit.cert_file),
            ("key_file", &buildkit.key_file),
        ];
        let given = files.iter().filter(|(_, file)| !file.is_empty()).count();
        for (key, _) in files.iter().filter(|(_, file)| file.is_empty() && given > 0) {
            problems.push(format!("buildkit.{key} is empty: mutual TLS needs ca, cert and key"));
        }
        match place {
            Err(problem) => problems.push(problem),
            Ok(Place::Tcp(host, _)) if given == 0 && !is_loopback(&host) => problems.push(format!(
                "buildkit.address = `{}`: who reaches a BuildKit without TLS can run anything in it; set \
                 buildkit.ca_file, cert_file and key_file",
                buildkit.address
            )),
            Ok(_) => {}
        }
        if self.registry.host.is_empty() {
            problems.push(
                "registry.host is empty: a buildkitd keeps no images, it can only push them"
                    .to_owned(),
            );
        }
        problems
    }

    fn depot_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.depot.token_file.is_empty() {
            problems.push(
                "depot.token_file is empty: name the file that holds the organisation's API token \
                 (the registry's password is another)"
                    .to_owned(),
            );
        }
        if self.registry.password_file.is_empty() {
            problems.push(
                "registry.password_file is empty: images are pulled from Depot's registry with it"
                    .to_owned(),
            );
        }
        let url = &self.depot.api_url;
        let local = Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(is_loopback));
        if !(url.starts_with("https://") || (url.starts_with("http://") && local)) {
            problems.push(format!("depot.api_url = `{url}`: give an https:// URL"));
        }
        problems
    }

    fn registry_problems(&self) -> Vec<String> {
        let registry = &self.registry;
        let mut problems = Vec::new();
        let host = &registry.host;
        if host.contains("://") || host.contains('/') || host.contains(char::is_whitespace) {
            problems.push(format!(
                "registry.host = `{host}`: give a host with its port if it has one, e.g. registry.example.com:5000"
            ));
        }
        let name = &registry.repository;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        if !name.chars().all(allowed) || name.starts_with('/') || name.ends_with('/') {
            problems.push(format!(
                "registry.repository = `{name}`: give lower-case letters, digits, `.`, `_`, `-` and `/` between them"
            ));
        }
        let user = self.registry_user();
        match (user.is_empty(), registry.password_file.is_empty()) {
            (false, true) if self.builder.backend != Backend::Depot => problems.push(
                "registry.password_file is empty: name the file that holds the password of registry.username"
                    .to_owned(),
            ),
            (true, false) => problems
                .push("registry.username is empty, but registry.password_file is not".to_owned()),
            _ => {}
        }
        if self.registry_host().is_none() && !registry.password_file.is_empty() {
            problems.push("registry.host is empty, but registry.password_file is not".to_owned());
        }
        problems
    }
}

enum Place {
    Unix(PathBuf),
    Tcp(String, u16),
}

fn parse(address: &str) -> Result<Place, String> {
    if let Some(path) = address.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
        return Ok(Place::Unix(PathBuf::from(path)));
    }
    match Address::host_and_port(address) {
        Some((host, port)) => Ok(Place::Tcp(host, port)),
        None => Err(format!(
            "buildkit.address = `{address}`: give tcp://HOST:PORT or unix:///PATH of a buildkitd"
        )),
    }
}

fn is_local(url: &str) -> bool {
    url.is_empty() || Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(is_loopback))
}

/// Of `host`, `host:port`, `[address]` or `[address]:port`.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or_default(),
        None => host,
    };
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn secret(key: &str, file: &str, problems: &mut Vec<String>) -> Option<Secret> {
    read_private(key, file).map(Secret::new).map_err(|problem| problems.push(problem)).ok()
}

fn bytes(secret: Secret) -> Vec<u8> {
    secret.expose().as_bytes().to_vec()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}
