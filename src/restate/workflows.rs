//! The workflows of deployments, as the durable core asks for them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use launchway_workflows::{
    ids::{DeploymentId, InvocationId},
    ports::{
        Invocations, Restarted, RestateSilent, Retirable, ScaleUnderWay, Workflow, WorkflowState,
    },
    services::janitor::{SWEEP, SweepRequest},
    step::Step,
};
use serde::Deserialize;

use super::{
    RestateError,
    admin::{AdminClient, JournalEntry, literal},
    ingress::IngressClient,
    millis,
};

/// Between two messages of the same: the first may have been killed.
const SEND_AGAIN: Duration = Duration::from_secs(60);

const COLUMNS: &str = "SELECT i.id, i.target_service_key, i.target_handler_name, i.status, \
     i.last_failure, i.last_start_at, d.endpoint FROM sys_invocation i \
     LEFT JOIN sys_deployment d ON d.id = i.pinned_deployment_id";

/// Restate's admin API and ingress together; cheap to clone.
#[derive(Clone)]
pub struct Workflows {
    admin: AdminClient,
    ingress: IngressClient,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(default)]
    target_service_key: Option<String>,
    #[serde(default)]
    target_handler_name: String,
    status: String,
    #[serde(default)]
    last_failure: Option<String>,
    #[serde(default)]
    last_start_at: Option<String>,
    #[serde(default)]
    endpoint: Option<String>,
}

impl Workflows {
    /// Over these.
    pub fn new(admin: AdminClient, ingress: IngressClient) -> Self {
        Self { admin, ingress }
    }

    /// The latest `deploy` of a deployment, as far as Restate remembers.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn newest(&self, id: &DeploymentId) -> Result<Option<Workflow>, RestateError> {
        let condition = format!(
            "i.target_service_name = 'Deployment' AND i.target_service_key = '{id}' \
             AND i.target_handler_name = 'deploy' ORDER BY i.created_at DESC LIMIT 1"
        );
        Ok(self.find(&condition).await?.pop())
    }

    /// The invocation, as far as Restate remembers it.
    ///
    /// # Errors
    /// Restate does not answer.
    pub async fn find_one(&self, id: &InvocationId) -> Result<Option<Workflow>, RestateError> {
        Ok(self.find(&format!("i.id = '{}'", literal(&id.0))).await?.pop())
    }

    async fn find(&self, condition: &str) -> Result<Vec<Workflow>, RestateError> {
        let rows: Vec<Row> = self.admin.query(&format!("{COLUMNS} WHERE {condition}")).await?;
        Ok(rows.into_iter().map(workflow).collect())
    }
}

fn workflow(row: Row) -> Workflow {
    Workflow {
        invocation: InvocationId(row.id),
        deployment_id: row.target_service_key.and_then(|key| key.parse().ok()),
        handler: row.target_handler_name,
        state: state_of(&row.status),
        last_failure: row.last_failure,
        tried_at: millis(row.last_start_at.as_deref()),
        journal_version: row.endpoint.as_deref().and_then(journal_version),
    }
}

/// Restate's status of an invocation.
pub fn state_of(status: &str) -> WorkflowState {
    match status {
        "running" => WorkflowState::Running,
        "suspended" => WorkflowState::Suspended,
        "backing-off" => WorkflowState::BackingOff,
        "paused" => WorkflowState::Paused,
        "completed" => WorkflowState::Completed,
        _ => WorkflowState::Waiting,
    }
}

/// The worker's URL ends in `/j` and the version.
fn journal_version(endpoint: &str) -> Option<u32> {
    endpoint.trim_end_matches('/').rsplit_once("/j")?.1.parse().ok()
}

/// The index before the step's first own entry: everything up to it is kept.
fn kept_until(entries: &[JournalEntry], step: Step) -> Option<u32> {
    let own = |entry: &&JournalEntry| entry.name == step.name() && entry.entry.ends_with("Run");
    entries.iter().find(own)?.index.checked_sub(1)
}

#[async_trait]
impl Invocations for Workflows {
    async fn idempotency_key(&self, id: &InvocationId) -> Result<Option<String>, RestateSilent> {
        self.admin.idempotency_key(&id.0).await.map_err(silent)
    }

    async fn workflow(&self, id: &InvocationId) -> Result<Option<Workflow>, RestateSilent> {
        self.find_one(id).await.map_err(silent)
    }

    async fn latest(&self, id: &DeploymentId) -> Result<Option<Workflow>, RestateSilent> {
        self.newest(id).await.map_err(silent)
    }

    async fn unfinished(&self) -> Result<Vec<Workflow>, RestateSilent> {
        self.find(
            "i.target_service_name IN ('Deployment', 'Deployments', 'Scale') \
             AND i.status <> 'completed'",
        )
        .await
        .map_err(silent)
    }

    async fn cancel(&self, id: &InvocationId) -> Result<(), RestateSilent> {
        gone_is_fine(self.admin.cancel(&id.0).await)?;
        self.resume(id).await
    }

    async fn resume(&self, id: &InvocationId) -> Result<(), RestateSilent> {
        gone_is_fine(self.admin.resume(&id.0).await)
    }

    async fn reschedule(&self, id: &InvocationId) -> Result<(), RestateSilent> {
        gone_is_fine(self.admin.pause(&id.0).await)?;
        self.resume(id).await
    }

    async fn restart(&self, ended: &InvocationId, from: Step) -> Result<Restarted, RestateSilent> {
        if self.admin.restarted_from(&ended.0).await.map_err(silent)? {
            return Ok(Restarted::Yes);
        }
        let forgotten = || Restarted::Refused("Restate has forgotten its journal".to_owned());
        match self.admin.invocation(&ended.0).await.map_err(silent)? {
            None => return Ok(forgotten()),
            Some(row) if row.status != "completed" => return Ok(Restarted::NotYet),
            Some(_) => {}
        }
        let entries = self.admin.journal(&ended.0).await.map_err(silent)?;
        if entries.is_empty() {
            return Ok(forgotten());
        }
        let Some(index) = kept_until(&entries, from) else {
            let reason = format!("its journal has no entry of `{from}`");
            return Ok(Restarted::Refused(reason));
        };
        match self.admin.restart_as_new(&ended.0, index).await {
            Ok(()) => Ok(Restarted::Yes),
            Err(RestateError::Refused { status: 400..=499, message }) => {
                Ok(Restarted::Refused(format!("Restate refuses: {message}")))
            }
            Err(error) => Err(silent(error)),
        }
    }

    async fn retire(&self, candidate: &Retirable) -> Result<(), RestateSilent> {
        let Retirable { deployment_id: id, generation } = candidate;
        let key = format!("overdue-{generation}-{}", period());
        let target = format!("Retirement/{id}/retire");
        self.ingress.send_once(&target, &key, candidate).await.map_err(silent)
    }

    async fn sweep(&self, number: u64) -> Result<(), RestateSilent> {
        let key = format!("sweep-{number}");
        let request = SweepRequest::default();
        self.ingress.send_once(SWEEP, &key, &request).await.map_err(silent)
    }

    async fn settle_scale(&self, left: &ScaleUnderWay) -> Result<(), RestateSilent> {
        let key = format!("settle-{}-{}", left.by, period());
        let target = format!("Scale/{}/settle", left.environment_id);
        self.ingress.send_once(&target, &key, left).await.map_err(silent)
    }

    async fn unwind(&self, id: &DeploymentId) -> Result<(), RestateSilent> {
        self.ingress.send(&format!("Deployment/{id}/unwind")).await.map_err(silent)
    }
}

/// Part of the key of a message that is sent once in each.
fn period() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / SEND_AGAIN.as_secs()
}

fn silent(error: RestateError) -> RestateSilent {
    RestateSilent(error.to_string())
}

/// It has ended, or is in a state in which the request means nothing.
fn gone_is_fine(result: Result<(), RestateError>) -> Result<(), RestateSilent> {
    match result {
        Ok(()) | Err(RestateError::Refused { status: 400..=499, .. }) => Ok(()),
        Err(error) => Err(silent(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u32, entry: &str, name: &str) -> JournalEntry {
        JournalEntry {
            index,
            entry: entry.to_owned(),
            name: name.to_owned(),
            ..JournalEntry::default()
        }
    }

    #[test]
    fn a_restart_keeps_what_is_before_the_steps_first_entry() {
        let journal = [
            entry(0, "Command: Input", ""),
            entry(1, "Command: Run", "load-deployment"),
            entry(3, "Command: Run", "await-ready"),
            entry(5, "Command: Call", "Waits/ready"),
            entry(9, "Command: Run", "undo-deploy-to-krane"),
        ];
        assert_eq!(kept_until(&journal, Step::AwaitReady), Some(2));
        assert_eq!(kept_until(&journal, Step::LoadDeployment), Some(0));
        assert_eq!(kept_until(&journal, Step::DeployToKrane), None);
    }

    #[test]
    fn the_journal_version_is_the_end_of_the_workers_url() {
        assert_eq!(journal_version("http://127.0.0.1:9080/j12/"), Some(12));
        assert_eq!(journal_version("http://127.0.0.1:9080/jobs"), None);
        assert_eq!(journal_version("http://127.0.0.1:9080"), None);
    }
}
