//! Commands in instances that run.

use std::{pin::Pin, time::Duration};

use bollard::{
    Docker,
    exec::{CreateExecOptions, ResizeExecOptions},
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use launchway_proto::krane::v1::{
    DeploymentStatus, Instance, exec_input::Input, exec_output::Output,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    attach::{self, Attached},
    failed,
};
use crate::krane::{
    backend::{BackendError, ExecSpec, Feed},
    table::Table,
};

/// From the end of its output until the engine has the exit code.
const EXIT_LIMIT: Duration = Duration::from_secs(5);
const EXIT_PAUSE: Duration = Duration::from_millis(5);
/// Between the signals for a command that nobody reads.
const END_PAUSE: Duration = Duration::from_secs(2);

/// Runs it in the first instance that fits.
pub(super) async fn run(
    docker: &Docker,
    table: &Table,
    spec: ExecSpec,
    input: BoxStream<'static, Input>,
) -> Result<Feed<Output>, BackendError> {
    let known = table.get(&spec.deployment_id);
    let instance = known.instances.iter().find(|instance| fits(instance, &spec));
    let instance = instance.ok_or_else(|| {
        BackendError::NotRunning(format!(
            "deployment `{}` has no instance{} that runs",
            spec.deployment_id,
            place(&spec)
        ))
    })?;
    let options = CreateExecOptions {
        cmd: Some(spec.command.clone()),
        tty: Some(spec.tty),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        env: spec.tty.then(|| vec!["TERM=xterm-256color".to_owned()]),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec(&instance.id, options).await.map_err(|error| failed(&error))?.id;
    // The engine resizes once it has started; asked for before, that is at once.
    if let Some((columns, rows)) = spec.size {
        let (docker, exec) = (docker.clone(), exec.clone());
        tokio::spawn(async move { resize(&docker, &exec, columns, rows).await });
    }
    let attached = attach::start(docker, &exec, spec.tty, spec.size).await?;
    let Attached { output, input: stdin } = attached;
    let feeding = tokio::spawn(feed(docker.clone(), exec.clone(), input, stdin));
    let session = Session { docker: docker.clone(), exec: exec.clone(), feeding };
    let code = stream::once(async move {
        exit_code(&session.docker, &session.exec).await.map(Output::ExitCode)
    });
    Ok(output.chain(code).boxed())
}

fn fits(instance: &Instance, spec: &ExecSpec) -> bool {
    instance.status() == DeploymentStatus::Running
        && spec.process.as_ref().is_none_or(|process| process.as_str() == instance.process)
        && spec.replica.is_none_or(|replica| replica == instance.replica)
}

/// ` worker.2`, as far as it was said.
fn place(spec: &ExecSpec) -> String {
    let process = spec.process.as_ref().map(ToString::to_string);
    let replica = spec.replica.map(|replica| replica.to_string());
    match (process, replica) {
        (None, None) => String::new(),
        (Some(process), None) => format!(" of process {process}"),
        (process, Some(replica)) => {
            format!(" {}.{replica}", process.unwrap_or_else(|| "*".to_owned()))
        }
    }
}

/// Dropped when the command has ended, or nobody reads any more.
struct Session {
    docker: Docker,
    exec: String,
    feeding: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.feeding.abort();
        tokio::spawn(end(self.docker.clone(), self.exec.clone()));
    }
}

/// The engine leaves a command running that nobody reads, and offers no way to
/// end it: its process is told, where this krane may and it surely is that one.
async fn end(docker: Docker, exec: String) {
    for told in [Signal::HUP, Signal::TERM, Signal::KILL] {
        let Ok(found) = docker.inspect_exec(&exec).await else { return };
        let (Some(true), Some(pid), Some(container)) =
            (found.running, found.pid, found.container_id)
        else {
            return;
        };
        // Another process may have the number, where krane has a container or a
        // machine of its own.
        let cgroup = tokio::fs::read_to_string(format!("/proc/{pid}/cgroup")).await;
        if !cgroup.is_ok_and(|cgroup| cgroup.contains(&container)) {
            return;
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if pid.is_none_or(|pid| kill_process(pid, told).is_err()) {
            return;
        }
        tracing::debug!(exec, ?told, "a command that nobody reads is told to end");
        tokio::time::sleep(END_PAUSE).await;
    }
}

async fn feed(
    docker: Docker,
    exec: String,
    mut input: BoxStream<'static, Input>,
    mut stdin: Pin<Box<dyn AsyncWrite + Send>>,
) {
    while let Some(message) = input.next().await {
        match message {
            Input::Stdin(bytes) => {
                let written = async {
                    stdin.write_all(&bytes).await?;
                    stdin.flush().await
                };
                if written.await.is_err() {
                    return;
                }
            }
            Input::CloseStdin(_) => {
                let _ = stdin.shutdown().await;
            }
            Input::Resize(size) => {
                let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                resize(&docker, &exec, cells(size.columns), cells(size.rows)).await;
            }
            Input::Start(_) => {}
        }
    }
    // The caller has no more to say; what the command prints is still passed on.
    let _ = stdin.shutdown().await;
    std::future::pending::<()>().await;
}

async fn resize(docker: &Docker, exec: &str, width: u16, height: u16) {
    let size = ResizeExecOptions { height, width };
    if let Err(error) = docker.resize_exec(exec, size).await {
        tracing::debug!(exec, %error, "the terminal keeps its size");
    }
}

/// The output may end a moment before the command is known to have.
async fn exit_code(docker: &Docker, exec: &str) -> Result<i32, BackendError> {
    let asking = async {
        loop {
            let found = docker.inspect_exec(exec).await.map_err(|error| failed(&error))?;
            if found.running != Some(true)
                && let Some(code) = found.exit_code
            {
                return Ok(i32::try_from(code).unwrap_or(-1));
            }
            tokio::time::sleep(EXIT_PAUSE).await;
        }
    };
    tokio::time::timeout(EXIT_LIMIT, asking).await.unwrap_or_else(|_| {
        Err(BackendError::Unavailable("the command's exit code is not known".to_owned()))
    })
}
