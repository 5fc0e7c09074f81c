//! What an operator can do and see: Restate's ingress, admin API and tables.

use launchway_workflows::ids::DeploymentId;
use serde_json::{Value, json};

use crate::support::Installation;

impl Installation {
    /// Calls a handler and returns its answer, or what it was refused with.
    pub async fn ask(&self, handler: &str, body: &Value) -> Result<Value, String> {
        let key = uuid::Uuid::new_v4().to_string();
        self.ingress.call(handler, &key, body).await.map_err(|error| error.to_string())
    }

    /// What `Deployment/status` says, which takes nothing.
    pub async fn state(&self, id: &DeploymentId) -> Value {
        let ingress = self.address("restate.ingress_bind");
        let request = self.http.post(format!("http://{ingress}/Deployment/{id}/status"));
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Calls a handler and does not wait for its answer.
    pub async fn send(&self, handler: &str, body: &Value) {
        let ingress = self.address("restate.ingress_bind");
        let request = self.http.post(format!("http://{ingress}/{handler}/send")).json(body);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{handler}: {}", answer.text().await.unwrap());
    }

    /// Rows of Restate's own tables; `None`: it does not answer.
    pub async fn query(&self, sql: &str) -> Option<Vec<Value>> {
        let url = format!("http://{}/query", self.address("restate.admin_bind"));
        let request = self.http.post(url).header("accept", "application/json");
        let answer = request.json(&json!({ "query": sql })).send().await.ok()?;
        let mut answer: Value = answer.json().await.ok()?;
        serde_json::from_value(answer["rows"].take()).ok()
    }

    /// The invocations of a deployment's workflow that have not ended.
    pub async fn unfinished(&self, id: &DeploymentId) -> Option<Vec<String>> {
        self.unfinished_of("Deployment", id).await
    }

    /// The invocations of an object that have not ended.
    pub async fn unfinished_of(&self, object: &str, id: &DeploymentId) -> Option<Vec<String>> {
        let sql = format!(
            "SELECT id FROM sys_invocation WHERE target_service_name = '{object}' \
             AND target_service_key = '{id}' AND status <> 'completed'"
        );
        let rows = self.query(&sql).await?;
        Some(rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect())
    }

    /// The changes of scale that have not ended.
    pub async fn unfinished_scales(&self) -> Option<Vec<String>> {
        let sql = "SELECT id FROM sys_invocation WHERE target_service_name = 'Scale' \
                   AND status <> 'completed'";
        let rows = self.query(sql).await?;
        Some(rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect())
    }

    /// `cancel` or `kill` of an invocation, as an operator can.
    pub async fn end_invocation(&self, invocation: &str, how: &str) {
        let admin = self.address("restate.admin_bind");
        let url = format!("http://{admin}/invocations/{invocation}/{how}");
        let answer = self.http.patch(url).send().await.unwrap();
        assert!(answer.status().is_success(), "{how}: {}", answer.text().await.unwrap());
    }

    /// Deployments that hold a build slot or wait for one.
    pub async fn slot_holders(&self) -> Vec<String> {
        let sql = "SELECT value_utf8 FROM state WHERE service_name = 'BuildSlots'";
        let rows = self.query(sql).await.expect("Restate answers");
        let slots = rows.iter().filter_map(|row| row["value_utf8"].as_str());
        slots
            .filter_map(|slots| serde_json::from_str::<Value>(slots).ok())
            .flat_map(|slots| [slots["holders"].clone(), slots["waiters"].clone()])
            .filter_map(|list| list.as_array().cloned())
            .flatten()
            .map(|one| one["deployment_id"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}
