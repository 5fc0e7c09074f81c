//! Keeps the table up to date from the control plane, for as long as it takes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use launchway_proto::gateway::v1::{WatchRoutesRequest, route_service_client::RouteServiceClient};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::table::Table;

/// Pauses between attempts to reach the control plane.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Changes are written together, at most this often.
const SAVE_PAUSE: Duration = Duration::from_millis(200);

/// Follows the feed forever.
pub(super) async fn follow(table: Arc<Table>, control_url: String, snapshot: PathBuf) {
    let gateway_id = uuid::Uuid::new_v4().to_string();
    let changed = Arc::new(Notify::new());
    tokio::spawn(save(Arc::clone(&table), snapshot, Arc::clone(&changed)));
    let mut pause = FIRST_PAUSE;
    loop {
        match follow_once(&table, &control_url, &gateway_id, &changed).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                tracing::debug!(%error, "no route feed; the last good table serves on");
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn follow_once(
    table: &Table,
    control_url: &str,
    gateway_id: &str,
    changed: &Notify,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = Endpoint::from_shared(control_url.to_owned())?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect()
        .await?;
    // One answer to every update: the channel never holds more.
    let (answers, requests) = mpsc::channel(4);
    let applied = |version| WatchRoutesRequest {
        gateway_id: gateway_id.to_owned(),
        applied_version: version,
    };
    answers.send(applied(0)).await?;
    let feed = RouteServiceClient::new(channel).watch_routes(ReceiverStream::new(requests)).await?;
    let mut updates = feed.into_inner();
    while let Some(update) = updates.message().await? {
        table.apply(update);
        answers.send(applied(table.version())).await?;
        changed.notify_one();
    }
    Ok(())
}

async fn save(table: Arc<Table>, path: PathBuf, changed: Arc<Notify>) {
    loop {
        changed.notified().await;
        let (table, to) = (Arc::clone(&table), path.clone());
        let saved = tokio::task::spawn_blocking(move || table.save_file(&to)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(path = %path.display(), %error, "cannot save the route table");
        }
        tokio::time::sleep(SAVE_PAUSE).await;
    }
}
