//! HTTP: paths, verbs and answers.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{Method, Request, Response, StatusCode},
};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Shared, TOKEN, apply, containers, fields,
    kinds::{KINDS, Kind},
    refusal::{Answer, Refusal},
    store::{Id, Store},
    watching::{self, Selection},
};

/// Longest request body.
const MOST: usize = 3 << 20;

/// Every connection ends with it.
pub async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&shared, request).await) }
        });
        connections.spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let io = TokioIo::new(stream);
            let _ = server.serve_connection_with_upgrades(io, service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// What a path names.
struct Place {
    kind: &'static Kind,
    namespace: String,
    name: Option<String>,
    sub: Option<String>,
}

fn place(path: &str) -> Option<Place> {
    let mut parts = path.trim_start_matches('/').split('/');
    let (group, version) = match parts.next()? {
        "api" => ("", parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let known = |kind: &&Kind| {
        (kind.group, kind.version) == (group, version) && Some(&kind.plural) == rest.first()
    };
    Some(Place {
        kind: KINDS.iter().find(known)?,
        namespace: namespace.to_owned(),
        name: rest.get(1).map(|name| (*name).to_owned()),
        sub: rest.get(2).map(|sub| (*sub).to_owned()),
    })
}

impl Place {
    fn id(&self) -> Id {
        let name = self.name.clone().unwrap_or_default();
        Id::new(self.kind.plural, &self.namespace, &name)
    }

    fn resource(&self) -> String {
        match &self.sub {
            Some(sub) => format!("{}/{sub}", self.kind.plural),
            None => self.kind.plural.to_owned(),
        }
    }
}

pub fn pairs(query: &str) -> Vec<(String, String)> {
    let url = format!("http://x/?{query}");
    let url = reqwest::Url::parse(&url).unwrap();
    url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

async fn answer(shared: &Arc<Shared>, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if bearer != Some(&format!("Bearer {TOKEN}")) {
        return refused(&Refusal::new(401, "Unauthorized", "Unauthorized"));
    }
    if shared.take_throttle() {
        let text = "too many requests, please try again later";
        let busy = Refusal { retry_after: 1, ..Refusal::new(429, "TooManyRequests", text) };
        return refused(&busy);
    }
    let path = request.uri().path().to_owned();
    if path == "/version" {
        let version = json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0-tests",
            "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
            "compiler": "", "platform": ""});
        return json_answer(StatusCode::OK, &version);
    }
    match route(shared, &path, request).await {
        Ok(response) => response,
        Err(refusal) => refused(&refusal),
    }
}

async fn route(
    shared: &Arc<Shared>,
    path: &str,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Refusal> {
    let all = pairs(request.uri().query().unwrap_or_default());
    let query: HashMap<String, String> = all.iter().cloned().collect();
    if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
        let review = body(request).await?;
        return Ok(json_answer(StatusCode::CREATED, &shared.review(review)));
    }
    let Some(place) = place(path) else {
        return Err(Refusal::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        ));
    };
    let verb = verb(request.method(), &place, &query);
    let name = place.name.clone().unwrap_or_default();
    shared.requests.lock().unwrap().push((verb.to_owned(), place.resource(), name));
    shared.authorize(verb, &place.resource(), place.kind.group, &place.namespace)?;
    match (verb, place.sub.as_deref()) {
        ("get", Some("log")) => containers::log(shared, &place.id(), &query).await,
        (_, Some("exec")) => containers::exec(shared, &place.id(), &all, request),
        ("get", _) => {
            let found = shared.store().get(&place.id()).cloned();
            found
                .map(|value| json_answer(StatusCode::OK, &value))
                .ok_or_else(|| Refusal::not_found(&place.id()))
        }
        ("list" | "watch", _) => {
            let wanted = Selection::new(place.kind.plural, &place.namespace, &query);
            Ok(match verb {
                "list" => json_answer(StatusCode::OK, &watching::list(shared, &wanted, &query)),
                _ => Response::builder()
                    .header("content-type", "application/json")
                    .body(Body::from_stream(watching::watch(shared, wanted, &query)))
                    .unwrap(),
            })
        }
        _ => change(shared, verb, &place, &query, request).await,
    }
}

fn verb(method: &Method, place: &Place, query: &HashMap<String, String>) -> &'static str {
    match (method, &place.name) {
        (&Method::GET, Some(_)) => "get",
        (&Method::GET, None) if query.get("watch").is_some_and(|text| text == "true") => "watch",
        (&Method::GET, None) => "list",
        (&Method::POST, _) => "create",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, _) => "delete",
        _ => "update",
    }
}

async fn change(
    shared: &Arc<Shared>,
    verb: &str,
    place: &Place,
    query: &HashMap<String, String>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Refusal> {
    let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().to_owned();
    let given = body(request).await?;
    let manager = query.get("fieldManager").cloned().unwrap_or_else(|| "unknown".to_owned());
    let id = place.id();
    let strict = query.get("fieldValidation").is_some_and(|text| text == "Strict");
    let made = match verb {
        "create" => {
            let mut value = given;
            check(place, &value, true)?;
            value["metadata"]["namespace"] = json!(place.namespace);
            (
                StatusCode::CREATED,
                shared.write(|store| store.create(place.kind.plural, value, &manager)),
            )
        }
        "patch" if kind.starts_with("application/apply-patch") => {
            check(place, &given, strict)?;
            if !shared.is_allowed("create", place.kind.plural) && shared.store().get(&id).is_none()
            {
                shared.authorize("create", place.kind.plural, place.kind.group, &id.namespace)?;
            }
            let force = query.get("force").is_some_and(|text| text == "true");
            let new = shared.store().get(&id).is_none();
            let code = if new { StatusCode::CREATED } else { StatusCode::OK };
            (code, shared.write(|store| store.apply(&id, given, &manager, force)))
        }
        "patch" => (StatusCode::OK, shared.write(|store| patch(store, place, &given, &manager))),
        "delete" => {
            let policy = given["propagationPolicy"]
                .as_str()
                .or(query.get("propagationPolicy").map(String::as_str));
            let policy = policy.map(str::to_owned);
            let grace = given["gracePeriodSeconds"].as_i64();
            let answer = shared.write(|store| store.delete(&id, policy.as_deref(), grace));
            (StatusCode::OK, answer)
        }
        _ => return Err(Refusal::new(405, "MethodNotAllowed", "not in these tests")),
    };
    made.1.map(|value| json_answer(made.0, &value))
}

fn patch(store: &mut Store, place: &Place, given: &Value, manager: &str) -> Answer {
    let id = place.id();
    let present = store.get(&id).cloned().ok_or_else(|| Refusal::not_found(&id))?;
    apply::precondition(&present, given, &id)?;
    let status = place.sub.as_deref() == Some("status");
    store.edit(&id, manager, |value| {
        let mut patch = given.clone();
        if let Some(map) = patch.as_object_mut() {
            // A subresource changes its own part alone, and nothing else does.
            match status {
                true => map.retain(|key, _| key == "status"),
                false => drop(map.remove("status")),
            }
        }
        fields::merge(value, &patch);
    })
}

fn check(place: &Place, value: &Value, strict: bool) -> Result<(), Refusal> {
    let wanted = (place.kind.api_version(), place.kind.kind);
    let given = (value["apiVersion"].as_str(), value["kind"].as_str());
    if given != (Some(wanted.0.as_str()), Some(wanted.1)) {
        let text = format!("the object is {given:?} and not {wanted:?}");
        return Err(Refusal::new(400, "BadRequest", text));
    }
    if strict {
        place.kind.check_schema(value).map_err(|problem| {
            let text = format!("strict decoding error: {problem}");
            Refusal::new(400, "BadRequest", text)
        })?;
    }
    Ok(())
}

async fn body(request: Request<hyper::body::Incoming>) -> Result<Value, Refusal> {
    let limited = http_body_util::Limited::new(request.into_body(), MOST);
    let reading = tokio::time::timeout(Duration::from_secs(10), limited.collect());
    let bytes: Bytes = match reading.await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => return Err(Refusal::new(413, "RequestEntityTooLarge", "too large, or too slow")),
    };
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(400, "BadRequest", error.to_string()))
}

pub fn json_answer(code: StatusCode, value: &Value) -> Response<Body> {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(value.to_string()))
        .unwrap()
}

pub fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = json_answer(StatusCode::from_u16(refusal.code).unwrap(), &refusal.status());
    if refusal.retry_after > 0 {
        response.headers_mut().insert("retry-after", refusal.retry_after.into());
    }
    response
}
