//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays with its worker, and so do the connections to instances
//! that its requests use: no request wakes another thread.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    runtime,
    sync::{Semaphore, mpsc},
};

use super::server::{Accepted, Server};

/// How many there are when nobody says: one per core.
pub(super) fn default_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(super) struct Workers {
    workers: Vec<Worker>,
    /// Ends when the last worker has.
    alive: mpsc::Receiver<Infallible>,
}

struct Worker {
    queue: mpsc::Sender<(Accepted, Load)>,
    open: Arc<AtomicUsize>,
}

/// A connection counts as its worker's until this is dropped.
pub(super) struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Workers {
    /// # Errors
    /// The system gives no more threads or files.
    pub fn start(server: &Arc<Server>) -> io::Result<Self> {
        let (living, alive) = mpsc::channel(1);
        let workers = (0..server.gateway.config.workers)
            .map(|number| Worker::start(Arc::clone(server), number, living.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { workers, alive })
    }

    /// Gives the connection to the worker with the fewest.
    pub async fn serve(&self, accepted: Accepted) {
        let Some(worker) = self.workers.iter().min_by_key(|worker| worker.open.load(Relaxed))
        else {
            return;
        };
        worker.open.fetch_add(1, Relaxed);
        let load = Load(Arc::clone(&worker.open));
        // A worker that is gone has dropped its connections too.
        let _ = worker.queue.send((accepted, load)).await;
    }

    /// No more connections: workers end when their last one has.
    pub fn close(&mut self) {
        self.workers.clear();
    }

    /// After [`Workers::close`]: returns when all have ended.
    pub async fn ended(&mut self) {
        while self.alive.recv().await.is_some() {}
    }
}

impl Worker {
    fn start(
        server: Arc<Server>,
        number: usize,
        living: mpsc::Sender<Infallible>,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        // Never full: there are no more connections than permits.
        let most = server.gateway.config.max_connections.min(Semaphore::MAX_PERMITS);
        let (queue, mut connections) = mpsc::channel(most);
        std::thread::Builder::new().name(format!("gateway-{number}")).spawn(move || {
            runtime.block_on(async {
                while let Some((accepted, load)) = connections.recv().await {
                    server.spawn(accepted, load, number);
                }
                server.gateway.tasks.wait().await;
            });
            drop(living);
        })?;
        Ok(Self { queue, open: Arc::default() })
    }
}
