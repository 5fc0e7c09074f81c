//! One build on a BuildKit, from the open channel to the digest.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use bollard_buildkit_proto::moby::buildkit::v1::{ListWorkersRequest, SolveRequest, StatusRequest};
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ports::BuildEvent,
    secret::Secret,
};
use tokio::{sync::mpsc, time::Instant};
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
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(200);
/// How often BuildKit is asked whether it is still there, and for how long.
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(15);

/// What a solve needs besides its request.
pub(in crate::builder) struct Job<'a> {
    /// The build; its session is filled in here.
    pub(in crate::builder) request: SolveRequest,
    /// Registry logins that BuildKit may ask for.
    pub(in crate::builder) logins: Vec<Login>,
    /// Build secrets that it may ask for.
    pub(in crate::builder) secrets: BTreeMap<String, Secret>,
    /// What events and errors are cleaned of.
    pub(in crate::builder) redactor: &'a Redactor,
    /// Whether the channel is compressed.
    pub(in crate::builder) gzip: bool,
    /// For the message about a missing Dockerfile.
    pub(in crate::builder) dockerfile: &'a str,
}

/// Builds, and returns what the exporter says about the image. Dropping the
/// future ends the build in BuildKit.
///
/// # Errors
/// Told apart as in [`failure`].
pub(in crate::builder) async fn run(
    channel: Channel,
    job: Job<'_>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<BTreeMap<String, String>, StepError> {
    let mut progress = Progress::new(job.redactor);
    let mut control = control(channel, job.gzip);
    let beating = heartbeat(control.clone());
    let solving = solve(&mut control, &job, &mut progress, events);
    let solved = tokio::select! {
        solved = solving => solved,
        lost = beating => {
            return Err(StepError::transient(ErrorCode::BuilderUnavailable, lost));
        }
    };
    solved.map_err(|status| {
        failure::of_status(&status, job.redactor, job.dockerfile, progress.tail())
    })
}

async fn solve(
    control: &mut Control,
    job: &Job<'_>,
    progress: &mut Progress<'_>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<BTreeMap<String, String>, Status> {
    let session = Session::open(control, job.logins.clone(), job.secrets.clone()).await?;
    let request = SolveRequest { session: session.id.clone(), ..job.request.clone() };
    let begun = Instant::now();
    loop {
        match once(control, request.clone(), progress, events).await {
            Err(status) if is_predecessor(&status) && begun.elapsed() < PREDECESSOR_LIMIT => {
                tracing::info!(build = %request.r#ref, "an earlier build of this id is still ending");
                tokio::time::sleep(PREDECESSOR_PAUSE).await;
            }
            ended => return ended,
        }
    }
}

async fn once(
    control: &mut Control,
    request: SolveRequest,
    progress: &mut Progress<'_>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<BTreeMap<String, String>, Status> {
    let followed = follow(control.clone(), request.r#ref.clone(), progress, events);
    let mut followed = pin!(followed);
    let solved = {
        let mut solving = pin!(control.solve(request));
        tokio::select! {
            solved = &mut solving => solved,
            () = &mut followed => return solving.await.map(exported),
        }
    };
    // A solve that was refused never had a status.
    let drain = if matches!(&solved, Err(status) if is_predecessor(status)) {
        Duration::ZERO
    } else {
        STATUS_DRAIN
    };
    let _ = tokio::time::timeout(drain, followed).await;
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
