//! The kubelet and the scheduler: one worker per pod, which does what the pod's
//! image is scripted to, or runs it in a container of this machine's engine.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Shared,
    conditions::condition,
    containers,
    process::{End, Process},
    scripts::Behaviour,
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

impl Worker {
    pub fn pod(&self) -> Option<Value> {
        self.look(|pod| pod.cloned())
    }

    /// Looks at the pod, if it is still there.
    pub fn look<T>(&self, look: impl FnOnce(Option<&Value>) -> T) -> T {
        let store = self.shared.store();
        look(store.get(&self.id).filter(|pod| pod["metadata"]["uid"] == *self.uid))
    }

    fn is_going(&self) -> bool {
        self.look(|pod| pod.is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null()))
    }

    pub fn behaviour(&self) -> Behaviour {
        let (image, once) = self.look(|pod| {
            let spec = pod.map_or(&Value::Null, |pod| &pod["spec"]);
            let image = spec["containers"][0]["image"].as_str().unwrap_or_default();
            (image.to_owned(), spec["restartPolicy"] == "Never")
        });
        match self.shared.scripts.lock().unwrap().of(&image) {
            Behaviour::Serve { body, .. } if once => Behaviour::Exit { code: 0, output: body },
            scripted => scripted,
        }
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
        containers::forget(&self.shared, &self.uid, &self.id.namespace).await;
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
                    self.note_waiting("CreateContainerConfigError", &message, 0);
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
            self.note_waiting(reason, &format!("failed to pull image \"{image}\": {message}"), 0);
            failed += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
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
                    if once {
                        return;
                    }
                    tokio::time::sleep(BACK_OFF).await;
                    continue;
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
                self.note_waiting(
                    "CrashLoopBackOff",
                    "back-off restarting failed container",
                    restarts,
                );
                tokio::time::sleep(BACK_OFF).await;
            }
        }
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
            // A probe of what has just ended may take long to fail.
            let failed = tokio::select! {
                failed = probes.look(process.container()) => failed,
                () = process.ends() => continue,
            };
            if failed {
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
}
