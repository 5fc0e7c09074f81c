//! Commands in instances that run, over the cluster's exec.

use std::time::Duration;

use futures::{SinkExt, StreamExt, stream::BoxStream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, ResourceExt,
    api::{AttachParams, AttachedProcess, TerminalSize},
};
use launchway_proto::krane::v1::{
    DeploymentStatus, Instance, exec_input::Input, exec_output::Output,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{KubernetesBackend, objects::CONTAINER};
use crate::krane::backend::{BackendError, ExecSpec, Feed};

/// Longest wait for the connection.
const CONNECT: Duration = Duration::from_secs(15);
/// From the end of the output until the exit code is there.
const EXIT: Duration = Duration::from_secs(10);
/// Sizes and input go two ways: what is typed after a change is to find it made.
const RESIZED: Duration = Duration::from_millis(50);
/// Parts of the output on their way, and the size of one.
const PARTS: usize = 64;
const PART: usize = 16 * 1024;
/// Output kept of a check, in bytes.
const SAID: u64 = 4096;

type Sender = mpsc::Sender<Result<Output, BackendError>>;

impl KubernetesBackend {
    pub(super) async fn start_exec(
        &self,
        spec: ExecSpec,
        input: BoxStream<'static, Input>,
    ) -> Result<Feed<Output>, BackendError> {
        let (api, name) = self.running(&spec)?;
        let params = AttachParams {
            container: Some(CONTAINER.to_owned()),
            stdin: true,
            stdout: true,
            // A terminal has one output.
            stderr: !spec.tty,
            tty: spec.tty,
            max_stdin_buf_size: Some(PART),
            max_stdout_buf_size: Some(PART),
            max_stderr_buf_size: Some(PART),
        };
        let mut attached = attach(&api, &name, &spec.command, &params).await?;
        let mut sizes = attached.terminal_size();
        if let (Some((width, height)), Some(sizes)) = (spec.size, &mut sizes) {
            let _ = sizes.send(TerminalSize { width, height }).await;
        }
        Ok(pass(attached, input, sizes))
    }

    fn running(&self, spec: &ExecSpec) -> Result<(Api<Pod>, String), BackendError> {
        let known = self.table.get(&spec.deployment_id);
        let found =
            known.instances.iter().find(|instance| fits(instance, spec)).and_then(|instance| {
                self.monitor.with_state(|state| {
                    let pods = state.pods_of(&spec.deployment_id);
                    let pod = pods.into_iter().find(|pod| pod.name_any() == instance.id)?;
                    Some((pod.namespace()?, pod.name_any()))
                })
            });
        let Some((namespace, name)) = found else {
            return Err(BackendError::NotRunning(format!(
                "deployment `{}` has no such instance that runs",
                spec.deployment_id
            )));
        };
        Ok((self.api(&namespace), name))
    }
}

fn fits(instance: &Instance, spec: &ExecSpec) -> bool {
    instance.status() == DeploymentStatus::Running
        && spec.process.as_ref().is_none_or(|process| process.as_str() == instance.process)
        && spec.replica.is_none_or(|replica| replica == instance.replica)
}

async fn attach(
    api: &Api<Pod>,
    name: &str,
    command: &[String],
    params: &AttachParams,
) -> Result<AttachedProcess, BackendError> {
    match tokio::time::timeout(CONNECT, api.exec(name, command, params)).await {
        Ok(Ok(attached)) => Ok(attached),
        Ok(Err(error)) => Err(BackendError::Unavailable(format!(
            "the command was not attached to: {}",
            crate::http::deepest(&error)
        ))),
        Err(_) => Err(BackendError::Unavailable(format!(
            "the command was not attached to within {} s",
            CONNECT.as_secs()
        ))),
    }
}

type Sizes = futures::channel::mpsc::Sender<TerminalSize>;

/// The command ends with the connection, when nobody reads any more.
fn pass(
    mut attached: AttachedProcess,
    input: BoxStream<'static, Input>,
    sizes: Option<Sizes>,
) -> Feed<Output> {
    let (sender, feed) = mpsc::channel(PARTS);
    tokio::spawn(async move {
        let stdin = attached.stdin();
        let (stdout, stderr) = (attached.stdout(), attached.stderr());
        let status = attached.take_status();
        let outputs = async {
            tokio::join!(
                read(stdout, Output::Stdout, &sender),
                read(stderr, Output::Stderr, &sender)
            );
        };
        let feeding = feed_input(input, stdin, sizes);
        tokio::select! {
            () = outputs => {}
            () = sender.closed() => return attached.abort(),
            () = feeding => {}
        }
        let status = async {
            match status {
                Some(status) => status.await,
                None => None,
            }
        };
        let ended = tokio::time::timeout(EXIT, status).await.ok().flatten();
        let last = match ended {
            Some(status) => exit_code(&status).map(Output::ExitCode),
            None => Err(BackendError::Unavailable("how the command ended is not known".to_owned())),
        };
        let _ = sender.send(last).await;
    });
    ReceiverStream::new(feed).boxed()
}

async fn read<R: AsyncRead + Unpin>(
    reader: Option<R>,
    of: impl Fn(Vec<u8>) -> Output,
    sender: &Sender,
) {
    let Some(mut reader) = reader else { return };
    let mut buffer = vec![0; PART];
    while let Ok(count) = reader.read(&mut buffer).await {
        if count == 0 || sender.send(Ok(of(buffer[..count].to_vec()))).await.is_err() {
            return;
        }
    }
}

/// Does not end by itself: what the command prints is still passed on.
async fn feed_input<W: tokio::io::AsyncWrite + Unpin>(
    mut input: BoxStream<'static, Input>,
    mut stdin: Option<W>,
    mut sizes: Option<Sizes>,
) {
    while let Some(message) = input.next().await {
        match message {
            Input::Stdin(bytes) => {
                let Some(stdin) = &mut stdin else { continue };
                if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
            Input::CloseStdin(_) => stdin = close(stdin).await,
            Input::Resize(size) => {
                let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                let size = TerminalSize { width: cells(size.columns), height: cells(size.rows) };
                if let Some(sizes) = &mut sizes {
                    let _ = sizes.send(size).await;
                    tokio::time::sleep(RESIZED).await;
                }
            }
            Input::Start(_) => {}
        }
    }
    let _stdin = close(stdin).await;
    std::future::pending::<()>().await;
}

async fn close<W: tokio::io::AsyncWrite + Unpin>(stdin: Option<W>) -> Option<W> {
    if let Some(mut stdin) = stdin {
        let _ = stdin.shutdown().await;
    }
    None
}

/// `Status` says `NonZeroExitCode` with the code as a cause.
fn exit_code(status: &Status) -> Result<i32, BackendError> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_ref()?.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(BackendError::Rejected(status.message.clone().unwrap_or_default())),
    }
}

/// Runs a check in a pod; `Err` is what it said.
pub(super) async fn check(
    api: &Api<Pod>,
    name: &str,
    command: &[String],
    limit: Duration,
) -> Result<(), String> {
    let params = AttachParams {
        container: Some(CONTAINER.to_owned()),
        ..AttachParams::default().stdin(false).stdout(true).stderr(true)
    };
    let checking = async {
        let mut attached =
            attach(api, name, command, &params).await.map_err(|error| error.to_string())?;
        let (stdout, stderr) = (attached.stdout(), attached.stderr());
        let status = attached.take_status();
        let (out, err) = tokio::join!(said(stdout), said(stderr));
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        match status.as_ref().map(exit_code) {
            Some(Ok(0)) => Ok(()),
            Some(Ok(code)) => Err(format!("the check ended with {code}: {}{}", out, err)),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("how the check ended is not known".to_owned()),
        }
    };
    match tokio::time::timeout(limit, checking).await {
        Ok(result) => result,
        Err(_) => Err(format!("the check did not end within {} ms", limit.as_millis())),
    }
}

async fn said<R: AsyncRead + Unpin>(reader: Option<R>) -> String {
    let Some(mut reader) = reader else { return String::new() };
    let mut bytes = Vec::new();
    let _ = (&mut reader).take(SAID).read_to_end(&mut bytes).await;
    // The rest is read, or the command would wait for a reader.
    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
