//! Pods as containers of this machine's Docker engine, their output and commands
//! in them.

use std::{collections::HashMap, net::IpAddr, process::Stdio, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{Request, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bollard::{Docker, container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{process::Command, sync::watch};

use super::{Shared, refusal::Refusal, scripts::Life, store::Id, websocket};

/// How often a container that has been told to have ended is asked how.
const ENDING: Duration = Duration::from_millis(10);

pub fn remove_all(containers: Vec<String>, networks: Vec<String>) {
    let docker = |args: &[&str]| {
        let _ = std::process::Command::new("docker")
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    };
    let with = |command: &[&str], names: &[String]| {
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            docker(&[command, &names].concat());
        }
    };
    with(&["rm", "-f"], &containers);
    with(&["network", "rm"], &networks);
}

async fn docker(args: &[String]) -> Result<String, String> {
    let output = Command::new("docker").args(args).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub async fn pull(image: &str) -> Result<(), String> {
    if docker(&words(&["image", "inspect", image])).await.is_ok() {
        return Ok(());
    }
    docker(&words(&["pull", image])).await.map(drop)
}

pub struct Container {
    pub name: String,
    pub ip: IpAddr,
    end: watch::Receiver<Option<End>>,
}

/// Its code, and whether it was for want of memory.
type End = (i32, bool);

impl Container {
    /// A new container for each life, as a kubelet makes it.
    pub async fn start(shared: &Shared, pod: &Value, restarts: u32) -> Result<Self, String> {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let name = format!("lwk-{}-{}-{restarts}", std::process::id(), &uid[24..]);
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let network = network_of(namespace);
        ensure_network(shared, &network).await?;
        let spec = &pod["spec"]["containers"][0];
        let mut args = words(&["run", "-d", "--name", &name, "--network", &network]);
        for alias in services(shared, pod) {
            args.extend(words(&["--network-alias", &alias]));
        }
        for (key, value) in environment(shared, namespace, spec) {
            args.extend(words(&["-e", &format!("{key}={value}")]));
        }
        if let Some(signal) = spec["lifecycle"]["stopSignal"].as_str() {
            args.extend(words(&["--stop-signal", signal]));
        }
        if let Some(memory) = spec["resources"]["limits"]["memory"].as_str() {
            args.extend(words(&["--memory", &memory.replace("Mi", "m")]));
        }
        let list = |key: &str| {
            let all = spec[key].as_array().cloned().unwrap_or_default();
            all.iter().filter_map(|part| part.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let (command, more) = (list("command"), list("args"));
        if let Some(program) = command.first() {
            args.extend(words(&["--entrypoint", program]));
        }
        args.push(spec["image"].as_str().unwrap_or_default().to_owned());
        args.extend(command.into_iter().skip(1));
        args.extend(more);
        if let Err(message) = docker(&args).await {
            let _ = docker(&words(&["rm", "-f", &name])).await;
            return Err(message);
        }
        let engine = Docker::connect_with_defaults().unwrap();
        let found = engine.inspect_container(&name, None).await.map_err(|e| e.to_string())?;
        let networks = found.network_settings.and_then(|all| all.networks).unwrap_or_default();
        let ip = networks.into_values().find_map(|network| network.ip_address?.parse().ok());
        let (noted, end) = watch::channel(None);
        tokio::spawn(note_end(engine, name.clone(), noted));
        // One that has ended already has none.
        Ok(Self { name, ip: ip.unwrap_or(IpAddr::from([127, 0, 0, 2])), end })
    }

    pub fn ended(&self) -> Option<End> {
        *self.end.borrow()
    }

    /// Returns once it has ended.
    pub async fn ends(&self) {
        if self.end.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending().await
        }
    }

    pub async fn stop(&self, grace: u64) {
        let _ = docker(&words(&["stop", "-t", &grace.to_string(), &self.name])).await;
    }

    pub async fn run(&self, command: &[String]) -> bool {
        let mut args = words(&["exec", &self.name]);
        args.extend_from_slice(command);
        docker(&args).await.is_ok()
    }
}

/// Waits for the container's end, which the engine tells before it is done with it.
async fn note_end(engine: Docker, name: String, end: watch::Sender<Option<End>>) {
    loop {
        let mut waiting = engine.wait_container(&name, None);
        let _ = waiting.next().await;
        let Ok(found) = engine.inspect_container(&name, None).await else { return };
        let state = found.state.unwrap_or_default();
        if state.running == Some(false) {
            let code = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
            let _ = end.send(Some((code, state.oom_killed == Some(true))));
            return;
        }
        tokio::time::sleep(ENDING).await;
    }
}

/// One network is made or removed at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn network_of(namespace: &str) -> String {
    format!("lwk-{}-{namespace}", std::process::id())
}

/// A pod's containers go with it, and with the last pod of a namespace its network:
/// an engine has only so many.
pub async fn forget(shared: &Shared, uid: &str, namespace: &str) {
    let lives = shared.scripts.lock().unwrap().lives(uid);
    let containers: Vec<String> = lives.iter().filter_map(Life::container).cloned().collect();
    if containers.is_empty() {
        return;
    }
    let _ = docker(&[words(&["rm", "-f"]), containers].concat()).await;
    shared.scripts.lock().unwrap().forget(uid);
    let _turn = TURN.lock().await;
    let pods = shared.store().list("pods");
    if pods.iter().any(|pod| pod["metadata"]["namespace"] == *namespace) {
        return;
    }
    let network = network_of(namespace);
    if shared.scripts.lock().unwrap().networks.remove(&network) {
        let _ = docker(&words(&["network", "rm", &network])).await;
    }
}

/// Pods of one namespace start at the same time.
async fn ensure_network(shared: &Shared, name: &str) -> Result<(), String> {
    let _turn = TURN.lock().await;
    if shared.scripts.lock().unwrap().networks.insert(name.to_owned()) {
        docker(&words(&["network", "create", name])).await?;
    }
    Ok(())
}

/// Names of the services that choose this pod.
fn services(shared: &Shared, pod: &Value) -> Vec<String> {
    let all = shared.store().list("services");
    let chosen = all.iter().filter(|service| {
        service["metadata"]["namespace"] == pod["metadata"]["namespace"]
            && service["spec"]["selector"].as_object().is_some_and(|selector| {
                selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value)
            })
    });
    chosen.filter_map(|service| service["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

fn environment(shared: &Shared, namespace: &str, spec: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for from in spec["envFrom"].as_array().into_iter().flatten() {
        let name = from["secretRef"]["name"].as_str().unwrap_or_default();
        let secret = shared.store().get(&Id::new("secrets", namespace, name)).cloned();
        for (key, value) in secret.unwrap_or_default()["data"].as_object().into_iter().flatten() {
            let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
            all.push((key.clone(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    for variable in spec["env"].as_array().into_iter().flatten() {
        let text = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
        all.push((text("name"), text("value")));
    }
    all
}

/// `pods/log`
pub async fn log(
    shared: &Arc<Shared>,
    id: &Id,
    query: &HashMap<String, String>,
) -> Result<Response<Body>, Refusal> {
    let pod = shared.store().get(id).cloned().ok_or_else(|| Refusal::not_found(id))?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let lives = shared.scripts.lock().unwrap().lives(uid);
    let is = |key: &str| query.get(key).is_some_and(|text| text == "true");
    let at = if is("previous") { 2 } else { 1 };
    let Some(life) = lives.len().checked_sub(at).and_then(|at| lives.get(at)) else {
        let text = format!("container \"app\" in pod \"{}\" is waiting to start", id.name);
        return Err(Refusal::new(400, "BadRequest", text));
    };
    match life {
        Life::Told(lines) => {
            let tail = query.get("tailLines").and_then(|text| text.parse().ok());
            let skipped = lines.len().saturating_sub(tail.unwrap_or(usize::MAX));
            let shown = lines[skipped..].iter().map(|(time, line)| match is("timestamps") {
                true => format!("{time} {line}\n"),
                false => format!("{line}\n"),
            });
            Ok(Response::new(Body::from(shown.collect::<String>())))
        }
        Life::Container(name) => Ok(Response::new(Body::from_stream(output(name, query)))),
    }
}

/// The engine gives a time with each part of a line; a kubelet gives one per line.
fn output(
    name: &str,
    query: &HashMap<String, String>,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + use<> {
    let is = |key: &str| query.get(key).is_some_and(|text| text == "true");
    let since = query.get("sinceTime").and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(is("follow"))
        .tail(query.get("tailLines").map_or("all", String::as_str))
        .since(since.map_or(0, |time| i32::try_from(time.as_second()).unwrap_or(0)))
        .build();
    let (name, timestamps) = (name.to_owned(), is("timestamps"));
    let parts = stream::once(async move {
        Docker::connect_with_defaults().unwrap().logs(&name, Some(options)).boxed()
    });
    let mut open: HashMap<bool, bool> = HashMap::new();
    parts.flatten().map(move |part| {
        let part = part.map_err(std::io::Error::other)?;
        let stderr = matches!(part, LogOutput::StdErr { .. });
        let bytes = part.into_bytes();
        let begun = open.insert(stderr, !bytes.ends_with(b"\n")).unwrap_or(false);
        let cut = bytes.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
        Ok(if begun || !timestamps { bytes.slice(cut..) } else { bytes })
    })
}

/// `pods/exec`, in the container of the present life.
pub fn exec(
    shared: &Arc<Shared>,
    id: &Id,
    query: &[(String, String)],
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Refusal> {
    let pod = shared.store().get(id).cloned().ok_or_else(|| Refusal::not_found(id))?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let lives = shared.scripts.lock().unwrap().lives(uid);
    let container = match lives.last() {
        Some(Life::Container(name)) => Some(name.clone()),
        _ => None,
    };
    let command: Vec<String> =
        query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    let tty = query.iter().any(|(key, value)| key == "tty" && value == "true");
    websocket::accept(request, move |socket| websocket::run(socket, container, command, tty))
        .ok_or_else(|| Refusal::new(400, "BadRequest", "Upgrade request required"))
}

pub fn exit_status(code: i64) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}
