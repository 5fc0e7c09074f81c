//! Places where a test can hold a deployment, to kill a process there.
//!
//! With the feature `failpoints`, a step that finds the file
//! `$LAUNCHWAY_FAILPOINTS/<step>.<point>` renames it to `….hit` and waits
//! forever. Without the feature nothing is looked for.

use crate::step::Step;

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
#[cfg(feature = "failpoints")]
pub(crate) async fn reach(step: Step, point: Point) {
    let Some(dir) = std::env::var_os("LAUNCHWAY_FAILPOINTS") else { return };
    let armed = std::path::Path::new(&dir).join(format!("{step}.{}", point.name()));
    let hit = armed.with_extension(format!("{}.hit", point.name()));
    if std::fs::rename(&armed, &hit).is_ok() {
        tracing::warn!(%step, point = point.name(), "parked at a failpoint");
        std::future::pending::<()>().await;
    }
}

/// Returns at once.
#[cfg(not(feature = "failpoints"))]
pub(crate) async fn reach(_step: Step, _point: Point) {}

/// The action itself, unless a test waits in its middle: then it goes on and
/// its end is never seen.
pub(crate) async fn during<T>(step: Step, action: impl Future<Output = T>) -> T {
    let (ended, ()) = futures::future::join(action, reach(step, Point::During)).await;
    ended
}
