//! Time that passes at once.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Makes what a database has recorded that much older.
pub async fn age(database: &std::path::Path, days: i64) {
    let url = format!("sqlite://{}", database.display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let by = days * DAY_MS;
    let sql = format!(
        "UPDATE deployments SET created_at = created_at - {by}, updated_at = updated_at - {by}, \
         live_at = live_at - {by}"
    );
    sqlx::query(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
}
