//! The end of attempts that did not go well.

use launchway_workflows::{
    engine::undo::Started,
    error::StepFailure,
    ids::{DeploymentId, InvocationId},
    ports::{CancelRequest, LeftBehind, UnwindStart},
    status::DeploymentStatus,
};

use super::{
    Result, Store, Tx,
    attempts::{close_steps, read_plan},
    commit, database, from_json, get, json, now_ms, parse,
};

impl Store {
    /// See `begin_unwind` of the port. A row that no attempt has taken yet is
    /// the owner's to unwind too: it was cancelled before its first step.
    pub(super) async fn close_commit(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        cause: &StepFailure,
    ) -> Result<UnwindStart> {
        let mut tx = self.write().await?;
        let closed = sqlx::query(
            "UPDATE deployments SET unwinding = 1, failure = $3, invocation_id = $2, workflow_id = $2, updated_at = $4 \
             WHERE id = $1 AND routed IS NULL AND (invocation_id = $2 OR status = 'retrying' \
             OR (status = 'pending' AND invocation_id IS NULL))",
        )
        .bind(id.as_str())
        .bind(owner.0.as_str())
        .bind(json(cause)?)
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        if closed.rows_affected() == 1 {
            // People see at once that and why it failed, not when all is undone.
            close_steps(&mut tx, id, cause).await?;
        }
        let row =
            sqlx::query("SELECT routed FROM deployments WHERE id = $1 AND invocation_id = $2")
                .bind(id.as_str())
                .bind(owner.0.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(database)?;
        commit(tx).await?;
        self.changed(id);
        if closed.rows_affected() == 1 {
            return Ok(UnwindStart::Begun);
        }
        let routed = row.map(|row| get::<Option<String>>(&row, "routed")).transpose()?.flatten();
        Ok(match routed {
            Some(routed) => UnwindStart::Committed(from_json(&routed)?),
            None => UnwindStart::NotOurs,
        })
    }

    /// See `take_over` of the port.
    pub(super) async fn take_left_behind(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<Option<LeftBehind>> {
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE deployments SET unwinding = 1, invocation_id = $2, updated_at = $3 \
             WHERE id = $1 AND routed IS NULL AND status IN ('pending', 'queued', 'building', 'pushing', \
             'deploying', 'checking', 'routing', 'retrying') \
             RETURNING failure, cancel_requested_at",
        )
        .bind(id.as_str())
        .bind(owner.0.as_str())
        .bind(now_ms())
        .fetch_optional(&mut *tx)
        .await
        .map_err(database)?;
        let Some(row) = row else { return Ok(None) };
        let failure: Option<String> = get(&row, "failure")?;
        let left = LeftBehind {
            plan: read_plan(&mut tx, id).await?,
            started: started(&mut tx, id).await?,
            failure: failure.map(|text| from_json(&text)).transpose()?,
            cancelling: get::<Option<i64>>(&row, "cancel_requested_at")?.is_some(),
        };
        commit(tx).await?;
        self.changed(id);
        Ok(Some(left))
    }

    /// See `request_cancel` of the port.
    pub(super) async fn ask_cancel(&self, id: &DeploymentId) -> Result<CancelRequest> {
        let mut tx = self.write().await?;
        // Nobody runs it yet and nobody will: the row is ended here.
        let unstarted = sqlx::query(
            "UPDATE deployments SET status = 'cancelled', cancel_requested_at = $2, updated_at = $2 \
             WHERE id = $1 AND status = 'pending' AND invocation_id IS NULL",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let row = sqlx::query(
            "UPDATE deployments SET cancel_requested_at = COALESCE(cancel_requested_at, $2) \
             WHERE id = $1 RETURNING status, routed",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .fetch_one(&mut *tx)
        .await
        .map_err(database)?;
        let status: DeploymentStatus = parse(&row, "status")?;
        let routed = get::<Option<String>>(&row, "routed")?.is_some();
        if routed || (status.is_settled() && status != DeploymentStatus::Cancelled) {
            // Nothing was asked of it: the mark is not left behind.
            drop(tx);
            return Ok(CancelRequest::TooLate(status));
        }
        commit(tx).await?;
        self.changed(id);
        Ok(match status {
            DeploymentStatus::Cancelled if unstarted.rows_affected() == 1 => {
                CancelRequest::Unstarted
            }
            DeploymentStatus::Cancelled => CancelRequest::Already,
            _ => CancelRequest::Asked,
        })
    }
}

async fn started(tx: &mut Tx, id: &DeploymentId) -> Result<Vec<Started>> {
    let rows = sqlx::query(
        "SELECT step, status FROM deployment_steps WHERE deployment_id = $1 \
         AND attempt = (SELECT attempt FROM deployments WHERE id = $1) ORDER BY position",
    )
    .bind(id.as_str())
    .fetch_all(&mut **tx)
    .await
    .map_err(database)?;
    rows.iter()
        .map(|row| {
            let status: String = get(row, "status")?;
            let ended = matches!(status.as_str(), "done" | "skipped");
            Ok(Started { step: parse(row, "step")?, ended })
        })
        .collect()
}
