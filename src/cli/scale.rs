//! `scale`.

use launchway_proto::ctrl::v1::{InstanceScale, ScaleRequest};
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::{Global, ScaleArgs},
    connect::connect,
    project,
    render::{Renderer, emit, print},
};

pub(super) async fn scale(global: &Global, args: ScaleArgs) -> Result<Exit, Failure> {
    let (project_id, environment_slug) = match &args.id {
        Some(_) => Default::default(),
        None => project::environment_here(global)?,
    };
    let request = ScaleRequest {
        project_id,
        environment_slug,
        deployment_id: args.id.unwrap_or_default(),
        process: args.process.unwrap_or_default(),
        replicas: args.replicas,
        cpu_millicores: args.cpu,
        memory_mib: args.memory,
    };
    let mut api = connect(global).await?;
    let waiting = "the change goes on; `launchway inspect ID` shows what is recorded";
    let over = |why: &str| Failure::new(Exit::StillRunning, format!("{why}: {waiting}"));
    let answer = tokio::select! {
        answer = api.environments.scale(request) => answer,
        () = tokio::time::sleep(args.wait_timeout.get()) => return Err(over("the wait is over")),
        _ = tokio::signal::ctrl_c() => return Err(over("detached")),
    };
    let scaled = answer.map_err(|status| Failure::of_call(&status))?.into_inner();
    let (from, to) = (scaled.from.unwrap_or_default(), scaled.to.unwrap_or_default());
    if global.json {
        emit(&json!({
            "type": "result", "deployment_id": scaled.deployment_id, "process": scaled.process,
            "from": scale_json(&from), "to": scale_json(&to),
        }));
        return Ok(Exit::Success);
    }
    let (id, process) = (&scaled.deployment_id, &scaled.process);
    let note = format!("{process} of {id}: {}, was {}", text(&to), text(&from));
    Renderer::for_people().note(&note);
    Renderer::for_people().note(
        "new deployments of the environment have as many, unless launchway.toml or a flag says otherwise",
    );
    print(&to.replicas.to_string());
    Ok(Exit::Success)
}

fn scale_json(scale: &InstanceScale) -> Value {
    json!({
        "replicas": scale.replicas, "cpu_millicores": scale.cpu_millicores,
        "memory_mib": scale.memory_mib,
    })
}

/// `3 instances with 500 millicores and 256 MiB`
fn text(scale: &InstanceScale) -> String {
    let instances = match scale.replicas {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    };
    let limits = match (scale.cpu_millicores, scale.memory_mib) {
        (0, 0) => String::new(),
        (cpu, 0) => format!(" with {cpu} millicores"),
        (0, memory) => format!(" with {memory} MiB"),
        (cpu, memory) => format!(" with {cpu} millicores and {memory} MiB"),
    };
    format!("{instances}{limits}")
}
