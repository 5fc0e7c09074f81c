//! Objects, their versions and their history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::{
    controllers::is_owned_by,
    defaults::default,
    fields::{self, Path},
    kinds::{self, Kind},
    refusal::{Answer, Refusal},
};

/// Changes that a watch can still begin before.
const HISTORY: usize = 5000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub plural: &'static str,
    pub namespace: String,
    pub name: String,
}

impl Id {
    pub fn new(plural: &str, namespace: &str, name: &str) -> Self {
        let kind = kinds::of(plural);
        let namespace = if kind.namespaced { namespace } else { "" };
        Self { plural: kind.plural, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn of(plural: &str, value: &Value) -> Self {
        let meta = &value["metadata"];
        let text = |key: &str| meta[key].as_str().unwrap_or_default().to_owned();
        Self::new(plural, &text("namespace"), &text("name"))
    }

    pub fn kind(&self) -> &'static Kind {
        kinds::of(self.plural)
    }
}

#[derive(Clone, Default)]
pub struct Entry {
    pub value: Value,
    /// Which fields each manager owns.
    pub managers: BTreeMap<String, BTreeSet<Path>>,
}

#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub id: Id,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

#[derive(Default)]
pub struct Store {
    objects: BTreeMap<Id, Entry>,
    version: u64,
    made: u64,
    pub history: VecDeque<Change>,
    /// Watches cannot begin before this version.
    pub oldest: u64,
}

pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn compact(&mut self) {
        self.history.clear();
        self.version += 1;
        self.oldest = self.version;
    }

    pub fn get(&self, id: &Id) -> Option<&Value> {
        self.objects.get(id).map(|entry| &entry.value)
    }

    pub fn entry(&self, id: &Id) -> Option<&Entry> {
        self.objects.get(id)
    }

    pub fn list(&self, plural: &str) -> Vec<Value> {
        let of_kind = self.objects.iter().filter(|(id, _)| id.plural == plural);
        of_kind.map(|(_, entry)| entry.value.clone()).collect()
    }

    /// What a controller has made for one object.
    pub fn owned(&self, plural: &str, uid: &Value) -> Vec<Value> {
        let own = |(id, value): &(&Id, &Value)| id.plural == plural && is_owned_by(value, uid);
        self.all().filter(own).map(|(_, value)| value.clone()).collect()
    }

    pub fn all(&self) -> impl Iterator<Item = (&Id, &Value)> {
        self.objects.iter().map(|(id, entry)| (id, &entry.value))
    }

    /// `POST`.
    pub fn create(&mut self, plural: &str, mut value: Value, manager: &str) -> Answer {
        if value["metadata"]["name"].is_null()
            && let Some(base) = value["metadata"]["generateName"].as_str()
        {
            value["metadata"]["name"] = json!(format!("{base}{}", suffix(self.made)));
        }
        let id = Id::of(plural, &value);
        if self.objects.contains_key(&id) {
            let text = format!("{} \"{}\" already exists", id.kind().resource(), id.name);
            return Err(Refusal::new(409, "AlreadyExists", text));
        }
        let owned = fields::leaves(&value);
        self.insert(id, Entry { value, managers: [(manager.to_owned(), owned)].into() })
    }

    pub fn insert(&mut self, id: Id, mut entry: Entry) -> Answer {
        self.admit(&id, &entry.value)?;
        let kind = id.kind();
        self.made += 1;
        let value = &mut entry.value;
        (value["apiVersion"], value["kind"]) = (json!(kind.api_version()), json!(kind.kind));
        default(kind, value);
        invalid(kind, value, None)?;
        let meta = &mut value["metadata"];
        meta["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.made));
        meta["creationTimestamp"] = json!(now());
        meta["generation"] = json!(1);
        self.commit(id, Some(entry))
    }

    /// A namespace must be there, and stay; quotas are kept.
    fn admit(&self, id: &Id, value: &Value) -> Result<(), Refusal> {
        if !id.kind().namespaced {
            return Ok(());
        }
        let namespace = Id::new("namespaces", "", &id.namespace);
        let Some(found) = self.get(&namespace) else { return Err(Refusal::not_found(&namespace)) };
        let resource = id.kind().resource();
        if !found["metadata"]["deletionTimestamp"].is_null() {
            let text = format!(
                "{resource} \"{}\" is forbidden: unable to create new content in namespace {} because it is being terminated",
                id.name, id.namespace
            );
            let causes = vec![("NamespaceTerminating", "is being terminated".to_owned())];
            return Err(Refusal { causes, ..Refusal::new(403, "Forbidden", text) });
        }
        if id.plural == "pods" {
            super::access::quota(self, &id.namespace, value).map_err(|text| {
                Refusal::new(403, "Forbidden", format!("pods \"{}\" is forbidden: {text}", id.name))
            })?;
        }
        Ok(())
    }

    /// Writes a changed object; one that is as it was is no change.
    pub fn replace(&mut self, id: &Id, mut entry: Entry) -> Answer {
        let before = self.get(id).cloned().ok_or_else(|| Refusal::not_found(id))?;
        default(id.kind(), &mut entry.value);
        invalid(id.kind(), &entry.value, Some(&before))?;
        if before["spec"] != entry.value["spec"] {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            entry.value["metadata"]["generation"] = json!(generation);
        }
        let going = !entry.value["metadata"]["deletionTimestamp"].is_null();
        let held = entry.value["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if going && !held && id.plural != "pods" {
            return self.commit(id.clone(), None).map(|_| entry.value);
        }
        self.commit(id.clone(), Some(entry))
    }

    /// Somebody's update, as with `PUT`: the fields that it changes become theirs.
    pub fn edit(&mut self, id: &Id, manager: &str, change: impl FnOnce(&mut Value)) -> Answer {
        let present = self.entry(id).ok_or_else(|| Refusal::not_found(id))?;
        let before = present.value.clone();
        let mut value = before.clone();
        change(&mut value);
        if value == before {
            return Ok(value);
        }
        let mut entry = Entry { value, managers: present.managers.clone() };
        let changed: BTreeSet<Path> = fields::leaves(&entry.value)
            .into_iter()
            .filter(|path| fields::at(&before, path) != fields::at(&entry.value, path))
            .collect();
        for (name, owned) in &mut entry.managers {
            if name != manager {
                owned.retain(|path| !changed.contains(path));
            }
        }
        entry.managers.entry(manager.to_owned()).or_default().extend(changed);
        self.replace(id, entry)
    }

    fn commit(&mut self, id: Id, entry: Option<Entry>) -> Answer {
        let before = self.objects.get(&id).cloned();
        if let (Some(before), Some(after)) = (&before, &entry)
            && same(&before.value, &after.value)
            && before.managers == after.managers
        {
            return Ok(before.value.clone());
        }
        self.version += 1;
        let after = entry.map(|mut entry| {
            entry.value["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.objects.insert(id.clone(), entry.clone());
            entry.value
        });
        let mut last = before.map(|before| before.value);
        if after.is_none() {
            self.objects.remove(&id);
            if let Some(last) = &mut last {
                last["metadata"]["resourceVersion"] = json!(self.version.to_string());
            }
        }
        let answer = after.clone().or_else(|| last.clone()).unwrap_or_default();
        self.history.push_back(Change { version: self.version, id, before: last, after });
        if self.history.len() > HISTORY
            && let Some(first) = self.history.pop_front()
        {
            self.oldest = first.version;
        }
        Ok(answer)
    }

    /// `DELETE`: at once, or once its finalizers and its grace allow it.
    pub fn delete(&mut self, id: &Id, propagation: Option<&str>, grace: Option<i64>) -> Answer {
        let mut entry = self.entry(id).cloned().ok_or_else(|| Refusal::not_found(id))?;
        let meta = &mut entry.value["metadata"];
        let mut finalizers = meta["finalizers"].as_array().cloned().unwrap_or_default();
        let foreground = json!("foregroundDeletion");
        if propagation == Some("Foreground") && !finalizers.contains(&foreground) {
            finalizers.push(foreground);
        }
        if id.plural == "namespaces" && finalizers.is_empty() {
            finalizers.push(json!("kubernetes"));
        }
        let seconds = match id.plural {
            "pods" => grace
                .or(entry.value["spec"]["terminationGracePeriodSeconds"].as_i64())
                .unwrap_or(30),
            _ => 0,
        };
        if finalizers.is_empty() && seconds == 0 {
            return self.remove(id);
        }
        let meta = &mut entry.value["metadata"];
        if !finalizers.is_empty() {
            meta["finalizers"] = json!(finalizers);
        }
        if meta["deletionTimestamp"].is_null() {
            meta["deletionTimestamp"] = json!(now());
            meta["deletionGracePeriodSeconds"] = json!(seconds);
        }
        self.commit(id.clone(), Some(entry))
    }

    /// Out of the store, whatever holds it.
    pub fn remove(&mut self, id: &Id) -> Answer {
        if self.objects.contains_key(id) { self.commit(id.clone(), None) } else { Ok(Value::Null) }
    }
}

fn same(a: &Value, b: &Value) -> bool {
    let bare = |value: &Value| {
        let mut value = value.clone();
        if let Some(meta) = value["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
        }
        value
    };
    bare(a) == bare(b)
}

fn invalid(kind: &Kind, value: &Value, before: Option<&Value>) -> Result<(), Refusal> {
    let problems = kind.problems(value, before);
    if problems.is_empty() {
        return Ok(());
    }
    let name = &value["metadata"]["name"];
    let text = format!("{} {name} is invalid: {}", kind.kind, problems.join(", "));
    Err(Refusal::new(422, "Invalid", text))
}

/// The end of a generated name.
pub fn suffix(number: u64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = number.wrapping_mul(2_654_435_761) + 7919;
    let mut text = String::new();
    for _ in 0..5 {
        text.push(char::from(LETTERS[(rest % LETTERS.len() as u64) as usize]));
        rest /= LETTERS.len() as u64;
    }
    text
}
