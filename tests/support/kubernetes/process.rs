//! What runs in a pod: a container, or what its image is scripted to.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    containers::Container,
    kubelet::Worker,
    scripts::{Behaviour, Life},
};

/// What stands for a second of a pod's `preStop` sleep: nothing happens in it.
const SLEEP_SECOND: Duration = Duration::from_millis(150);

/// What runs.
pub enum Process {
    Server(JoinHandle<()>),
    Nothing,
    Container(Container),
}

impl Process {
    pub fn container(&self) -> Option<&Container> {
        match self {
            Self::Container(container) => Some(container),
            Self::Server(_) | Self::Nothing => None,
        }
    }

    /// Returns once a container has ended; what is scripted is looked at.
    pub async fn ends(&self) {
        match self {
            Self::Container(container) => container.ends().await,
            Self::Server(_) | Self::Nothing => std::future::pending().await,
        }
    }
}

/// How a life ended: its code, why, and whether it was ended because the pod goes.
pub struct End {
    pub code: i32,
    pub reason: &'static str,
    pub going: bool,
}

impl Worker {
    pub async fn begin(&self, restarts: u32) -> Result<(Process, IpAddr), String> {
        let pod = self.pod().unwrap_or_default();
        let port = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64();
        self.shared.scripts.lock().unwrap().started.push(pod["metadata"]["labels"].clone());
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

    pub async fn ended(&self, process: &Process) -> Option<End> {
        let end = |code, reason| Some(End { code, reason, going: false });
        match process {
            Process::Container(container) => {
                let (code, out_of_memory) = container.ended()?;
                let reason = match (out_of_memory, code) {
                    (true, _) => "OOMKilled",
                    (false, 0) => "Completed",
                    (false, _) => "Error",
                };
                end(code, reason)
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

    pub async fn stop(&self, process: &Process, pod: &Value) {
        let pre_stop = &pod["spec"]["containers"][0]["lifecycle"]["preStop"];
        let sleep = pre_stop["sleep"]["seconds"].as_u64().unwrap_or(0);
        // It serves on while gateways look elsewhere.
        tokio::time::sleep(SLEEP_SECOND * u32::try_from(sleep).unwrap()).await;
        match process {
            Process::Server(task) => task.abort(),
            Process::Container(container) => {
                let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
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
