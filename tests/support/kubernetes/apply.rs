//! Server-side apply: who owns which field, and what happens when two want one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    fields::{self, Path},
    refusal::{Answer, Refusal},
    store::{Entry, Id, Store},
};

impl Store {
    pub fn apply(&mut self, id: &Id, applied: Value, manager: &str, force: bool) -> Answer {
        let wanted = fields::leaves(&applied);
        let Some(mut entry) = self.entry(id).cloned() else {
            let mut value = applied;
            value["metadata"]["name"] = id.name.clone().into();
            if id.kind().namespaced {
                value["metadata"]["namespace"] = id.namespace.clone().into();
            }
            let managers = [(manager.to_owned(), wanted)].into();
            return self.insert(id.clone(), Entry { value, managers });
        };
        precondition(&entry.value, &applied, id)?;
        let contested = contested(&entry, &applied, &wanted, manager);
        if !contested.is_empty() && !force {
            return Err(conflict(&contested));
        }
        for (_, path) in &contested {
            entry.managers.values_mut().for_each(|owned| {
                owned.remove(path);
            });
        }
        let before = entry.managers.insert(manager.to_owned(), wanted.clone()).unwrap_or_default();
        // What we do not name any more goes, unless somebody else has it too.
        for path in before.difference(&wanted) {
            if !entry.managers.values().any(|owned| owned.contains(path)) {
                fields::remove(&mut entry.value, path);
            }
        }
        let mut patch = applied;
        if let Some(meta) = patch["metadata"].as_object_mut() {
            for identity in ["resourceVersion", "uid", "managedFields", "creationTimestamp"] {
                meta.remove(identity);
            }
        }
        fields::merge(&mut entry.value, &patch);
        self.replace(id, entry)
    }
}

/// A version or a uid that is named must be the present one.
pub fn precondition(present: &Value, given: &Value, id: &Id) -> Result<(), Refusal> {
    for key in ["resourceVersion", "uid"] {
        let wanted = &given["metadata"][key];
        if !wanted.is_null() && *wanted != present["metadata"][key] {
            let text = format!(
                "Operation cannot be fulfilled on {} \"{}\": the object has been modified; \
                 please apply your changes to the latest version and try again",
                id.kind().resource(),
                id.name
            );
            return Err(Refusal::new(409, "Conflict", text));
        }
    }
    Ok(())
}

/// Fields that another has set to something else.
fn contested(
    entry: &Entry,
    applied: &Value,
    wanted: &BTreeSet<Path>,
    manager: &str,
) -> Vec<(String, Path)> {
    let others = entry.managers.iter().filter(|(name, _)| *name != manager);
    others
        .flat_map(|(name, owned)| owned.intersection(wanted).map(move |path| (name.clone(), path)))
        .filter(|(_, path)| fields::at(&entry.value, path) != fields::at(applied, path))
        .map(|(name, path)| (name, path.clone()))
        .collect()
}

fn conflict(contested: &[(String, Path)]) -> Refusal {
    let causes = contested.iter().map(|(name, path)| {
        let field: String = path.iter().map(|step| step.replacen("f:", ".", 1)).collect();
        ("FieldManagerConflict", format!("conflict with \"{name}\": {field}"))
    });
    let text = format!("Apply failed with {} conflicts", contested.len());
    Refusal { causes: causes.collect(), ..Refusal::new(409, "Conflict", text) }
}
