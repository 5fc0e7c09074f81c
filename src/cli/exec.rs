//! `exec`: a command in a running instance, with this process's input, output
//! and terminal.

use std::io::Write;

use futures::{Stream, StreamExt, stream};
use launchway_proto::{
    ctrl::v1::{ExecCommandRequest, ExecCommandStart, exec_command_request::Input},
    krane::v1::exec_output::Output,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Exit, Failure,
    args::{ExecArgs, Global},
    connect::connect,
    render::emit,
    terminal::{self, Raw},
};

pub(super) async fn exec(global: &Global, args: ExecArgs) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let tty = terminal::is_terminal() && !global.json;
    let start = ExecCommandStart {
        deployment_id: args.id,
        process: args.process.unwrap_or_default(),
        replica: args.replica,
        command: args.command,
        tty,
        size: if tty { terminal::size() } else { None },
    };
    let raw = if tty { Some(Raw::enter().map_err(Failure::usage)?) } else { None };
    let messages = messages(start, tty)?;
    let output = api.runtime.exec_command(messages).await;
    let mut output = output.map_err(|status| Failure::of_call(&status))?.into_inner();
    let mut code = None;
    while let Some(message) = output.message().await.map_err(|status| Failure::of_call(&status))? {
        match message.output {
            Some(Output::Stdout(bytes)) => pass(global, "stdout", &bytes),
            Some(Output::Stderr(bytes)) => pass(global, "stderr", &bytes),
            Some(Output::ExitCode(ended)) => code = Some(ended),
            None => {}
        }
    }
    drop(raw);
    let code = code.ok_or_else(|| {
        Failure::new(Exit::Internal, "the instance ended before the command was known to have")
    })?;
    if global.json {
        emit(&json!({"type": "result", "exit_code": code}));
    }
    Ok(Exit::of_command(code))
}

/// The start, then input and sizes as they come.
fn messages(
    start: ExecCommandStart,
    tty: bool,
) -> Result<impl Stream<Item = ExecCommandRequest> + Send + use<>, Failure> {
    let typed = ReceiverStream::new(terminal::input()).map(Input::Stdin);
    let typed = typed.chain(stream::iter([Input::CloseStdin(true)]));
    let mut resized = signal(SignalKind::window_change()).map_err(Failure::usage)?;
    let sizes = stream::poll_fn(move |cx| resized.poll_recv(cx));
    let sizes = sizes.filter_map(move |()| std::future::ready(terminal::size().filter(|_| tty)));
    // The call stays open for what is still to come out.
    let after = stream::pending();
    let input = stream::select(typed.chain(after), sizes.map(Input::Resize));
    let all = stream::iter([Input::Start(start)]).chain(input);
    Ok(all.map(|input| ExecCommandRequest { input: Some(input) }))
}

/// As it is; a reader that went away is fine.
fn pass(global: &Global, name: &str, bytes: &[u8]) {
    if global.json {
        let text = String::from_utf8_lossy(bytes);
        return emit(&json!({"type": "output", "stream": name, "text": text}));
    }
    let _ = match name {
        "stdout" => write_all(std::io::stdout().lock(), bytes),
        _ => write_all(std::io::stderr().lock(), bytes),
    };
}

fn write_all(mut out: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}
