//! HTTP clients of our own, set up in one place.

use std::{error::Error, sync::Once, time::Duration};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Makes ring what TLS is done with, for every client of this process.
pub(crate) fn tls_by_ring() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A builder with TLS by ring and a bounded connect. Callers bound the rest.
pub(crate) fn client() -> reqwest::ClientBuilder {
    tls_by_ring();
    reqwest::Client::builder().connect_timeout(CONNECT).no_proxy()
}

/// The cause at the bottom: "Connection refused" rather than "error sending".
pub(crate) fn deepest(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
