//! Answers other than 2xx.

use serde_json::{Value, json};

use super::store::Id;

/// An answer other than 2xx.
#[derive(Debug, Clone, Default)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Reason and message of each.
    pub causes: Vec<(&'static str, String)>,
    pub retry_after: u32,
}

impl Refusal {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), ..Self::default() }
    }

    pub fn not_found(id: &Id) -> Self {
        let text = format!("{} \"{}\" not found", id.kind().resource(), id.name);
        Self::new(404, "NotFound", text)
    }

    pub fn status(&self) -> Value {
        let causes: Vec<Value> = self
            .causes
            .iter()
            .map(|(reason, message)| json!({"reason": reason, "message": message}))
            .collect();
        let mut details = json!({});
        if !causes.is_empty() {
            details["causes"] = json!(causes);
        }
        if self.retry_after > 0 {
            details["retryAfterSeconds"] = json!(self.retry_after);
        }
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code})
    }
}

/// What a write gives.
pub type Answer = Result<Value, Refusal>;
