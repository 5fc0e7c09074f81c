//! Who reads the events of a task now: only that tells a command whose caller is
//! there from one that was left behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use launchway_workflows::ids::DeploymentId;

use super::backend::Label;

/// A deployment's id and a task's.
type Task = (String, String);

/// Readers of each task; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Attendance(Arc<Mutex<HashMap<Task, usize>>>);

/// A reader, until it is dropped.
pub(super) struct Attending {
    all: Attendance,
    task: Task,
}

impl Attendance {
    pub(super) fn begin(&self, id: &DeploymentId, task: &Label) -> Attending {
        let task = (id.to_string(), task.to_string());
        *self.readers().entry(task.clone()).or_default() += 1;
        Attending { all: self.clone(), task }
    }

    pub(super) fn of(&self, id: &str, task: &str) -> bool {
        self.readers().contains_key(&(id.to_owned(), task.to_owned()))
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<Task, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        let mut readers = self.all.readers();
        if let Some(count) = readers.get_mut(&self.task) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_attended_as_long_as_one_of_its_readers_is_there() {
        let (all, id) = (Attendance::default(), DeploymentId::generate());
        let task: Label = "run-1".parse().unwrap();
        let attended = || all.of(id.as_str(), "run-1");
        let (first, second) = (all.begin(&id, &task), all.begin(&id, &task));
        drop(first);
        assert!(attended());
        assert!(!all.of(id.as_str(), "run-2"));
        drop(second);
        assert!(!attended());
    }
}
