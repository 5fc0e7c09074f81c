//! What the kubelet writes into a pod's status.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{conditions::condition, kubelet::Worker, process::End, store::now};

impl Worker {
    /// Changes the pod's status; one that is as it was is not written.
    pub fn set(&self, change: impl FnOnce(&mut Value)) {
        self.shared.write(|store| {
            let pod = store.get(&self.id).filter(|pod| pod["metadata"]["uid"] == *self.uid);
            let Some(before) = pod.map(|pod| &pod["status"]) else { return };
            let mut status = before.clone();
            change(&mut status);
            if status != *before {
                let _ = store.edit(&self.id, "kubelet", |pod| pod["status"] = status);
            }
        });
    }

    pub fn note_waiting(&self, reason: &str, message: &str, restarts: u32) {
        self.set(|status| {
            let last = status["containerStatuses"][0]["lastState"].clone();
            let container = status["containerStatuses"][0]["containerID"].clone();
            status["containerStatuses"] = json!([{"name": "app", "ready": false, "image": "",
                "imageID": "", "restartCount": restarts, "lastState": last, "containerID": container,
                "state": {"waiting": {"reason": reason, "message": message}}}]);
        });
    }

    pub fn note_running(&self, restarts: u32, ip: IpAddr, at: &str) {
        self.set(|status| {
            let last = status["containerStatuses"][0]["lastState"].clone();
            status["phase"] = json!("Running");
            status["podIP"] = json!(ip.to_string());
            status["podIPs"] = json!([{"ip": ip.to_string()}]);
            status["containerStatuses"] = json!([{"name": "app", "ready": false, "image": "",
                "imageID": "", "restartCount": restarts, "lastState": last,
                "containerID": format!("tests://{}/{restarts}", self.uid),
                "state": {"running": {"startedAt": at}}}]);
        });
    }

    pub fn note_end(&self, restarts: u32, end: &End, message: &str, once: bool) {
        self.set(|status| {
            let begun = status["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
            let mut state = json!({"terminated": {"exitCode": end.code, "reason": end.reason,
                "startedAt": begun, "finishedAt": now(),
                "containerID": format!("tests://{}/{restarts}", self.uid)}});
            if !message.is_empty() {
                state["terminated"]["message"] = json!(message);
            }
            status["containerStatuses"] = json!([{"name": "app", "ready": false, "image": "",
                "imageID": "", "restartCount": restarts, "state": state, "lastState": state,
                "containerID": format!("tests://{}/{restarts}", self.uid)}]);
            condition(status, "ContainersReady", false, None, "");
            condition(status, "Ready", false, None, "");
            if once {
                status["phase"] = json!(if end.code == 0 { "Succeeded" } else { "Failed" });
            }
        });
    }

    /// A pod is ready with its container and all of its gates.
    pub fn note_ready(&self, ready: bool, started: bool, restarts: u32) {
        let passed = self.look(|pod| pod.is_some_and(gates_are_open));
        self.set(|status| {
            let container = &mut status["containerStatuses"][0];
            if container["restartCount"] == restarts {
                container["ready"] = json!(ready);
                container["started"] = json!(started);
            }
            condition(status, "ContainersReady", ready, None, "");
            condition(status, "Ready", ready && passed, None, "");
        });
    }
}

fn gates_are_open(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let holds =
        |kind: &Value| conditions.iter().any(|one| one["type"] == *kind && one["status"] == "True");
    let gates = pod["spec"]["readinessGates"].as_array();
    gates.into_iter().flatten().all(|gate| holds(&gate["conditionType"]))
}
