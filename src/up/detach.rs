//! `up --detach`: the same program in the background, and its first words.

use std::{process::Stdio, time::Duration};

use tokio::process::Command;

use super::{
    SetupError,
    child::open_log,
    layout::Layout,
    state::{Status, UpState},
};

/// Everything must answer within this time.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

/// Starts `up` with these arguments in the background; returns its pid when
/// it is ready.
///
/// # Errors
/// The sentence of the `up` that gave up.
pub async fn detach(layout: &Layout, args: &[String]) -> Result<i32, SetupError> {
    layout.create()?;
    let program = std::env::current_exe().map_err(SetupError::from)?;
    let log = open_log(layout, "up").map_err(SetupError::from)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(SetupError::from)?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(SetupError::from)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let started = async {
        loop {
            let state = UpState::read(layout).filter(|state| state.pid() == pid);
            match state.map(|state| state.status) {
                Some(Status::Ready) => return Ok(pid),
                Some(Status::Failed { error }) => return Err(SetupError(error)),
                Some(Status::Starting) | None => {}
            }
            if let Ok(Some(status)) = child.try_wait() {
                let log = layout.logs().join("up.log");
                // It may have said why just before it ended.
                let said = UpState::read(layout).filter(|state| state.pid() == pid);
                return Err(match said.map(|state| state.status) {
                    Some(Status::Failed { error }) => SetupError(error),
                    _ => SetupError(format!(
                        "`up` ended with {status}; its log is {}",
                        log.display()
                    )),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(LIMIT, started).await {
        Ok(result) => result,
        Err(_) => Err(SetupError(format!(
            "`up` is not ready after {} s; its log is {}",
            LIMIT.as_secs(),
            layout.logs().join("up.log").display()
        ))),
    }
}
