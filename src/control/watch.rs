//! Streams that follow a deployment: woken by changes of this process, and by
//! a slow tick for changes of others.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use launchway_proto::ctrl::v1::{self as proto, DeploymentEvent, deployment_event::Event};
use launchway_workflows::{ids::DeploymentId, status::DeploymentStatus};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Control, convert};
use crate::store::DeploymentView;

/// Events on their way to a client; a slow one holds only itself back.
const QUEUE: usize = 256;
/// Build events read at once.
const PAGE: u32 = 500;
/// How long a change of another process may stay unseen.
const TICK: Duration = Duration::from_millis(500);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The deployment after each change and its build output, until it is settled.
pub(super) fn deployment(control: Control, id: DeploymentId, after: i64) -> Boxed<DeploymentEvent> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(status) = follow_deployment(&control, &id, after, &sender).await {
            let _ = sender.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// The build output of an attempt, or of all.
pub(super) fn build_log(
    control: Control,
    id: DeploymentId,
    attempt: Option<u32>,
    after: i64,
    follow: bool,
) -> Boxed<proto::BuildLogLine> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(status) = follow_log(&control, &id, attempt, after, follow, &sender).await {
            let _ = sender.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

async fn follow_deployment(
    control: &Control,
    id: &DeploymentId,
    mut after: i64,
    sender: &mpsc::Sender<Result<DeploymentEvent, Status>>,
) -> Result<(), Status> {
    let mut changes = control.store.changes();
    let mut last = None;
    loop {
        // Read before the log, so that a settled deployment's log is complete.
        let view = control.find(id.as_str()).await?;
        let settled = view.status.is_settled();
        loop {
            let page = page(control, id, None, after).await?;
            let full = page.len() == PAGE as usize;
            for line in page {
                after = line.cursor;
                if !send(sender, Event::BuildLog(convert::log_line(line))).await {
                    return Ok(());
                }
            }
            if !full {
                break;
            }
        }
        routed(control, &view).await;
        let deployment = convert::deployment(view, &control.shown());
        if last.as_ref() != Some(&deployment) {
            last = Some(deployment.clone());
            if !send(sender, Event::Deployment(deployment)).await {
                return Ok(());
            }
        }
        if settled {
            return Ok(());
        }
        changed(&mut changes, id, sender).await;
    }
}

/// What has its domains is said to have them once the gateways know it: whoever hears
/// it may ask for it at once. Who only reads the record is not kept waiting.
async fn routed(control: &Control, view: &DeploymentView) {
    if matches!(view.status, DeploymentStatus::Live | DeploymentStatus::Ready) {
        control.routes.announce_of(&view.id).await;
    }
}

/// The deployment once it is settled; the caller may go away meanwhile.
pub(super) async fn settled(
    control: &Control,
    id: &DeploymentId,
) -> Result<DeploymentView, Status> {
    let mut changes = control.store.changes();
    // Nobody listens to it: its end is that of the caller's call.
    let (caller, _open) = mpsc::channel::<()>(1);
    loop {
        let view = control.find(id.as_str()).await?;
        if view.status.is_settled() {
            return Ok(view);
        }
        changed(&mut changes, id, &caller).await;
    }
}

async fn send(sender: &mpsc::Sender<Result<DeploymentEvent, Status>>, event: Event) -> bool {
    sender.send(Ok(DeploymentEvent { event: Some(event) })).await.is_ok()
}

async fn follow_log(
    control: &Control,
    id: &DeploymentId,
    attempt: Option<u32>,
    mut after: i64,
    follow: bool,
    sender: &mpsc::Sender<Result<proto::BuildLogLine, Status>>,
) -> Result<(), Status> {
    let mut changes = control.store.changes();
    loop {
        let settled = control.find(id.as_str()).await?.status.is_settled();
        loop {
            let page = page(control, id, attempt, after).await?;
            let full = page.len() == PAGE as usize;
            for line in page {
                after = line.cursor;
                if sender.send(Ok(convert::log_line(line))).await.is_err() {
                    return Ok(());
                }
            }
            if !full {
                break;
            }
        }
        if settled || !follow {
            return Ok(());
        }
        changed(&mut changes, id, sender).await;
    }
}

async fn page(
    control: &Control,
    id: &DeploymentId,
    attempt: Option<u32>,
    after: i64,
) -> Result<Vec<crate::store::BuildLogLine>, Status> {
    let page = control.store.build_log(id, attempt, after, PAGE).await;
    page.map_err(|error| Status::unavailable(error.to_string()))
}

/// Returns when the deployment has changed, or may have, or nobody listens.
async fn changed<T>(
    changes: &mut broadcast::Receiver<DeploymentId>,
    id: &DeploymentId,
    sender: &mpsc::Sender<T>,
) {
    let this_one = async {
        loop {
            match changes.recv().await {
                Ok(other) if other != *id => {}
                // This one, or so many that it may be among those missed.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    };
    tokio::select! {
        () = this_one => {}
        () = tokio::time::sleep(TICK) => {}
        () = sender.closed() => {}
    }
}
