//! Opening and migrating.

use std::{borrow::Cow, fs::OpenOptions, os::unix::fs::OpenOptionsExt, time::Duration};

use sqlx::{
    AnyPool, Executor,
    any::AnyPoolOptions,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::sync::{broadcast, watch};

use super::{CHANGE_BUFFER, ChangeLog, Dialect, Store};

const SQLITE: &[(i64, &str, &str)] = &[
    (1, "start", include_str!("../../migrations/sqlite/0001_start.sql")),
    (2, "attempts", include_str!("../../migrations/sqlite/0002_attempts.sql")),
    (3, "journals", include_str!("../../migrations/sqlite/0003_journals.sql")),
    (4, "depot", include_str!("../../migrations/sqlite/0004_depot.sql")),
    (5, "stops", include_str!("../../migrations/sqlite/0005_stops.sql")),
    (6, "applications", include_str!("../../migrations/sqlite/0006_applications.sql")),
    (7, "purpose", include_str!("../../migrations/sqlite/0007_purpose.sql")),
    (8, "retention", include_str!("../../migrations/sqlite/0008_retention.sql")),
    (9, "eviction", include_str!("../../migrations/sqlite/0009_eviction.sql")),
    (10, "scales", include_str!("../../migrations/sqlite/0010_scales.sql")),
];
const POSTGRES: &[(i64, &str, &str)] = &[
    (1, "start", include_str!("../../migrations/postgres/0001_start.sql")),
    (2, "attempts", include_str!("../../migrations/postgres/0002_attempts.sql")),
    (3, "journals", include_str!("../../migrations/postgres/0003_journals.sql")),
    (4, "depot", include_str!("../../migrations/postgres/0004_depot.sql")),
    (5, "stops", include_str!("../../migrations/postgres/0005_stops.sql")),
    (6, "applications", include_str!("../../migrations/postgres/0006_applications.sql")),
    (7, "purpose", include_str!("../../migrations/postgres/0007_purpose.sql")),
    (8, "retention", include_str!("../../migrations/postgres/0008_retention.sql")),
    (9, "eviction", include_str!("../../migrations/postgres/0009_eviction.sql")),
    (10, "scales", include_str!("../../migrations/postgres/0010_scales.sql")),
];

/// Readers of a busy control plane; writers of SQLite queue behind one another.
const MAX_CONNECTIONS: u32 = 8;
/// Longest wait for a connection, or for SQLite's write lock.
const WAIT: Duration = Duration::from_secs(10);

/// The database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither SQLite nor Postgres.
    #[error("database.url `{0}` is refused: it must begin with sqlite:// or postgres://")]
    Scheme(String),
    /// The file of an SQLite database cannot be made.
    #[error("the database file {path} cannot be opened: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// No connection.
    #[error("the database does not answer: {0}")]
    Connect(sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database cannot be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl Store {
    /// Opens, creating an SQLite file (0600) where there is none, and brings
    /// the schema up to date.
    ///
    /// # Errors
    /// [`OpenError`], which never shows the URL's password.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let dialect = dialect_of(url)?;
        let pool = connect(url, dialect, MAX_CONNECTIONS).await?;
        let writer = match dialect {
            Dialect::Sqlite => connect(url, dialect, 1).await?,
            Dialect::Postgres => pool.clone(),
        };
        migrator(dialect).run(&writer).await?;
        let (changes, _) = broadcast::channel(CHANGE_BUFFER);
        let (routes, _) = watch::channel(ChangeLog::default());
        Ok(Self { pool, writer, dialect, changes, routes })
    }
}

fn dialect_of(url: &str) -> Result<Dialect, OpenError> {
    match url.split_once("://") {
        Some(("sqlite", _)) => Ok(Dialect::Sqlite),
        Some(("postgres" | "postgresql", _)) => Ok(Dialect::Postgres),
        _ => Err(OpenError::Scheme(url.split('@').next_back().unwrap_or_default().to_owned())),
    }
}

async fn connect(url: &str, dialect: Dialect, connections: u32) -> Result<AnyPool, OpenError> {
    let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(WAIT);
    let options = match dialect {
        Dialect::Postgres => options,
        Dialect::Sqlite => {
            create_file(url.trim_start_matches("sqlite://"))?;
            options.after_connect(|connection, _| {
                Box::pin(async move {
                    // WAL lets readers go on beside the writer; FULL would
                    // sync every commit, NORMAL loses none to a killed process.
                    connection.execute("PRAGMA journal_mode = WAL").await?;
                    connection.execute("PRAGMA synchronous = NORMAL").await?;
                    connection.execute("PRAGMA foreign_keys = ON").await?;
                    connection.execute("PRAGMA busy_timeout = 10000").await?;
                    Ok(())
                })
            })
        }
    };
    options.connect(url).await.map_err(OpenError::Connect)
}

fn create_file(path: &str) -> Result<(), OpenError> {
    let path = path.split('?').next().unwrap_or(path);
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| OpenError::File { path: path.to_owned(), source })
}

fn migrator(dialect: Dialect) -> Migrator {
    let migrations = match dialect {
        Dialect::Sqlite => SQLITE,
        Dialect::Postgres => POSTGRES,
    };
    let migrations = migrations
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(
                *version,
                Cow::Borrowed(name),
                MigrationType::Simple,
                sqlx::AssertSqlSafe(*sql).into_sql_str(),
                false,
            )
        })
        .collect();
    Migrator::with_migrations(migrations)
}

use sqlx::SqlSafeStr;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_database_is_refused_by_name() {
        let error = Store::open("mysql://host/db").await.err().unwrap();
        assert!(error.to_string().contains("sqlite:// or postgres://"), "{error}");
    }

    #[test]
    fn both_databases_have_the_same_migrations() {
        let numbers = |list: &[(i64, &str, &str)]| {
            list.iter().map(|(version, name, _)| (*version, (*name).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(numbers(SQLITE), numbers(POSTGRES));
    }
}
