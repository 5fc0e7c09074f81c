//! Journals of attempts that have ended, kept for longer than Restate keeps its
//! own.

use launchway_workflows::{
    ids::{DeploymentId, WorkspaceId},
    ports::StoreError,
};
use sqlx::any::AnyRow;

use super::{Result, Store, commit, database, get, parse};

/// Longest error text of an entry, in characters.
const MAX_ERROR: usize = 4 * 1024;

/// An entry of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalLine {
    /// Position in Restate's journal, from 0.
    pub position: u32,
    /// Restate's type, e.g. `Command: Run`.
    pub entry: String,
    /// The step's name, or the called handler.
    pub name: String,
    /// completed or pending.
    pub status: String,
    /// Milliseconds since the epoch.
    pub started_at: Option<i64>,
    /// Milliseconds since the epoch.
    pub ended_at: Option<i64>,
    /// Empty: none.
    pub error: String,
}

/// An ended attempt whose journal is not saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsavedJournal {
    /// Whose deployment.
    pub workspace_id: WorkspaceId,
    /// Which one.
    pub deployment_id: DeploymentId,
    /// From 1.
    pub attempt: u32,
    /// When it ended, or later; milliseconds since the epoch.
    pub ended_at: i64,
}

impl Store {
    /// Ended attempts without a saved journal, in order, after the given one.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn unsaved_journals(
        &self,
        after: Option<&UnsavedJournal>,
        limit: u32,
    ) -> Result<Vec<UnsavedJournal>> {
        let rows = sqlx::query(
            "SELECT workspace_id, id, attempt, ended_at FROM (\
             SELECT workspace_id, id, attempt, updated_at AS ended_at FROM deployments \
             WHERE journal_attempt < attempt AND status IN \
             ('live', 'ready', 'superseded', 'retiring', 'retired', 'failed', 'cancelled') \
             UNION ALL SELECT d.workspace_id, a.deployment_id AS id, a.attempt, a.ended_at \
             FROM deployment_attempts a JOIN deployments d ON d.id = a.deployment_id \
             WHERE a.journal_saved = 0) unsaved \
             WHERE id > $1 OR (id = $1 AND attempt > $2) ORDER BY id, attempt LIMIT $3",
        )
        .bind(after.map_or("", |after| after.deployment_id.as_str()))
        .bind(after.map_or(0, |after| i64::from(after.attempt)))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(unsaved).collect()
    }

    /// Saves the journal of an ended attempt, in place of an earlier copy. None
    /// at all means that it has gone: what was saved before stays, and it is
    /// not looked for again.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn save_journal(
        &self,
        id: &DeploymentId,
        attempt: u32,
        lines: &[JournalLine],
    ) -> Result<()> {
        let mut tx = self.write().await?;
        if !lines.is_empty() {
            sqlx::query("DELETE FROM journal_entries WHERE deployment_id = $1 AND attempt = $2")
                .bind(id.as_str())
                .bind(i64::from(attempt))
                .execute(&mut *tx)
                .await
                .map_err(database)?;
        }
        for line in lines {
            sqlx::query(
                "INSERT INTO journal_entries (deployment_id, attempt, position, entry, name, status, \
                 started_at, ended_at, error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(id.as_str())
            .bind(i64::from(attempt))
            .bind(i64::from(line.position))
            .bind(line.entry.as_str())
            .bind(line.name.as_str())
            .bind(line.status.as_str())
            .bind(line.started_at)
            .bind(line.ended_at)
            .bind(line.error.chars().take(MAX_ERROR).collect::<String>())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        }
        for mark in [
            "UPDATE deployments SET journal_attempt = $2 WHERE id = $1 AND attempt = $2",
            "UPDATE deployment_attempts SET journal_saved = 1 WHERE deployment_id = $1 AND attempt = $2",
        ] {
            sqlx::query(mark)
                .bind(id.as_str())
                .bind(i64::from(attempt))
                .execute(&mut *tx)
                .await
                .map_err(database)?;
        }
        commit(tx).await
    }

    /// The saved journal of an attempt, in order; empty: none was saved.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn journal(&self, id: &DeploymentId, attempt: u32) -> Result<Vec<JournalLine>> {
        let rows = sqlx::query(
            "SELECT position, entry, name, status, started_at, ended_at, error FROM journal_entries \
             WHERE deployment_id = $1 AND attempt = $2 ORDER BY position",
        )
        .bind(id.as_str())
        .bind(i64::from(attempt))
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(line).collect()
    }
}

fn unsaved(row: &AnyRow) -> Result<UnsavedJournal> {
    let workspace: String = get(row, "workspace_id")?;
    Ok(UnsavedJournal {
        workspace_id: workspace.try_into().map_err(|error| StoreError(format!("{error}")))?,
        deployment_id: parse(row, "id")?,
        attempt: number(row, "attempt")?,
        ended_at: get(row, "ended_at")?,
    })
}

fn line(row: &AnyRow) -> Result<JournalLine> {
    Ok(JournalLine {
        position: number(row, "position")?,
        entry: get(row, "entry")?,
        name: get(row, "name")?,
        status: get(row, "status")?,
        started_at: get(row, "started_at")?,
        ended_at: get(row, "ended_at")?,
        error: get(row, "error")?,
    })
}

fn number(row: &AnyRow, column: &str) -> Result<u32> {
    u32::try_from(get::<i64>(row, column)?)
        .map_err(|error| StoreError(format!("column {column}: {error}")))
}
