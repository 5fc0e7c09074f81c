//! Verbs that explain: why a deployment is where it is, and its journal.

use launchway_proto::ctrl::v1::{ExplainDeploymentRequest, GetJournalRequest};
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::Global,
    connect::connect,
    render::{Renderer, emit, print, some, table},
    time::clock,
};

pub(super) async fn why(global: &Global, deployment_id: String) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let answer =
        api.deployments.explain_deployment(ExplainDeploymentRequest { deployment_id }).await;
    let why = answer.map_err(|status| Failure::of_call(&status))?.into_inner();
    match global.json {
        true => emit(&json!({
            "type": "result", "deployment_id": why.deployment_id, "state": why.state,
            "waiting_for": why.waiting_for, "since": why.since, "next": why.next,
            "remedy": why.remedy, "paragraph": why.paragraph,
        })),
        false => print(&why.paragraph),
    }
    Ok(Exit::Success)
}

pub(super) async fn journal(
    global: &Global,
    deployment_id: String,
    attempt: Option<u32>,
) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let request = GetJournalRequest { deployment_id, attempt: attempt.unwrap_or(0) };
    let answer = api.deployments.get_journal(request).await;
    let journal = answer.map_err(|status| Failure::of_call(&status))?.into_inner();
    if global.json {
        let entries: Vec<Value> = journal
            .entries
            .iter()
            .map(|entry| {
                json!({
                    "index": entry.index, "entry": entry.entry, "name": entry.name,
                    "status": entry.status, "attempt": entry.attempt,
                    "started_at": entry.started_at, "ended_at": entry.ended_at,
                    "error": some(&entry.error),
                })
            })
            .collect();
        emit(&json!({"type": "result", "from_history": journal.from_history, "entries": entries}));
        return Ok(Exit::Success);
    }
    if journal.from_history {
        Renderer::for_people().note("Restate does not have this journal any more: this is the copy that launchway has saved");
    }
    let rows: Vec<Vec<String>> = journal
        .entries
        .into_iter()
        .map(|entry| {
            vec![
                entry.index.to_string(),
                entry.entry,
                entry.name,
                entry.status,
                entry.started_at.map(clock).unwrap_or_default(),
                entry.ended_at.map(clock).unwrap_or_default(),
                entry.error,
            ]
        })
        .collect();
    table(&["INDEX", "ENTRY", "NAME", "STATUS", "STARTED", "ENDED", "ERROR"], &rows);
    Ok(Exit::Success)
}
