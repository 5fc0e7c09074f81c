//! One client connection: what its requests have in common.

use std::{net::IpAddr, sync::Arc};

use super::{Gateway, headers::Client};

pub(super) struct Session {
    pub gateway: Arc<Gateway>,
    pub client: Client,
    /// The worker that serves it, by number.
    pub worker: usize,
    /// The client is on this machine.
    pub is_local: bool,
}

impl Session {
    pub fn new(gateway: Arc<Gateway>, peer: IpAddr, worker: usize) -> Arc<Self> {
        // A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d.
        let peer = peer.to_canonical();
        let client = Client::new(peer);
        Arc::new(Self { gateway, client, worker, is_local: peer.is_loopback() })
    }
}
