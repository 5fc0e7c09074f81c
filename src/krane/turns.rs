//! One at a time, by key.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

/// Held by whoever has its turn.
pub(super) type Turn = OwnedMutexGuard<()>;

/// Locks by key; a key that nobody holds takes no room.
pub(super) struct Turns<K> {
    by_key: Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { by_key: Mutex::default() }
    }
}

impl<K: Hash + Eq + Clone> Turns<K> {
    /// Returns when nobody else has it.
    pub(super) async fn take(&self, key: &K) -> Turn {
        let turn = {
            let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            by_key.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(by_key.entry(key.clone()).or_default())
        };
        turn.lock_owned().await
    }
}
