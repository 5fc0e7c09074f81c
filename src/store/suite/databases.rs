//! Databases that live as long as a test.

use launchway_workflows::ids::WorkspaceId;

use crate::store::Store;

#[path = "../../../tests/support/postgres.rs"]
mod server;

use server::Postgres;

/// A fresh database; gone when dropped.
pub(super) struct Database {
    store: Store,
    _server: Option<Postgres>,
    _dir: Option<tempfile::TempDir>,
}

impl Database {
    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}

async fn open(url: &str) -> Store {
    let store = Store::open(url).await.unwrap();
    store.ensure_workspace(&WorkspaceId::local()).await.unwrap();
    store
}

pub(super) async fn sqlite() -> Database {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/launchway.db", dir.path().display());
    Database { store: open(&url).await, _server: None, _dir: Some(dir) }
}

pub(super) async fn postgres() -> Database {
    let server = Postgres::start();
    Database { store: open(&server.url()).await, _server: Some(server), _dir: None }
}
