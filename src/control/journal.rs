//! Journals as Restate has them, or as they were saved.

use std::time::Duration;

use launchway_proto::ctrl::v1::{GetJournalRequest, GetJournalResponse, JournalEntry};
use launchway_workflows::{
    ids::InvocationId,
    ports::{StoreError, Workflow},
};
use tonic::Status;

use super::{
    Control,
    deployments::{refusal, unavailable},
};
use crate::{
    restate::{RestateError, admin, millis},
    store::{AttemptView, DeploymentView, JournalLine, StepView, UnsavedJournal, now_ms},
};

/// Journals saved between two looks at the database.
const BATCH: u32 = 50;
/// A workflow is sent and remembered by Restate well within this time; one
/// that Restate does not know then, it has forgotten.
const SENT_WITHIN_MS: i64 = 60_000;

/// The journal of an attempt: Restate's own, else the saved one.
pub(super) async fn get(
    control: &Control,
    request: GetJournalRequest,
) -> Result<GetJournalResponse, Status> {
    let view = control.find(&request.deployment_id).await?;
    let attempt = if request.attempt == 0 { view.attempt } else { request.attempt };
    if attempt > view.attempt {
        let (id, attempts) = (&view.id, view.attempt);
        return Err(Status::not_found(format!(
            "deployment `{id}` has no attempt {attempt}: the last one is {attempts}"
        )));
    }
    let asked = of_restate(control, &view, attempt).await;
    if let Ok(Some(lines)) = &asked {
        return Ok(response(lines, attempt, false));
    }
    let saved = control.store.journal(&view.id, attempt).await.map_err(unavailable)?;
    let ended = attempt < view.attempt || view.status.is_settled();
    match (saved.is_empty(), asked) {
        (false, _) => Ok(response(&saved, attempt, true)),
        (true, Err(error)) => Err(refusal(error)),
        (true, Ok(_)) if ended => Err(Status::not_found(format!(
            "the journal of attempt {attempt} of `{}` is gone: Restate has forgotten it before it was saved",
            view.id
        ))),
        // Its workflow has not begun.
        (true, Ok(_)) => Ok(GetJournalResponse::default()),
    }
}

fn response(lines: &[JournalLine], attempt: u32, from_history: bool) -> GetJournalResponse {
    let entries = lines.iter().map(|line| JournalEntry {
        index: line.position,
        entry: line.entry.clone(),
        name: line.name.clone(),
        status: line.status.clone(),
        attempt,
        started_at: line.started_at,
        ended_at: line.ended_at,
        error: line.error.clone(),
    });
    GetJournalResponse { entries: entries.collect(), from_history }
}

/// The journal as Restate has it now, if it still has it: of a `deploy` that was
/// killed with that of the `unwind` that came after it.
async fn of_restate(
    control: &Control,
    view: &DeploymentView,
    attempt: u32,
) -> Result<Option<Vec<JournalLine>>, RestateError> {
    let mut all: Vec<JournalLine> = Vec::new();
    for invocation in invocations(control, view, attempt).await? {
        let rows = control.admin.journal(&invocation.0).await?;
        let first = all.last().map_or(0, |last| last.position + 1);
        all.extend(
            lines(rows, view, attempt)
                .into_iter()
                .map(|line| JournalLine { position: first + line.position, ..line }),
        );
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// Where to look for an attempt's journal: its own invocation, unless that is the
/// one that has unwound a killed `deploy`. Anybody may send another `deploy` of the
/// same deployment, which does nothing.
async fn invocations(
    control: &Control,
    view: &DeploymentView,
    attempt: u32,
) -> Result<Vec<InvocationId>, RestateError> {
    if let Some(earlier) = view.attempts.iter().find(|earlier| earlier.attempt == attempt) {
        return Ok(earlier.invocation_id.clone().into_iter().collect());
    }
    // A retry that has only just been asked for has no workflow of its own yet.
    let own = |workflow: &Workflow| {
        let earlier = |it: &AttemptView| it.invocation_id.as_ref() == Some(&workflow.invocation);
        !view.attempts.iter().any(earlier)
    };
    let owner = match &view.invocation_id {
        Some(owner) => control.workflows.find_one(owner).await?.filter(own),
        None => None,
    };
    if let Some(owner) = owner.as_ref().filter(|owner| owner.handler == "deploy") {
        return Ok(vec![owner.invocation.clone()]);
    }
    let newest = control.workflows.newest(&view.id).await?.filter(own);
    Ok(newest.into_iter().chain(owner).map(|workflow| workflow.invocation).collect())
}

/// Entries in order. Times are the product's own where it recorded the step:
/// Restate stamps the start and end of a fast step alike.
fn lines(rows: Vec<admin::JournalEntry>, view: &DeploymentView, attempt: u32) -> Vec<JournalLine> {
    let step = |name: &str| -> Option<&StepView> {
        view.steps.iter().find(|step| step.name == name && step.attempt == attempt)
    };
    let line = |row: admin::JournalEntry| {
        let recorded = step(&row.name);
        JournalLine {
            position: row.index,
            entry: row.entry,
            status: row.status,
            started_at: recorded
                .map(|step| step.started_at)
                .or_else(|| millis(row.started_at.as_deref())),
            ended_at: recorded
                .and_then(|step| step.ended_at)
                .or_else(|| millis(row.ended_at.as_deref())),
            error: row.error,
            name: row.name,
        }
    };
    rows.into_iter().map(line).collect()
}

/// Neither could be asked. The next look is soon.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum KeepError {
    Store(#[from] StoreError),
    Restate(#[from] RestateError),
}

/// Saves the journals of ended attempts, forever: Restate forgets its own. What
/// follows the commit point is part of a journal, so it is saved when the
/// invocation has completed, which is later than the deployment is live.
pub async fn keep(control: Control, every: Duration) {
    loop {
        if let Err(error) = keep_once(&control).await {
            // Either may be restarting: said by those who depend on it.
            tracing::debug!(%error, "cannot save journals now");
        }
        tokio::time::sleep(every).await;
    }
}

/// One pass over everything that is not saved, in small batches: a journal that
/// cannot be saved yet does not hold up those after it.
async fn keep_once(control: &Control) -> Result<(), KeepError> {
    let mut after: Option<UnsavedJournal> = None;
    loop {
        let batch = control.store.unsaved_journals(after.as_ref(), BATCH).await?;
        for unsaved in &batch {
            keep_one(control, unsaved).await?;
        }
        if batch.len() < BATCH as usize {
            return Ok(());
        }
        after = batch.into_iter().last();
    }
}

async fn keep_one(control: &Control, unsaved: &UnsavedJournal) -> Result<(), KeepError> {
    let (id, attempt) = (&unsaved.deployment_id, unsaved.attempt);
    let read = || control.store.deployment(&unsaved.workspace_id, id);
    let Some(view) = read().await? else { return Ok(()) };
    for invocation in invocations(control, &view, attempt).await? {
        let row = control.admin.invocation(&invocation.0).await?;
        if row.is_some_and(|row| row.status != "completed") {
            return Ok(());
        }
    }
    // Again: the last steps may have ended since.
    let Some(view) = read().await? else { return Ok(()) };
    match of_restate(control, &view, attempt).await? {
        Some(lines) => {
            control.store.save_journal(id, attempt, &lines).await?;
            tracing::info!(deployment = %id, attempt, entries = lines.len(), "journal saved");
        }
        None if now_ms() - unsaved.ended_at > SENT_WITHIN_MS => {
            tracing::warn!(deployment = %id, attempt, "its journal had gone before it was saved");
            control.store.save_journal(id, attempt, &[]).await?;
        }
        None => {}
    }
    Ok(())
}
