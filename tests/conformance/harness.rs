//! What the cases need to know of a runtime.

use std::{panic::AssertUnwindSafe, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use launchway_proto::krane::v1::deployment_service_client::DeploymentServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::world::World;

pub type Client = DeploymentServiceClient<Channel>;

/// A krane with what is behind it. Dropping it removes what it has made.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Where it is reached; asked again after [`Harness::restart`].
    fn url(&self) -> String;

    /// A reference of an image that it can start: a static busybox at `/busybox`,
    /// no entry point, no EXPOSE, and [`crate::image::DEFAULT_COMMAND`].
    fn image(&self) -> String;

    /// GET of a path at an instance's address, as a gateway would ask it.
    async fn get(&self, address: &str, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{address}{path}");
        // A client wants one, whatever it asks.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::get(url).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Whether their addresses can be dialled from here; otherwise they are asked from
    /// inside.
    fn reaches_instances(&self) -> bool {
        true
    }

    /// Longest time from what happens in an instance until krane reports it, the
    /// word that makes it happen included.
    fn report_limit(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// What is there once every deployment of a case is deleted; looked for on
    /// the runtime itself, where that can be done.
    async fn left_over(&self) -> Vec<String> {
        Vec::new()
    }

    /// Ends krane without a warning and starts another on the same runtime.
    /// False: this harness cannot.
    async fn restart(&self) -> bool {
        false
    }

    /// Whether stdout is told from stderr.
    fn splits_streams(&self) -> bool {
        true
    }

    /// Whether a command that nobody reads any more is ended, and not only left
    /// without input.
    fn ends_unread_commands(&self) -> bool {
        true
    }

    /// Whether krane asks instances itself, and so tells what they answer and how
    /// often they were asked.
    fn tells_answers(&self) -> bool {
        true
    }

    /// Whether an instance's number of processes is limited and told.
    fn limits_processes(&self) -> bool {
        true
    }
}

/// A part of a script: answers on `$PORT` from now on, with 200.
pub const SERVER: &str = "/busybox mkdir -p /www; /busybox touch /www/index.html; \
                          /busybox httpd -p $PORT -h /www";

/// The end of a script: the same until it is told to end, which httpd does not hear as
/// the first process.
pub const HTTPD: &str = "/busybox mkdir -p /www; /busybox touch /www/index.html; \
                         trap 'exit 0' TERM; /busybox httpd -f -p $PORT -h /www & wait";

/// A shell script as a process's command.
pub fn sh(script: &str) -> Vec<String> {
    ["/busybox", "sh", "-c", script].map(str::to_owned).to_vec()
}

pub async fn connect(url: &str) -> Client {
    let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy();
    DeploymentServiceClient::new(channel)
}

/// Runs a case and removes what it has deployed, however it ends.
pub async fn run(harness: &dyn Harness, case: impl AsyncFnOnce(&World<'_>)) {
    let world = World::new(harness);
    let ended = AssertUnwindSafe(case(&world)).catch_unwind().await;
    world.clean_up().await;
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
    let left = harness.left_over().await;
    assert!(left.is_empty(), "after everything was deleted: {left:?}");
}
