//! One build on a BuildKit, from the open channel to the digest.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use bollard_buildkit_proto::moby::buildkit::v1::{
    ListWorkersRequest, SolveRequest, StatusRequest, UpdateBuildHistoryRequest,
};
use futures::future::BoxFuture;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ports::BuildEvent,
    secret::Secret,
};
use tokio::sync::mpsc;
use tonic::{Code, Status, transport::Channel};

use super::{Control, control, session::Session};
use crate::{
    builder::{failure, progress::Progress, redact::Redactor},
    registry::Login,
};

/// How long the status stream may go on after the solve has ended.
const STATUS_DRAIN: Duration = Duration::from_secs(10);
/// How long a build of the same id, left by a worker that died, may take to
/// end. BuildKit ends it once it sees its connection closed.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(30);
/// The same for Docker 20.10, whose status does not say that a build has ended:
/// an engine on this machine ends one within two seconds of its connection.
const OLD_PREDECESSOR_LIMIT: Duration = Duration::from_secs(2);
/// Builds of one id within ten seconds.
const MAX_PREDECESSORS: u32 = 20;
/// A build that is refused because of its id is so within a round trip.
const REFUSED_WITHIN: Duration = Duration::from_millis(250);
/// Longest wait until an ended build is forgotten.
const FORGET_LIMIT: Duration = Duration::from_secs(5);
/// How often BuildKit is asked whether it is still there, and for how long.
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(15);

/// What the exporter says about an image; `None`: an earlier build of the same id
/// has made it.
pub(in crate::builder) type Exported = Option<BTreeMap<String, String>>;

/// Whether the image is there.
pub(in crate::builder) type Made<'a> = &'a (dyn Fn() -> BoxFuture<'a, bool> + Send + Sync);

/// What a solve needs besides its request.
pub(in crate::builder) struct Job<'a, 'm> {
    /// The build; its session is filled in here.
    pub(in crate::builder) request: SolveRequest,
    /// Registry logins that BuildKit may ask for.
    pub(in crate::builder) logins: Vec<Login>,
    /// Build secrets that it may ask for.
    pub(in crate::builder) secrets: BTreeMap<String, Secret>,
    /// What events and errors are cleaned of.
    pub(in crate::builder) redactor: &'a Redactor,
    /// Bytes of output that are passed on.
    pub(in crate::builder) max_output: u64,
    /// Whether the channel is compressed.
    pub(in crate::builder) gzip: bool,
    /// For the message about a missing Dockerfile.
    pub(in crate::builder) dockerfile: &'a str,
    /// Asked once an earlier build of this id has ended.
    pub(in crate::builder) made: Made<'m>,
}

/// Builds. Dropping the future ends the build in BuildKit.
///
/// # Errors
/// Told apart as in [`failure`].
pub(in crate::builder) async fn run(
    channel: Channel,
    job: Job<'_, '_>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<Exported, StepError> {
    let mut progress = Progress::new(job.redactor, job.max_output);
    let mut control = control(channel, job.gzip);
    let beating = heartbeat(control.clone());
    let solving = solve(&mut control, &job, &mut progress, events);
    let solved = tokio::select! {
        solved = solving => solved,
        lost = beating => {
            return Err(StepError::transient(ErrorCode::BuilderUnavailable, lost));
        }
    };
    for event in progress.finish() {
        let _ = events.send(event).await;
    }
    solved.map_err(|status| {
        failure::of_status(&status, job.redactor, job.dockerfile, progress.tail())
    })
}

async fn solve(
    control: &mut Control,
    job: &Job<'_, '_>,
    progress: &mut Progress<'_>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<Exported, Status> {
    let session = Session::open(control, job.logins.clone(), job.secrets.clone()).await?;
    let mut request = SolveRequest { session: session.id.clone(), ..job.request.clone() };
    let build = request.r#ref.clone();
    for number in 2.. {
        let old = !forget(control, &request.r#ref).await;
        match once(control, request.clone(), progress, events).await {
            Err(status) if is_predecessor(&status) && number <= MAX_PREDECESSORS => {
                tracing::info!(build, "an earlier build of this id has not ended, or just now");
                outlast(control, &request.r#ref, old).await?;
                if (job.made)().await {
                    return Ok(None);
                }
                request.r#ref = format!("{build}.{number}");
            }
            ended => return ended.map(Some),
        }
    }
    Err(Status::unavailable("no end of earlier builds of this id"))
}

/// Waits for the end of an earlier build. BuildKit keeps one for ten seconds
/// longer, under its name, so that the next one needs another.
async fn outlast(control: &mut Control, id: &str, old: bool) -> Result<(), Status> {
    let ended = async {
        let Ok(stream) = control.status(StatusRequest { r#ref: id.to_owned() }).await else {
            return;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(_)) = stream.message().await {}
    };
    let limit = if old { OLD_PREDECESSOR_LIMIT } else { PREDECESSOR_LIMIT };
    match tokio::time::timeout(limit, ended).await {
        Ok(()) => Ok(()),
        Err(_) if old => Ok(()),
        Err(_) => Err(Status::unavailable("an earlier build of this id still runs after 30 s")),
    }
}

/// Takes an ended build of this id out of BuildKit's history: asked for the
/// status of a build, it would tell that one's instead. Docker 20.10 has none:
/// `false`.
async fn forget(control: &mut Control, id: &str) -> bool {
    let request =
        UpdateBuildHistoryRequest { r#ref: id.to_owned(), delete: true, ..Default::default() };
    let asked = control.update_build_history(request);
    match tokio::time::timeout(FORGET_LIMIT, asked).await {
        Ok(Err(status)) => status.code() != Code::Unimplemented,
        Ok(Ok(_)) | Err(_) => true,
    }
}

async fn once(
    control: &mut Control,
    request: SolveRequest,
    progress: &mut Progress<'_>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<BTreeMap<String, String>, Status> {
    let id = request.r#ref.clone();
    let follower = control.clone();
    let followed = async {
        // Until then it is refused, if at all: the status is then another's.
        tokio::time::sleep(REFUSED_WITHIN).await;
        follow(follower, id, progress, events).await;
    };
    let mut followed = pin!(followed);
    let solved = {
        let mut solving = pin!(control.solve(request));
        tokio::select! {
            solved = &mut solving => solved,
            () = &mut followed => return solving.await.map(exported),
        }
    };
    if !matches!(&solved, Err(status) if is_predecessor(status)) {
        let _ = tokio::time::timeout(STATUS_DRAIN, followed).await;
    }
    solved.map(exported)
}

fn exported(
    response: tonic::Response<bollard_buildkit_proto::moby::buildkit::v1::SolveResponse>,
) -> BTreeMap<String, String> {
    response.into_inner().exporter_response.into_iter().collect()
}

/// Passes progress on until its stream ends; the solve's own answer says how.
async fn follow(
    mut control: Control,
    id: String,
    progress: &mut Progress<'_>,
    events: &mpsc::Sender<BuildEvent>,
) {
    let stream = control.status(StatusRequest { r#ref: id.clone() }).await;
    let mut stream = match stream {
        Ok(stream) => stream.into_inner(),
        Err(status) => return tracing::debug!(build = %id, %status, "no status of the build"),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                for event in progress.absorb(message) {
                    // Nobody listens any more only when the step is gone.
                    let _ = events.send(event).await;
                }
            }
            Ok(None) => return,
            Err(status) => return tracing::debug!(build = %id, %status, "the status has ended"),
        }
    }
}

/// Returns once BuildKit does not answer any more: a peer that is frozen keeps
/// its connection open.
async fn heartbeat(mut control: Control) -> String {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let asked = control.list_workers(ListWorkersRequest::default());
        match tokio::time::timeout(HEARTBEAT_LIMIT, asked).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) if failure::is_of_transport(&status) => {
                return format!(
                    "BuildKit was lost in the middle of the build: {}",
                    status.message()
                );
            }
            // It answers, if not what was asked.
            Ok(Err(_)) => {}
            Err(_) => return "BuildKit does not answer any more (for 15 s)".to_owned(),
        }
    }
}

/// BuildKit refuses a second build under an id that it is still working on.
fn is_predecessor(status: &Status) -> bool {
    let message = status.message();
    status.code() == Code::AlreadyExists
        || (message.contains("job ID") && message.contains("exists"))
}
