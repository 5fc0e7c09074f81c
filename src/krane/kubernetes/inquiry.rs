//! What krane finds out about a pod by itself: whether it answers, and what it
//! said before it ended.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{LogParams, Patch, PatchParams},
};
use launchway_proto::krane::v1::NotReadyReason;
use launchway_workflows::ids::DeploymentId;
use serde_json::json;

use super::{
    call::call,
    exec,
    monitor::Monitor,
    names::{MANAGER, keys},
    objects::{ANSWERS, CONTAINER, Question},
    report,
    state::{key_of, uid_of},
};
use crate::krane::probe::pauses;

/// Log lines kept of an instance that ended.
const TAIL: i64 = 50;
/// Of them at most, in bytes.
const TAIL_BYTES: i64 = 64 << 10;
/// What a check by command may take longer than it asks for.
const EXEC: Duration = Duration::from_secs(2);
/// Milliseconds that the kubelet is given to end it first.
const LATE: u128 = 5000;
/// The code of what was killed.
const KILLED: i32 = 137;
/// Longest reading of them; then the end is told without.
const TAIL_LIMIT: Duration = Duration::from_secs(5);

/// A check of a pod's annotations.
struct Inquiry {
    question: Question,
    ip: IpAddr,
    timeout: Duration,
    interval: Duration,
    /// When the container was started, and how long it has to become ready.
    period: Option<i64>,
}

impl Inquiry {
    fn of(pod: &Pod) -> Option<Self> {
        let notes = pod.annotations();
        let millis = |key: &str, default| {
            let text = notes.get(key).and_then(|text| text.parse().ok());
            Duration::from_millis(text.unwrap_or(default))
        };
        Some(Self {
            question: serde_json::from_str(notes.get(keys::CHECK)?).ok()?,
            ip: pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?,
            timeout: millis(keys::CHECK_TIMEOUT, 2000),
            interval: millis(keys::CHECK_INTERVAL, 500),
            period: report::start_period(pod),
        })
    }

    async fn ask(&self, monitor: &Monitor, pod: &Pod) -> Result<(), String> {
        let address = |port: u16| SocketAddr::new(self.ip, port).to_string();
        let prober = &monitor.0.prober;
        match &self.question {
            Question::Http(port, path) => prober.http(&address(*port), path, self.timeout).await,
            Question::Tcp(port) => prober.tcp(&address(*port), self.timeout).await,
            Question::Command(command) => {
                let (api, name) = monitor.pods(pod);
                // The connection to the cluster takes its time too.
                exec::check(&api, &name, command, self.timeout + EXEC).await
            }
        }
    }
}

impl Monitor {
    /// Asks in the background until this life of the pod has answered or ended.
    pub(super) fn ask(&self, id: &DeploymentId, pod: &Pod) {
        let Some(inquiry) = Inquiry::of(pod) else { return };
        let (key, uid, life) = (key_of(pod), uid_of(pod).to_owned(), report::life(pod));
        let (id, begun) = (id.clone(), Instant::now());
        self.once(format!("ask {uid} {life}"), |this| async move {
            for pause in pauses(inquiry.interval) {
                let Some(pod) = this.same_life(&key, &uid, &life) else { return };
                let answer = inquiry.ask(&this, &pod).await;
                let Some(pod) = this.same_life(&key, &uid, &life) else { return };
                let answered = answer.is_ok();
                this.with_state(|state| {
                    let known = state.known(&uid);
                    known.probes += 1;
                    known.message = answer.err().unwrap_or_default();
                });
                if answered && this.note_answer(&pod, &life).await {
                    return;
                }
                this.publish(&id);
                if let Some(period) = inquiry.period
                    && begun.elapsed().as_millis() > u128::from(period.unsigned_abs()) + LATE
                {
                    this.give_up(&id, &pod, period);
                }
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// It takes connections, so that the kubelet finds nothing wrong with it.
    fn give_up(&self, id: &DeploymentId, pod: &Pod, period: i64) {
        let known = self.with_state(|state| state.known(uid_of(pod)).clone());
        if known.end.is_none() && !known.was_ready {
            let end = report::Ended {
                exit_code: KILLED,
                reason: NotReadyReason::ProbeFailing,
                message: format!("{}: {}", report::not_in_time(period), known.message),
                ..report::Ended::default()
            };
            self.tell_end(id, pod, String::new(), end);
        }
    }

    /// Makes the pod ready in the cluster's eyes: rollouts and budgets count it.
    async fn note_answer(&self, pod: &Pod, life: &str) -> bool {
        let condition = json!({
            "type": ANSWERS, "status": "True", "reason": "Answered", "message": life,
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        // The uid: another pod of this name has not answered.
        let patch = json!({
            "metadata": {"uid": uid_of(pod)},
            "status": {"conditions": [condition]},
        });
        let (api, name) = self.pods(pod);
        let patch = Patch::Strategic(patch);
        let params =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match call("Pod status", || api.patch_status(&name, &params, &patch)).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(pod = name, %error, "it answers, but cannot be marked ready");
                self.with_state(|state| state.known(uid_of(pod)).message = error.to_string());
                false
            }
        }
    }

    /// Reads the last lines of a container that ended, and tells its end then.
    pub(super) fn tell_end(
        &self,
        id: &DeploymentId,
        pod: &Pod,
        container: String,
        end: report::Ended,
    ) {
        let (api, name) = self.pods(pod);
        let (id, uid, running) = (id.clone(), uid_of(pod).to_owned(), report::runs(pod));
        let previous = running && !container.is_empty();
        self.once(format!("end {uid} {container}"), |this| async move {
            let params = |previous| LogParams {
                container: Some(CONTAINER.to_owned()),
                tail_lines: Some(TAIL),
                limit_bytes: Some(TAIL_BYTES),
                previous,
                ..LogParams::default()
            };
            let reading = async {
                // It may have been started again meanwhile.
                match api.logs(&name, &params(previous)).await {
                    Ok(text) => Ok(text),
                    Err(_) => api.logs(&name, &params(!previous)).await,
                }
            };
            let text = match tokio::time::timeout(TAIL_LIMIT, reading).await {
                Ok(Ok(text)) => text,
                Ok(Err(error)) => format!("its output cannot be read: {error}"),
                Err(_) => "its output could not be read in time".to_owned(),
            };
            let tail = text.lines().map(str::to_owned).collect();
            this.with_state(|state| {
                state.known(&uid).end.get_or_insert(report::Ended { tail, ..end });
            });
            this.publish(&id);
        });
    }
}
