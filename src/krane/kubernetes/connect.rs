//! Which cluster, and who we are to it.

use std::{path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::http::{deepest, tls_by_ring};

/// Longest wait for a connection, and for a request's bytes to move.
const CONNECT: Duration = Duration::from_secs(3);
const WRITE: Duration = Duration::from_secs(10);

/// Where the cluster is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// `None`: the pod's own service account where this is a pod, else
    /// `KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the file's current one.
    pub context: Option<String>,
}

/// A connection, and what is known of it.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// This process is a pod of the cluster.
    pub(super) inside: bool,
    /// The API server.
    pub(super) url: String,
}

impl Cluster {
    fn is_inside(&self) -> bool {
        self.kubeconfig.is_none()
            && self.context.is_none()
            && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
    }

    /// Reads who we are; nothing is asked of the server.
    ///
    /// # Errors
    /// One sentence with the remedy.
    pub(super) async fn connect(&self) -> Result<Connection, String> {
        tls_by_ring();
        let inside = self.is_inside();
        let mut config = if inside {
            Config::incluster().map_err(|error| {
                format!("the pod's service account cannot be read: {}", deepest(&error))
            })?
        } else {
            self.kubeconfig().await?
        };
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(WRITE);
        // Watches are idle for long; calls have a limit of their own.
        config.read_timeout = None;
        // What is tried again, and how often, is decided in one place.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|error| format!("{url} cannot be used: {}", deepest(&error)))?;
        Ok(Connection { client, inside, url })
    }

    async fn kubeconfig(&self) -> Result<Config, String> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let Some(path) = &self.kubeconfig else {
            return Config::from_kubeconfig(&options).await.map_err(|error| {
                format!(
                    "no kubeconfig can be used: {}; name one with kubernetes.kubeconfig",
                    deepest(&error)
                )
            });
        };
        let unusable = |error: kube::config::KubeconfigError| {
            format!("kubernetes.kubeconfig = `{}`: {}", path.display(), deepest(&error))
        };
        let file = Kubeconfig::read_from(path).map_err(unusable)?;
        Config::from_custom_kubeconfig(file, &options).await.map_err(unusable)
    }
}
