//! A Kubernetes for tests: an API server with the real one's semantics as far as
//! krane leans on them, controllers, and a kubelet whose pods do as they are
//! told. The API server and the controllers can be killed and started again.
//!
//! What it is not: it knows only the kinds that krane uses, sets few defaults, does
//! not show who manages which field, its scheduler has one node of any size, and its
//! kubelet probes more often and sleeps shorter than a real one, so that cases wait
//! for what they are about.

#![allow(dead_code)]

mod access;
mod apply;
mod conditions;
mod containers;
mod controllers;
mod defaults;
mod fields;
mod kinds;
mod kubelet;
mod probes;
mod process;
mod refusal;
mod rollout;
mod scripts;
mod server;
mod status;
mod store;
mod watching;
mod websocket;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};

pub use scripts::Behaviour;
use scripts::Scripts;
pub use store::Id;
use store::Store;

/// Who krane is to it.
pub const TOKEN: &str = "a-token-of-the-tests";
/// Longest wait for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Shared {
    store: Mutex<Store>,
    /// Counts the writes.
    written: watch::Sender<u64>,
    scripts: Mutex<Scripts>,
    /// Verb and resource that are not allowed.
    forbidden: Mutex<Vec<(String, String)>>,
    /// Answers 429 to this many requests.
    busy: AtomicU32,
    /// Every request: verb, resource, name.
    requests: Mutex<Vec<(String, String, String)>>,
    controllers: AtomicBool,
}

impl Shared {
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this request is one too many.
    pub fn take_throttle(&self) -> bool {
        let less = |count: u32| count.checked_sub(1);
        self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    /// Tells controllers and watches that something was written.
    pub fn note_write(&self) {
        self.written.send_modify(|count| *count += 1);
    }

    /// Changes the store and tells of it.
    pub fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let (made, changed) = {
            let mut store = self.store();
            let before = store.version();
            let made = change(&mut store);
            (made, store.version() != before)
        };
        if changed {
            self.note_write();
        }
        made
    }
}

/// See the module. Everything of it ends with it.
pub struct TestCluster {
    pub shared: Arc<Shared>,
    address: SocketAddr,
    dir: tempfile::TempDir,
    runtime: Option<Runtime>,
    api: Mutex<Option<JoinHandle<()>>>,
}

impl TestCluster {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            written: watch::channel(0).0,
            scripts: Mutex::default(),
            forbidden: Mutex::default(),
            busy: AtomicU32::new(0),
            requests: Mutex::default(),
            controllers: AtomicBool::new(true),
        });
        runtime.spawn(controllers::run(Arc::clone(&shared)));
        runtime.spawn(kubelet::run(Arc::clone(&shared)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let dir = tempfile::tempdir().unwrap();
        let this = Self { shared, address, dir, runtime: Some(runtime), api: Mutex::default() };
        std::fs::write(this.kubeconfig(), this.kubeconfig_text()).unwrap();
        this.start_api();
        this
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn kubeconfig_text(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: tests\n\
             clusters:\n- name: tests\n  cluster: {{server: 'http://{}'}}\n\
             users:\n- name: tests\n  user: {{token: {TOKEN}}}\n\
             contexts:\n- name: tests\n  context: {{cluster: tests, user: tests}}\n",
            self.address
        )
    }

    /// The API server dies with every connection; what is stored stays.
    pub fn kill_api(&self) {
        if let Some(task) = self.api.lock().unwrap().take() {
            task.abort();
            eventually("the API server is gone", || task.is_finished().then_some(()));
        }
    }

    pub fn start_api(&self) {
        let (shared, address) = (Arc::clone(&self.shared), self.address);
        let runtime = self.runtime.as_ref().unwrap();
        let listener = eventually("the port is free", || TcpListener::bind(address).ok());
        *self.api.lock().unwrap() = Some(runtime.spawn(server::serve(listener, shared)));
    }

    /// Nothing is made, started or collected until they are started again.
    pub fn kill_controllers(&self) {
        self.shared.controllers.store(false, Ordering::SeqCst);
    }

    pub fn start_controllers(&self) {
        self.shared.controllers.store(true, Ordering::SeqCst);
        self.shared.note_write();
    }

    /// Pods of this image do so, from now on.
    pub fn script(&self, image: &str, behaviour: Behaviour) {
        self.shared.scripts.lock().unwrap().set(image, behaviour);
        self.shared.note_write();
    }

    /// Pods of all images that nothing else is said of do so.
    pub fn script_others(&self, behaviour: Behaviour) {
        self.shared.scripts.lock().unwrap().set_others(behaviour);
    }

    /// The labels of each pod whose container was started, as often as it was.
    pub fn started(&self) -> Vec<Value> {
        self.shared.scripts.lock().unwrap().started.clone()
    }

    pub fn forbid(&self, verb: &str, resource: &str) {
        self.shared.forbidden.lock().unwrap().push((verb.to_owned(), resource.to_owned()));
    }

    /// The next requests are answered with 429 and one second's Retry-After.
    pub fn throttle(&self, requests: u32) {
        self.shared.busy.store(requests, Ordering::SeqCst);
    }

    pub fn is_throttling(&self) -> bool {
        self.shared.busy.load(Ordering::SeqCst) > 0
    }

    /// Forgets its history: every watch that begins in the past gets a 410.
    pub fn compact(&self) {
        self.shared.write(Store::compact);
    }

    pub fn list(&self, plural: &str) -> Vec<Value> {
        self.shared.store().list(plural)
    }

    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.store().get(&Id::new(plural, namespace, name)).cloned()
    }

    /// Somebody else's write.
    pub fn edit(&self, id: &Id, manager: &str, change: impl FnOnce(&mut Value)) {
        self.shared.write(|store| store.edit(id, manager, change)).unwrap();
    }

    pub fn create(&self, plural: &str, value: Value) -> Value {
        self.shared.write(|store| store.create(plural, value, "tests")).unwrap()
    }

    pub fn delete(&self, id: &Id) {
        self.shared.write(|store| store.delete(id, None, None)).unwrap();
    }

    pub fn requests(&self) -> Vec<(String, String, String)> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every container and network of its pods; nothing is started any more.
    pub fn remove_containers(&self) {
        self.kill_controllers();
        self.shared.write(|store| {
            let pods: Vec<Id> = store.list("pods").iter().map(|pod| Id::of("pods", pod)).collect();
            pods.iter().for_each(|id| drop(store.remove(id)));
        });
        self.shared.scripts.lock().unwrap().remove_containers();
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.remove_containers();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Polls until `look` finds something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
