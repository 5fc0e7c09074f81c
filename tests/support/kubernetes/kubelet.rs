//! The kubelet and the scheduler: one worker per pod, which does what the pod's
//! image is scripted to, or runs it in a container of this machine's engine.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    Shared,
    conditions::condition,
    containers::{self, Container},
    scripts::{Behaviour, Life},
    store::{Id, now},
};

/// How often a worker looks at its pod.
const TICK: Duration = Duration::from_millis(25);
/// From its start until a node ends what it cannot keep.
const EVICTION: Duration = Duration::from_millis(300);
/// Pause between the lives of a container that ends again and again.
const BACK_OFF: Duration = Duration::from_millis(800);

pub async fn run(shared: Arc<Shared>) {
    let known: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut written = shared.written.subscribe();
    loop {
        written.mark_unchanged();
        for pod in shared.store().list("pods") {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            if known.lock().unwrap().insert(uid.clone()) {
                let id = Id::of("pods", &pod);
                tokio::spawn(Worker { shared: Arc::clone(&shared), id, uid }.run());
            }
        }
        if written.changed().await.is_err() {
            return;
        }
    }
}

pub struct Worker {
    pub shared: Arc<Shared>,
    pub id: Id,
    pub uid: String,
}

/// What runs.
enum Process {
    Server(JoinHandle<()>),
    Nothing,
    Container(Container),
}

/// How a life ended: its code, why, and whether it was ended because the pod goes.
struct End {
    code: i32,
    reason: &'static str,
    going: bool,
}

impl Worker {
    pub fn pod(&self) -> Option<Value> {
        let store = self.shared.store();
        store.get(&self.id).filter(|pod| pod["metadata"]["uid"] == *self.uid).cloned()
    }

    fn is_going(&self) -> bool {
        self.pod().is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    }

    fn behaviour(&self) -> Behaviour {
        let image = self.pod().unwrap_or_default()["spec"]["containers"][0]["image"].clone();
        self.shared.scripts.lock().unwrap().of(image.as_str().unwrap_or_default())
    }

    /// Changes the pod's status.
    fn set(&self, change: impl FnOnce(&mut Value)) {
        self.shared.write(|store| {
            if store.get(&self.id).is_some_and(|pod| pod["metadata"]["uid"] == *self.uid) {
                let _ = store.edit(&self.id, "kubelet", |pod| change(&mut pod["status"]));
            }
        });
    }

    async fn run(self) {
        if self.schedule().await && self.prepare().await {
            self.lives().await;
        }
        // A pod that has ended stays until it is deleted.
        while self.pod().is_some() && !self.is_going() {
            tokio::time::sleep(TICK).await;
        }
        self.shared.write(|store| {
            if store.get(&self.id).is_some_and(|pod| pod["metadata"]["uid"] == *self.uid) {
                let _ = store.remove(&self.id);
            }
        });
    }

    async fn schedule(&self) -> bool {
        loop {
            if self.is_going() {
                return false;
            }
            if !matches!(self.behaviour(), Behaviour::Unschedulable) {
                break;
            }
            self.set(|status| {
                let text = "0/1 nodes are available: 1 Insufficient memory.";
                condition(status, "PodScheduled", false, Some("Unschedulable"), text);
            });
            tokio::time::sleep(TICK).await;
        }
        self.shared.write(|store| {
            let _ = store.edit(&self.id, "scheduler", |pod| {
                pod["spec"]["nodeName"] = json!("node-1");
            });
        });
        self.set(|status| {
            condition(status, "PodScheduled", true, None, "");
            status["startTime"] = json!(now());
        });
        true
    }

    /// Pulls the image; false: the pod goes.
    async fn prepare(&self) -> bool {
        let mut failed = 0;
        loop {
            if self.is_going() {
                return false;
            }
            let image = self.pod().unwrap_or_default()["spec"]["containers"][0]["image"].clone();
            let image = image.as_str().unwrap_or_default().to_owned();
            let waiting = match self.behaviour() {
                Behaviour::Pull { message } => Some((failed, message)),
                Behaviour::Refused { message } => {
                    self.waiting("CreateContainerConfigError", &message, 0);
                    tokio::time::sleep(TICK).await;
                    continue;
                }
                Behaviour::Container => {
                    containers::pull(&image).await.err().map(|message| (failed, message))
                }
                _ => None,
            };
            let Some((times, message)) = waiting else { return true };
            let reason = if times == 0 { "ErrImagePull" } else { "ImagePullBackOff" };
            self.waiting(reason, &format!("failed to pull image \"{image}\": {message}"), 0);
            failed += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn waiting(&self, reason: &str, message: &str, restarts: u32) {
        self.set(|status| {
            let last = status["containerStatuses"][0]["lastState"].clone();
            let container = status["containerStatuses"][0]["containerID"].clone();
            status["containerStatuses"] = json!([{"name": "app", "ready": false, "image": "",
                "imageID": "", "restartCount": restarts, "lastState": last, "containerID": container,
                "state": {"waiting": {"reason": reason, "message": message}}}]);
        });
    }

    /// Its lives, one after the other.
    async fn lives(&self) {
        let once = self.pod().is_some_and(|pod| pod["spec"]["restartPolicy"] == "Never");
        for restarts in 0.. {
            if self.is_going() {
                return;
            }
            let (process, ip) = match self.begin(restarts).await {
                Ok(begun) => begun,
                Err(message) => {
                    self.note_end(
                        restarts,
                        &End { code: 128, reason: "StartError", going: false },
                        &message,
                        once,
                    );
                    if once { return } else { continue }
                }
            };
            let begun = now();
            self.note_running(restarts, ip, &begun);
            let evicted = matches!(self.behaviour(), Behaviour::Evicted);
            if evicted {
                tokio::time::sleep(EVICTION).await;
            }
            let end = self.until_end(&process, ip, restarts, evicted).await;
            if evicted {
                self.set(|status| {
                    status["phase"] = json!("Failed");
                    status["reason"] = json!("Evicted");
                    status["message"] = json!("The node was low on resource: memory.");
                });
                return;
            }
            if end.going {
                return;
            }
            self.note_end(restarts, &end, "", once);
            if once {
                return;
            }
            // The first time it is started again at once.
            if restarts > 0 {
                self.waiting("CrashLoopBackOff", "back-off restarting failed container", restarts);
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    async fn begin(&self, restarts: u32) -> Result<(Process, IpAddr), String> {
        let pod = self.pod().unwrap_or_default();
        let port = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64();
        let known = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok());
        let fresh = || self.shared.scripts.lock().unwrap().address();
        let told = |lines: Vec<(String, String)>| {
            self.shared.scripts.lock().unwrap().begin_life(&self.uid, Life::Told(lines));
        };
        Ok(match self.behaviour() {
            Behaviour::Container => {
                let container = Container::start(&self.shared, &pod, restarts).await?;
                let life = Life::Container(container.name.clone());
                self.shared.scripts.lock().unwrap().begin_life(&self.uid, life);
                let ip = container.ip;
                (Process::Container(container), ip)
            }
            Behaviour::Serve { status, body } => {
                told(Vec::new());
                let ip = known.unwrap_or_else(fresh);
                let port = u16::try_from(port.unwrap_or(8080)).unwrap();
                (Process::Server(tokio::spawn(serve(SocketAddr::new(ip, port), status, body))), ip)
            }
            Behaviour::Exit { output, .. } => {
                let at = || jiff::Timestamp::now().to_string();
                told(output.lines().map(|line| (at(), line.to_owned())).collect());
                (Process::Nothing, known.unwrap_or_else(fresh))
            }
            _ => {
                told(Vec::new());
                (Process::Nothing, known.unwrap_or_else(fresh))
            }
        })
    }

    fn note_running(&self, restarts: u32, ip: IpAddr, at: &str) {
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

    fn note_end(&self, restarts: u32, end: &End, message: &str, once: bool) {
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

    async fn until_end(&self, process: &Process, ip: IpAddr, restarts: u32, evicted: bool) -> End {
        let pod = self.pod().unwrap_or_default();
        let spec = &pod["spec"];
        let mut probes = super::probes::Probes::new(&spec["containers"][0], ip);
        let deadline = spec["activeDeadlineSeconds"]
            .as_u64()
            .map(|seconds| tokio::time::Instant::now() + Duration::from_secs(seconds));
        loop {
            if self.is_going() {
                self.stop(process, &pod).await;
                return End { code: 143, reason: "Error", going: true };
            }
            if let Some(end) = self.ended(process).await {
                return end;
            }
            if deadline.is_some_and(|at| tokio::time::Instant::now() >= at) {
                self.set(|status| {
                    status["phase"] = json!("Failed");
                    status["reason"] = json!("DeadlineExceeded");
                    status["message"] =
                        json!("Pod was active on the node longer than the specified deadline");
                });
                self.stop(process, &pod).await;
                return End { code: 137, reason: "Error", going: false };
            }
            let container = match process {
                Process::Container(container) => Some(container),
                Process::Server(_) | Process::Nothing => None,
            };
            if probes.look(container).await {
                // The startup or the liveness probe has failed for too long.
                self.stop(process, &pod).await;
                return End { code: 137, reason: "Error", going: false };
            }
            let ready = probes.ready && !evicted;
            self.note_ready(ready, probes.started, restarts);
            if evicted {
                return End { code: 137, reason: "Error", going: false };
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// A pod is ready with its container and all of its gates.
    fn note_ready(&self, ready: bool, started: bool, restarts: u32) {
        let Some(pod) = self.pod() else { return };
        let gates = pod["spec"]["readinessGates"].as_array().cloned().unwrap_or_default();
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let passed = gates.iter().all(|gate| {
            conditions
                .iter()
                .any(|one| one["type"] == gate["conditionType"] && one["status"] == "True")
        });
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

    async fn ended(&self, process: &Process) -> Option<End> {
        let end = |code, reason| Some(End { code, reason, going: false });
        match process {
            Process::Container(container) => {
                let (code, oom) = container.ended().await?;
                end(
                    code,
                    if oom {
                        "OOMKilled"
                    } else if code == 0 {
                        "Completed"
                    } else {
                        "Error"
                    },
                )
            }
            Process::Server(_) => match self.behaviour() {
                Behaviour::Exit { code, .. } => {
                    self.stop(process, &Value::Null).await;
                    end(code, "Error")
                }
                _ => None,
            },
            Process::Nothing => match self.behaviour() {
                Behaviour::Exit { code: 0, .. } => end(0, "Completed"),
                Behaviour::Exit { code, .. } => end(code, "Error"),
                Behaviour::OutOfMemory => end(137, "OOMKilled"),
                _ => None,
            },
        }
    }

    async fn stop(&self, process: &Process, pod: &Value) {
        let sleep =
            pod["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
        match process {
            Process::Server(task) => {
                // It serves on while gateways look elsewhere.
                tokio::time::sleep(Duration::from_millis(sleep.unwrap_or(0) * 50)).await;
                task.abort();
            }
            Process::Container(container) => {
                let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
                let sleep = sleep.unwrap_or(0);
                tokio::time::sleep(Duration::from_secs(sleep)).await;
                container.stop(grace.saturating_sub(sleep)).await;
            }
            Process::Nothing => {}
        }
    }
}

async fn serve(address: SocketAddr, status: u16, body: String) {
    let code = axum::http::StatusCode::from_u16(status).unwrap();
    let app = axum::Router::new().fallback(move || {
        let body = body.clone();
        async move { (code, body) }
    });
    let listener = TcpListener::bind(address).await.unwrap_or_else(|e| panic!("{address}: {e}"));
    let _ = axum::serve(listener, app).await;
}
