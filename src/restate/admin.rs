//! The admin API: registration, invocations, journals.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{RestateError, client, exchange};

/// A client of the admin API; cheap to clone.
#[derive(Clone)]
pub struct AdminClient {
    http: reqwest::Client,
    url: String,
}

/// One entry of a journal, its notification joined in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalEntry {
    /// Position in the journal, from 0.
    pub index: u32,
    /// Restate's type, e.g. `Command: Run`.
    pub entry: String,
    /// The run's name, or the called handler.
    pub name: String,
    /// completed or pending.
    pub status: String,
    /// When it was journaled, where Restate says.
    pub started_at: Option<String>,
    /// When its result was.
    pub ended_at: Option<String>,
    /// The result's failure.
    pub error: String,
}

/// How an invocation stands.
#[derive(Debug, Clone, Deserialize)]
pub struct InvocationRow {
    /// Its id.
    pub id: String,
    /// running, suspended, backing-off, paused, completed, …
    pub status: String,
    /// Tries of the present attempt.
    #[serde(default)]
    pub retry_count: u64,
    /// The last transient failure.
    #[serde(default)]
    pub last_failure: Option<String>,
}

#[derive(Deserialize)]
struct Rows<T> {
    rows: Vec<T>,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

#[derive(Deserialize)]
struct JournalRow {
    index: u32,
    #[serde(default)]
    entry_type: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    entry_json: Option<String>,
    #[serde(default)]
    appended_at: Option<String>,
}

impl AdminClient {
    /// For the admin API at `url`.
    pub fn new(url: &str) -> Self {
        Self { http: client(), url: url.trim_end_matches('/').to_owned() }
    }

    /// Answers when the server is ready.
    ///
    /// # Errors
    /// It is not.
    pub async fn health(&self) -> Result<(), RestateError> {
        let url = format!("{}/health", self.url);
        exchange(self.http.get(&url), &url).await.map(drop)
    }

    /// Registers the worker. `force` would overwrite what invocations in
    /// flight run on, so it is never set.
    ///
    /// # Errors
    /// Restate cannot discover the worker, or refuses its services.
    pub async fn register(&self, worker_url: &str) -> Result<(), RestateError> {
        let url = format!("{}/deployments", self.url);
        let body = json!({ "uri": worker_url, "force": false });
        exchange(self.http.post(&url).json(&body), &url).await.map(drop)
    }

    /// Unfinished invocations. Those scheduled for later have not begun.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn unfinished(&self) -> Result<u64, RestateError> {
        let sql = "SELECT count(*) AS count FROM sys_invocation \
                   WHERE status NOT IN ('completed', 'scheduled')";
        let rows: Vec<Count> = self.query(sql).await?;
        Ok(rows.first().map_or(0, |row| row.count))
    }

    /// Unfinished invocations that are pinned to another worker URL.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn unfinished_elsewhere(&self, worker_url: &str) -> Result<u64, RestateError> {
        #[derive(Deserialize)]
        struct Pinned {
            endpoint: String,
            count: u64,
        }
        let sql = "SELECT d.endpoint, count(*) AS count FROM sys_invocation i JOIN sys_deployment d \
                   ON d.id = i.pinned_deployment_id WHERE i.status <> 'completed' GROUP BY d.endpoint";
        let own = worker_url.trim_end_matches('/');
        let rows: Vec<Pinned> = self.query(sql).await?;
        let elsewhere = rows.iter().filter(|row| row.endpoint.trim_end_matches('/') != own);
        Ok(elsewhere.map(|row| row.count).sum())
    }

    /// An invocation, if Restate still knows it.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn invocation(&self, id: &str) -> Result<Option<InvocationRow>, RestateError> {
        let sql = format!(
            "SELECT id, status, retry_count, last_failure FROM sys_invocation WHERE id = '{}'",
            literal(id)
        );
        Ok(self.query(&sql).await?.pop())
    }

    /// Invocations that wait for their next try or for a person.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn held_back(&self) -> Result<Vec<InvocationRow>, RestateError> {
        self.query(
            "SELECT id, status, retry_count, last_failure FROM sys_invocation \
             WHERE status IN ('backing-off', 'paused')",
        )
        .await
    }

    /// The `idempotency-key` header an invocation was submitted with.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn idempotency_key(&self, id: &str) -> Result<Option<String>, RestateError> {
        #[derive(Deserialize)]
        struct Submitted {
            #[serde(default)]
            idempotency_key: Option<String>,
        }
        let sql =
            format!("SELECT idempotency_key FROM sys_invocation WHERE id = '{}'", literal(id));
        let rows: Vec<Submitted> = self.query(&sql).await?;
        Ok(rows.into_iter().next().and_then(|row| row.idempotency_key))
    }

    /// A value of an object's state, if it has one.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn state(
        &self,
        service: &str,
        object: &str,
        key: &str,
    ) -> Result<Option<String>, RestateError> {
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            value_utf8: Option<String>,
        }
        let sql = format!(
            "SELECT value_utf8 FROM state WHERE service_name = '{}' AND service_key = '{}' AND key = '{}'",
            literal(service),
            literal(object),
            literal(key)
        );
        let rows: Vec<State> = self.query(&sql).await?;
        Ok(rows.into_iter().next().and_then(|row| row.value_utf8))
    }

    /// Whether an invocation was restarted already.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn restarted_from(&self, ended: &str) -> Result<bool, RestateError> {
        let sql = format!(
            "SELECT count(*) AS count FROM sys_invocation WHERE restarted_from = '{}'",
            literal(ended)
        );
        let rows: Vec<Count> = self.query(&sql).await?;
        Ok(rows.first().is_some_and(|row| row.count > 0))
    }

    /// Runs an ended invocation again, on the same code, with the entries up to
    /// and including `index` kept.
    ///
    /// # Errors
    /// Restate does not answer, or refuses: it says why.
    pub async fn restart_as_new(&self, ended: &str, index: u32) -> Result<(), RestateError> {
        self.patch(ended, &format!("restart-as-new?from={index}&deployment=keep")).await
    }

    /// Asks an invocation to end; its handler hears it at its next await.
    ///
    /// # Errors
    /// Restate does not answer, or the invocation has ended.
    pub async fn cancel(&self, invocation_id: &str) -> Result<(), RestateError> {
        self.patch(invocation_id, "cancel").await
    }

    /// Holds an invocation until it is resumed.
    ///
    /// # Errors
    /// Restate does not answer, or the invocation cannot be paused now.
    pub async fn pause(&self, invocation_id: &str) -> Result<(), RestateError> {
        self.patch(invocation_id, "pause").await
    }

    async fn patch(&self, invocation_id: &str, action: &str) -> Result<(), RestateError> {
        let url = format!("{}/invocations/{invocation_id}/{action}", self.url);
        exchange(self.http.patch(&url), &url).await.map(drop)
    }

    /// Ends the back-off or the pause of an invocation.
    ///
    /// # Errors
    /// Restate does not answer, or the invocation is not held back any more.
    pub async fn resume(&self, invocation_id: &str) -> Result<(), RestateError> {
        self.patch(invocation_id, "resume").await
    }

    /// The journal of an invocation, in order.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn journal(&self, invocation_id: &str) -> Result<Vec<JournalEntry>, RestateError> {
        let sql = format!(
            "SELECT index, entry_type, name, entry_json, appended_at FROM sys_journal \
             WHERE id = '{}' ORDER BY index",
            literal(invocation_id)
        );
        Ok(join(self.query(&sql).await?))
    }

    pub(super) async fn query<T: DeserializeOwned>(
        &self,
        sql: &str,
    ) -> Result<Vec<T>, RestateError> {
        let url = format!("{}/query", self.url);
        let request = self
            .http
            .post(&url)
            .header("accept", "application/json")
            .json(&json!({ "query": sql }));
        let body = exchange(request, &url).await?;
        let rows: Rows<T> = serde_json::from_slice(&body)
            .map_err(|error| RestateError::Refused { status: 500, message: error.to_string() })?;
        Ok(rows.rows)
    }
}

pub(super) fn literal(text: &str) -> String {
    text.replace('\'', "''")
}

/// Commands, each with the notification that completes it.
fn join(rows: Vec<JournalRow>) -> Vec<JournalEntry> {
    let mut entries: Vec<(JournalEntry, Vec<u64>)> = Vec::new();
    for row in rows {
        let json: serde_json::Value = row
            .entry_json
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        if row.entry_type.starts_with("Notification") {
            let id = find_u64(&json, &["completion_id"]);
            let command =
                entries.iter_mut().find(|(_, ids)| id.is_some_and(|id| ids.contains(&id)));
            if let Some((entry, _)) = command {
                "completed".clone_into(&mut entry.status);
                entry.ended_at = row.appended_at;
                entry.error = find_text(&json, "message").unwrap_or_default();
            }
            continue;
        }
        let ids = ["completion_id", "result_completion_id", "invocation_id_completion_id"];
        let ids: Vec<u64> = ids.iter().filter_map(|key| find_u64(&json, &[key])).collect();
        let entry = JournalEntry {
            index: row.index,
            name: row
                .name
                .filter(|name| !name.is_empty())
                .or_else(|| called(&json))
                .unwrap_or_default(),
            status: if ids.is_empty() { "completed" } else { "pending" }.to_owned(),
            entry: row.entry_type,
            started_at: row.appended_at,
            ended_at: None,
            error: String::new(),
        };
        entries.push((entry, ids));
    }
    entries.into_iter().map(|(entry, _)| entry).collect()
}

/// `Service/handler` of a call or a send.
fn called(json: &serde_json::Value) -> Option<String> {
    let target = find(json, "invocation_target")?;
    let (service, handler) = (find_text(target, "name")?, find_text(target, "handler")?);
    Some(format!("{service}/{handler}"))
}

fn find<'a>(json: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    match json {
        serde_json::Value::Object(fields) => {
            fields.get(key).or_else(|| fields.values().find_map(|value| find(value, key)))
        }
        serde_json::Value::Array(items) => items.iter().find_map(|item| find(item, key)),
        _ => None,
    }
}

fn find_u64(json: &serde_json::Value, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|key| find(json, key)?.as_u64())
}

fn find_text(json: &serde_json::Value, key: &str) -> Option<String> {
    find(json, key)?.as_str().map(str::to_owned)
}
