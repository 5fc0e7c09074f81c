//! `run`: a command beside the instances of a deployment, once.

use std::io::Write;

use launchway_proto::{
    ctrl::v1::RunCommandRequest,
    krane::v1::{LogLine, TaskEnded, task_event::Event},
};
use launchway_workflows::names::DEFAULT_ENVIRONMENT;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Exit, Failure,
    args::{Global, RunArgs},
    connect::connect,
    deploy::here,
    project,
    render::{Renderer, emit, print},
    runtime_logs::line_json,
};

/// As shells have it for what Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

pub(super) async fn run(global: &Global, args: RunArgs) -> Result<Exit, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::usage)?;
    let request = request(global, args)?;
    let renderer = Renderer::of(global);
    tokio::select! {
        ended = follow(global, request, &renderer) => ended,
        _ = interrupt.recv() => {
            // The command ends with the call.
            renderer.note("ended: the command is stopped and removed");
            Ok(Exit::Command(INTERRUPTED))
        }
    }
}

async fn follow(
    global: &Global,
    request: RunCommandRequest,
    renderer: &Renderer,
) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let call = |status| Failure::of_call(&status);
    let mut events = api.runtime.run_command(request).await.map_err(call)?.into_inner();
    while let Some(next) = events.message().await.map_err(call)? {
        if !next.deployment_id.is_empty() {
            renderer.note(&format!("running beside {}", next.deployment_id));
        }
        match next.event.and_then(|event| event.event) {
            Some(Event::Line(line)) => show(global, &line),
            Some(Event::Ended(ended)) => return Ok(end(global, renderer, &ended)),
            Some(Event::Started(_)) | None => {}
        }
    }
    Err(Failure::new(Exit::Internal, "the command's end was not told"))
}

fn request(global: &Global, args: RunArgs) -> Result<RunCommandRequest, Failure> {
    let seconds = args.time_limit.get().as_secs().max(1);
    let mut request = RunCommandRequest {
        deployment_id: args.id.unwrap_or_default(),
        command: args.command,
        replace_entrypoint: args.replace_entrypoint,
        time_limit_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        ..RunCommandRequest::default()
    };
    if request.deployment_id.is_empty() {
        let file = project::read(here())?;
        request.project_id = project::name(global, &file, here())?;
        let environment = global.environment.clone().or(file.environment);
        request.environment_slug = environment.unwrap_or_else(|| DEFAULT_ENVIRONMENT.to_owned());
    }
    Ok(request)
}

/// Where the command has written it; a reader that went away is fine.
fn show(global: &Global, line: &LogLine) {
    match (global.json, line.stream.as_str()) {
        (true, _) => emit(&line_json(line)),
        (false, "stderr") => drop(writeln!(std::io::stderr().lock(), "{}", line.text)),
        (false, _) => print(&line.text),
    }
}

fn end(global: &Global, renderer: &Renderer, ended: &TaskEnded) -> Exit {
    let why = match (ended.timed_out, ended.oom_killed) {
        (true, _) => Some("it was ended at its time limit"),
        (_, true) => Some("it was out of memory"),
        _ => None,
    };
    if let Some(why) = why {
        renderer.warning(why);
    }
    if global.json {
        emit(&json!({
            "type": "result", "exit_code": ended.exit_code, "timed_out": ended.timed_out,
            "oom_killed": ended.oom_killed,
        }));
    }
    Exit::of_command(ended.exit_code)
}
