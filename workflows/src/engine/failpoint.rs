//! Places where a test can hold a deployment, or make it fail, to prove what
//! happens then. Without the feature `failpoints` nothing is looked for.
//!
//! With it, files in `$LAUNCHWAY_FAILPOINTS` say what is to happen. The first
//! deployment that comes by takes a file: it is renamed to `….hit` and gets
//! the deployment's id as its content.
//!
//! - `<step>.<point>`: waits there until the `.hit` file is removed.
//! - `<name>.fail`, `<name>.exhaust`: what has been done there is reported as
//!   failed, for good or for now, on every try of that deployment. The file's
//!   content is the error code.
//! - `<run>.run`, `<run>.ran`: a run, of any service, waits before it begins,
//!   or when it has succeeded and the journal does not know it.
//! - `<run>.broken`: a run fails, for now, as long as the file is there.
//! - `<run>.twice`: a run is executed once more after it has succeeded, as
//!   after a crash before its journal entry.
//!
//! `reached.log` gets a line for everything that is reached.
//! `$LAUNCHWAY_FAILPOINT_TRIES` bounds the tries of every run, so that using
//! them up takes seconds.

use restate_sdk::prelude::HandlerResult;

use crate::{error::StepError, ids::DeploymentId, step::Step};

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Nothing has been done.
    Before,
    /// The effect is under way.
    During,
    /// The effect is there, the journal does not know it.
    Done,
    /// The journal knows it.
    Journaled,
}

impl Point {
    /// All points, in order.
    pub const ALL: [Point; 4] = [Point::Before, Point::During, Point::Done, Point::Journaled];

    /// The name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Point::Before => "before",
            Point::During => "during",
            Point::Done => "done",
            Point::Journaled => "journaled",
        }
    }
}

/// Returns at once, unless a test waits here.
pub async fn reach(id: &DeploymentId, step: Step, point: Point) {
    reach_at(id, step.name(), point.name()).await;
}

/// The action itself, unless a test waits in its middle: then it goes on and
/// its end is not seen before the test lets it be seen.
pub(crate) async fn during<T>(id: &DeploymentId, step: Step, action: impl Future<Output = T>) -> T {
    let (ended, ()) = futures::future::join(action, reach(id, step, Point::During)).await;
    ended
}

#[cfg(feature = "failpoints")]
use files as present;
#[cfg(not(feature = "failpoints"))]
use nowhere as present;
pub use present::reach_at;
pub(crate) use present::{Running, faulty, observed, reached, tries};

#[cfg(not(feature = "failpoints"))]
mod nowhere {
    use super::*;

    /// Returns at once.
    pub async fn reach_at(_id: &DeploymentId, _name: &str, _point: &str) {}

    /// Notes nothing.
    pub(crate) fn reached(_id: &DeploymentId, _name: &str, _point: &str) {}

    /// The result as it is.
    pub(crate) fn faulty<T>(
        _id: &DeploymentId,
        _name: &str,
        result: Result<T, StepError>,
    ) -> Result<T, StepError> {
        result
    }

    /// The run as it is.
    pub(crate) async fn observed<T>(
        _name: &str,
        run: impl Future<Output = HandlerResult<T>>,
    ) -> HandlerResult<T> {
        run.await
    }

    /// The tries as they are.
    pub(crate) fn tries(tries: u32) -> u32 {
        tries
    }

    /// Notes nothing.
    pub(crate) struct Running;

    impl Running {
        pub(crate) fn enter(_id: &DeploymentId, _step: Step) -> Self {
            Self
        }
    }
}

#[cfg(feature = "failpoints")]
mod files {
    use std::{
        fs,
        io::Write,
        path::{Path, PathBuf},
        time::Duration,
    };

    use super::*;
    use crate::{
        engine::readiness::now_ms,
        error::{ErrorCode, StepFailure},
    };

    /// How often a held deployment looks whether it may go on.
    const LOOK: Duration = Duration::from_millis(2);
    /// A run does not say whose it is.
    const NOBODY: &str = "-";

    fn dir() -> Option<PathBuf> {
        std::env::var_os("LAUNCHWAY_FAILPOINTS").map(PathBuf::from)
    }

    /// Takes the file for a deployment; `None`: it is not there.
    fn take(dir: &Path, file: &str, id: &str) -> Option<(PathBuf, String)> {
        let (armed, hit) = (dir.join(file), dir.join(format!("{file}.hit")));
        let content = fs::read_to_string(&armed).ok()?;
        fs::rename(&armed, &hit).ok()?;
        let _ = fs::write(&hit, format!("{id} {content}"));
        Some((hit, content))
    }

    /// Returns at once, unless a test waits here.
    pub async fn reach_at(id: &DeploymentId, name: &str, point: &str) {
        reached(id, name, point);
        let Some(dir) = dir() else { return };
        park(&dir, &format!("{name}.{point}"), id.as_str()).await;
    }

    async fn park(dir: &Path, file: &str, id: &str) {
        let Some((hit, _)) = take(dir, file, id) else { return };
        tracing::warn!(deployment = id, file, "parked at a failpoint");
        while hit.exists() {
            #[expect(clippy::disallowed_methods, reason = "a test waits here, nothing durable")]
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Notes that a deployment was here.
    pub(crate) fn reached(id: &DeploymentId, name: &str, point: &str) {
        let Some(dir) = dir() else { return };
        let line = format!("{} {} {id} {name} {point}\n", now_ms(), std::process::id());
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("reached.log"));
        let _ = log.and_then(|mut log| log.write_all(line.as_bytes()));
    }

    /// A good result, unless this deployment has a fault there.
    pub(crate) fn faulty<T>(
        id: &DeploymentId,
        name: &str,
        result: Result<T, StepError>,
    ) -> Result<T, StepError> {
        let (Some(dir), true) = (dir(), result.is_ok()) else { return result };
        let code = |kind: &str| {
            let file = format!("{name}.{kind}");
            let taken = take(&dir, &file, id.as_str()).map(|(_, code)| code);
            // What was taken stays with its deployment, over crashes too.
            taken.or_else(|| {
                let hit = fs::read_to_string(dir.join(format!("{file}.hit"))).ok()?;
                let (holder, code) = hit.split_once(' ')?;
                (holder == id.as_str()).then(|| code.to_owned())
            })
        };
        if let Some(code) = code("fail") {
            return Err(StepError::Permanent(injected(&code)));
        }
        match code("exhaust") {
            Some(code) => Err(StepError::Transient(injected(&code))),
            None => result,
        }
    }

    fn injected(code: &str) -> StepFailure {
        let known = ErrorCode::ALL.iter().find(|known| known.name() == code.trim());
        StepFailure::new(known.copied().unwrap_or(ErrorCode::Internal), "injected by a test")
    }

    /// The run, held or executed once more if a test says so.
    pub(crate) async fn observed<T>(
        name: &str,
        run: impl Future<Output = HandlerResult<T>>,
    ) -> HandlerResult<T> {
        let Some(dir) = dir() else { return run.await };
        park(&dir, &format!("{name}.run"), NOBODY).await;
        if dir.join(format!("{name}.broken")).exists() {
            return Err("broken by a test".to_owned().into());
        }
        let result = run.await?;
        park(&dir, &format!("{name}.ran"), NOBODY).await;
        match take(&dir, &format!("{name}.twice"), NOBODY) {
            Some(_) => Err("a test has this run executed twice".to_owned().into()),
            None => Ok(result),
        }
    }

    /// The tries, or fewer.
    pub(crate) fn tries(tries: u32) -> u32 {
        let bound = std::env::var("LAUNCHWAY_FAILPOINT_TRIES").ok();
        bound.and_then(|bound| bound.parse().ok()).map_or(tries, |bound: u32| tries.min(bound))
    }

    /// Notes from when to when one try of a step has run.
    pub(crate) struct Running(DeploymentId, Step);

    impl Running {
        pub(crate) fn enter(id: &DeploymentId, step: Step) -> Self {
            reached(id, step.name(), "entered");
            Self(id.clone(), step)
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            reached(&self.0, self.1.name(), "left");
        }
    }
}
