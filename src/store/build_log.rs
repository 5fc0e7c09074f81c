//! Build output: durable, in order, with a cursor.

use launchway_workflows::{
    ids::DeploymentId,
    ports::{BuildEvent, BuildEventKind},
};
use sqlx::Row;

use super::{Result, Store, commit, database};

impl Store {
    pub(super) async fn append_log(&self, id: &DeploymentId, events: &[BuildEvent]) -> Result<()> {
        let mut tx = self.write().await?;
        // Locks the row, so that numbers are given out in order on Postgres.
        let attempt: i64 =
            sqlx::query("UPDATE deployments SET attempt = attempt WHERE id = $1 RETURNING attempt")
                .bind(id.as_str())
                .fetch_one(&mut *tx)
                .await
                .and_then(|row| row.try_get("attempt"))
                .map_err(database)?;
        let last: Option<i64> =
            sqlx::query("SELECT MAX(line) AS last FROM build_logs WHERE deployment_id = $1")
                .bind(id.as_str())
                .fetch_one(&mut *tx)
                .await
                .and_then(|row| row.try_get("last"))
                .map_err(database)?;
        let mut line = last.unwrap_or(0);
        for event in events {
            line += 1;
            let (kind, text, duration) = columns(&event.kind);
            sqlx::query(
                "INSERT INTO build_logs (deployment_id, line, attempt, at, vertex, kind, text, duration_ms) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(id.as_str())
            .bind(line)
            .bind(attempt)
            .bind(event.at)
            .bind(event.vertex.as_str())
            .bind(kind)
            // Postgres has no NUL in texts.
            .bind(text.replace('\0', "\u{fffd}"))
            .bind(duration)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        }
        commit(tx).await?;
        self.changed(id);
        Ok(())
    }
}

fn columns(kind: &BuildEventKind) -> (&'static str, &str, i64) {
    match kind {
        BuildEventKind::Started => ("vertex-started", "", 0),
        BuildEventKind::Done { duration_ms } => ("vertex-done", "", *duration_ms),
        BuildEventKind::Cached => ("vertex-cached", "", 0),
        BuildEventKind::Failed { duration_ms, error } => ("vertex-failed", error, *duration_ms),
        BuildEventKind::Stdout(text) => ("stdout", text, 0),
        BuildEventKind::Stderr(text) => ("stderr", text, 0),
    }
}
