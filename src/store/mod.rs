//! The product's database: one SQL text for SQLite and Postgres, every status
//! write a compare-and-set.

mod archive;
mod attempts;
mod audit;
mod build_log;
mod builds;
mod changes;
mod depot;
mod domains;
mod evictions;
mod journals;
mod keys;
mod open;
mod port;
mod projects;
mod recovery;
mod releases;
mod retirement;
mod retries;
mod routes;
mod scales;
mod steps;
mod submissions;
#[cfg(test)]
mod suite;
mod unwinding;
mod variables;
mod views;
mod waits;

use std::time::{SystemTime, UNIX_EPOCH};

use launchway_workflows::{ids::DeploymentId, ports::StoreError};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Any, AnyPool, Row, Transaction, any::AnyRow};
use tokio::sync::{broadcast, watch};

pub use audit::{Act, AuditRow};
pub use changes::ChangeLog;
pub(crate) use depot::DepotClaim;
pub use domains::DomainView;
pub use evictions::Silence;
pub use journals::{JournalLine, UnsavedJournal};
pub use keys::{ApiKey, ApiKeyView, Role};
pub use open::OpenError;
pub use projects::{EnvironmentView, ProjectView};
pub use routes::RouteRow;
pub use scales::Drained;
pub use variables::VariableView;
pub use views::{AttemptView, BuildLogLine, DeploymentFilter, DeploymentView, StepView};

/// Changes that a slow watcher may lag behind before it must read afresh.
const CHANGE_BUFFER: usize = 4096;

/// The database; cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// For what only reads.
    pool: AnyPool,
    /// For what writes. SQLite has one writer at a time: its only connection is
    /// queued for here, in order, instead of being polled for by all of them.
    writer: AnyPool,
    dialect: Dialect,
    changes: broadcast::Sender<DeploymentId>,
    routes: watch::Sender<ChangeLog>,
}

/// What the two databases do not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

pub(crate) type Tx = Transaction<'static, Any>;
/// A sentence for the caller: the input, the rule and the remedy.
pub(crate) type Refusal = String;
pub(crate) type Result<T> = std::result::Result<T, StoreError>;

impl Store {
    /// The ids of deployments whose visible state has changed in this process.
    pub fn changes(&self) -> broadcast::Receiver<DeploymentId> {
        self.changes.subscribe()
    }

    /// The deployments whose routes have changed in this process.
    pub fn route_changes(&self) -> watch::Receiver<ChangeLog> {
        self.routes.subscribe()
    }

    /// Answers when the database does.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map_err(database)?;
        Ok(())
    }

    /// A transaction that will write. SQLite takes its write lock at once: a
    /// deferred one fails when another writer is between read and write.
    async fn write(&self) -> Result<Tx> {
        match self.dialect {
            Dialect::Sqlite => self.writer.begin_with("BEGIN IMMEDIATE").await,
            Dialect::Postgres => self.writer.begin().await,
        }
        .map_err(database)
    }

    fn changed(&self, id: &DeploymentId) {
        // No receiver is fine: nobody is watching.
        let _ = self.changes.send(id.clone());
    }

    /// Hostnames point to it now, or what it answers with is another.
    pub(crate) fn routes_changed(&self, id: &DeploymentId) {
        self.routes.send_modify(|log| log.note(id));
    }
}

pub(crate) fn database(error: sqlx::Error) -> StoreError {
    StoreError(error.to_string())
}

async fn commit(tx: Tx) -> Result<()> {
    tx.commit().await.map_err(database)
}

fn get<'r, T>(row: &'r AnyRow, column: &str) -> Result<T>
where
    T: sqlx::Decode<'r, Any> + sqlx::Type<Any>,
{
    row.try_get(column).map_err(database)
}

/// A column that holds something with a text form, such as an id or a status.
fn parse<T>(row: &AnyRow, column: &str) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text: String = get(row, column)?;
    text.parse().map_err(|error| StoreError(format!("column {column}: {error}")))
}

fn optional_json<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<Option<T>> {
    get::<Option<String>>(row, column)?.map(|text| from_json(&text)).transpose()
}

fn optional_id(row: &AnyRow, column: &str) -> Result<Option<DeploymentId>> {
    get::<Option<String>>(row, column)?.map(|_| parse(row, column)).transpose()
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| StoreError(format!("stored JSON: {error}")))
}

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError(format!("to JSON: {error}")))
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
