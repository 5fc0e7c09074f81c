//! Who calls: the API key of `authorization: Bearer …`, on every method.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{Request, Response, header::AUTHORIZATION};
use launchway_proto::ctrl::v1::key_service_server::KeyServiceServer;
use launchway_workflows::{ids::ApiKeyId, secret::Secret};
use sha2::{Digest, Sha256};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::Control;
use crate::store::{Role, Store};

/// Between two lines about gateways that are refused.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Checks keys against the database.
#[derive(Clone)]
pub(super) struct Authenticate {
    store: Store,
}

impl Authenticate {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    async fn check(&self, header: Option<String>, path: &str) -> Result<Caller, Status> {
        let secret =
            header.as_deref().and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
                Status::unauthenticated("an API key is needed: pass --token or set LAUNCHWAY_TOKEN")
            })?;
        let key = self
            .store
            .api_key(secret)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let key = key.ok_or_else(|| {
            Status::unauthenticated(
                "this API key is not known or was revoked: check --token and LAUNCHWAY_TOKEN",
            )
        })?;
        let needed = needed(path);
        if key.role >= needed {
            return Ok(Caller(key.id));
        }
        let message =
            format!("this API key ({}) may not do that: use one with the role {needed:?}", key.id);
        Err(Status::permission_denied(message.to_lowercase()))
    }
}

/// The check of what is for gateways alone: by their reports deployments are
/// started and kept up, and what they are told is where instances are.
pub(super) fn of_gateways(
    key: &Secret,
) -> impl FnMut(tonic::Request<()>) -> Result<tonic::Request<()>, Status> + Clone + use<> {
    // Digests are compared: how long that takes tells nothing of the key.
    let expected = Sha256::digest(format!("Bearer {}", key.expose()));
    let said = Arc::new(Mutex::new(None));
    move |request| {
        let shown = request.metadata().get(AUTHORIZATION.as_str());
        if shown.is_some_and(|shown| Sha256::digest(shown.as_bytes()) == expected) {
            return Ok(request);
        }
        if is_time_to_say(&said) {
            tracing::warn!(
                from = ?request.remote_addr(),
                "a gateway without the key of gateway.key_file is refused: it serves its last routes"
            );
        }
        Err(Status::unauthenticated(
            "routes are for gateways that show the key of gateway.key_file, by default \
             secrets/gateway-key of the control plane's data directory",
        ))
    }
}

/// They come again every two seconds.
fn is_time_to_say(said: &Mutex<Option<Instant>>) -> bool {
    let mut last = said.lock().unwrap_or_else(PoisonError::into_inner);
    let due = last.is_none_or(|last| last.elapsed() >= SAID_AGAIN);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// Whose key a call was made with.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) ApiKeyId);

impl Caller {
    /// Every call of a guarded service has one.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Status::internal("the caller is not known"))
    }
}

/// Methods that only look need less; keys are for those who may do everything.
fn needed(path: &str) -> Role {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    if service == KeyServiceServer::<Control>::NAME {
        return Role::Admin;
    }
    match ["Get", "List", "Watch", "Stream", "Explain"].iter().any(|verb| method.starts_with(verb))
    {
        true => Role::Read,
        false => Role::Deploy,
    }
}

/// A service behind the check.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    authenticate: Authenticate,
    inner: S,
}

pub(super) fn guard<S>(authenticate: Authenticate, inner: S) -> Guarded<S> {
    Guarded { authenticate, inner }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let authenticate = self.authenticate.clone();
        // The service that was polled ready must be the one that is called.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let mut request = request;
        Box::pin(async move {
            let header = request.headers().get(AUTHORIZATION);
            let header = header.and_then(|value| value.to_str().ok()).map(str::to_owned);
            match authenticate.check(header, request.uri().path()).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}
