//! Lists and watches: versions, selectors, bookmarks, and what is too old.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Shared, kinds, refusal::Refusal, store::Change};

/// How often a watch that is silent says how far it is.
const BOOKMARK: Duration = Duration::from_millis(500);

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub plural: String,
    pub namespace: String,
    labels: Vec<(String, Option<String>)>,
    name: Option<String>,
}

impl Selection {
    pub fn new(plural: &str, namespace: &str, query: &HashMap<String, String>) -> Self {
        let selector = query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let labels = selector.split(',').filter(|part| !part.is_empty()).map(|part| {
            match part.split_once("==").or_else(|| part.split_once('=')) {
                Some((key, value)) => (key.trim().to_owned(), Some(value.trim().to_owned())),
                None => (part.trim().to_owned(), None),
            }
        });
        let fields = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
        Self {
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            labels: labels.collect(),
            name: fields.strip_prefix("metadata.name=").map(str::to_owned),
        }
    }

    pub fn fits(&self, value: &Value) -> bool {
        let meta = &value["metadata"];
        (self.namespace.is_empty() || meta["namespace"] == *self.namespace)
            && self.name.as_ref().is_none_or(|name| meta["name"] == **name)
            && self.labels.iter().all(|(key, value)| match value {
                Some(value) => meta["labels"][key.as_str()] == **value,
                None => !meta["labels"][key.as_str()].is_null(),
            })
    }
}

/// One page.
pub fn list(shared: &Shared, wanted: &Selection, query: &HashMap<String, String>) -> Value {
    let store = shared.store();
    let found: Vec<Value> =
        store.list(&wanted.plural).into_iter().filter(|value| wanted.fits(value)).collect();
    let limit = query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    let from: usize =
        query.get("continue").and_then(|text| text.parse().ok()).unwrap_or(0).min(found.len());
    let to = from.saturating_add(limit).min(found.len());
    let kind = kinds::of(&wanted.plural);
    let mut meta = json!({"resourceVersion": store.version().to_string()});
    if to < found.len() {
        meta["continue"] = json!(to.to_string());
    }
    json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
        "metadata": meta, "items": found[from..to]})
}

struct Watch {
    shared: Arc<Shared>,
    wanted: Selection,
    /// What was told last.
    version: u64,
    bookmarks: bool,
    until: Instant,
    /// It was told that it is too old.
    over: bool,
    written: tokio::sync::watch::Receiver<u64>,
}

/// Lines of JSON, until its time is up.
pub fn watch(
    shared: &Arc<Shared>,
    wanted: Selection,
    query: &HashMap<String, String>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + use<> {
    let number = |key: &str| query.get(key).and_then(|text| text.parse::<u64>().ok());
    let watch = Watch {
        written: shared.written.subscribe(),
        shared: Arc::clone(shared),
        wanted,
        version: number("resourceVersion").unwrap_or(0),
        bookmarks: query.get("allowWatchBookmarks").is_some_and(|text| text == "true"),
        until: Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(300)),
        over: false,
    };
    stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((Ok(Bytes::from(lines)), watch))
    })
}

impl Watch {
    async fn next(&mut self) -> Option<String> {
        let bookmark = Instant::now() + BOOKMARK;
        loop {
            if self.over {
                return None;
            }
            self.written.mark_unchanged();
            let lines = self.news();
            if !lines.is_empty() {
                return Some(lines);
            }
            let now = Instant::now();
            if now >= self.until {
                return None;
            }
            if self.bookmarks && now >= bookmark {
                return Some(self.bookmark());
            }
            let changed = self.written.changed();
            let _ = tokio::time::timeout_at(bookmark.min(self.until), changed).await;
        }
    }

    fn news(&mut self) -> String {
        let store = self.shared.store();
        if self.version < store.oldest {
            self.over = true;
            let text = format!("too old resource version: {} ({})", self.version, store.oldest);
            let refusal = Refusal::new(410, "Expired", text);
            return line("ERROR", &refusal.status());
        }
        let new = store.history.iter().filter(|change| change.version > self.version);
        let lines = new.filter_map(|change| told(&self.wanted, change)).collect();
        self.version = store.version();
        lines
    }

    fn bookmark(&self) -> String {
        let kind = kinds::of(&self.wanted.plural);
        let object = json!({"kind": kind.kind, "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.version.to_string(), "creationTimestamp": null}});
        line("BOOKMARK", &object)
    }
}

/// An object that does not fit any more is deleted, to this watch.
fn told(wanted: &Selection, change: &Change) -> Option<String> {
    if change.id.plural != wanted.plural {
        return None;
    }
    let fits = |value: &Option<Value>| value.as_ref().is_some_and(|value| wanted.fits(value));
    match (fits(&change.before), fits(&change.after)) {
        (false, true) => Some(line("ADDED", change.after.as_ref()?)),
        (true, true) => Some(line("MODIFIED", change.after.as_ref()?)),
        (true, false) => {
            let mut last = change.after.clone().or_else(|| change.before.clone())?;
            last["metadata"]["resourceVersion"] = json!(change.version.to_string());
            Some(line("DELETED", &last))
        }
        (false, false) => None,
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
