//! A cluster to try `./dev conformance` on: the API server of the tests, whose pods
//! are containers of this machine's Docker engine.
//!
//! ```sh
//! cargo run --all-features --example trial-cluster -- KUBECONFIG IMAGE
//! ```
//!
//! puts the image of the suite into the engine, writes the kubeconfig once the cluster
//! answers, and serves until it is told to end.

#[path = "../support/kubernetes/mod.rs"]
mod cluster;
mod image;

use tokio::signal::unix::{SignalKind, signal};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, reference] = arguments.as_slice() else {
        panic!("give a file for the kubeconfig and a name for the image")
    };
    image::import(reference);
    let cluster = cluster::TestCluster::start();
    std::fs::copy(cluster.kubeconfig(), kubeconfig).unwrap();
    println!("{kubeconfig}: run ./dev conformance --kubeconfig {kubeconfig} --image {reference}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut told = signal(SignalKind::terminate()).unwrap();
        tokio::select! {
            _ = told.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    });
}
