//! The cases against a krane that runs already, on whatever it runs instances:
//!
//! ```sh
//! LAUNCHWAY_CONFORMANCE_KRANE=http://127.0.0.1:7070 \
//! LAUNCHWAY_CONFORMANCE_IMAGE=registry.example.com/conformance@sha256:… \
//!     cargo nextest run --all-features --test conformance --run-ignored only -E 'test(external)'
//! ```
//!
//! The image is that of `image.rs`. `LAUNCHWAY_CONFORMANCE_RUNTIME=kubernetes`
//! leaves out what a cluster does not tell, `LAUNCHWAY_CONFORMANCE_PROBES=kubelet` what
//! a kubelet does not; `./dev conformance` does all of this.

use async_trait::async_trait;

use crate::harness::{Harness, run};

struct External {
    url: String,
    image: String,
    /// A cluster keeps one stream, and limits processes by node.
    on_kubernetes: bool,
    /// Nobody hears what it finds, and pods are out of reach.
    kubelet_asks: bool,
}

impl External {
    fn of_environment() -> Self {
        let given = |name| std::env::var(name).unwrap_or_else(|_| panic!("set {name}"));
        let is = |name, value| std::env::var(name).is_ok_and(|given| given == value);
        Self {
            url: given("LAUNCHWAY_CONFORMANCE_KRANE"),
            image: given("LAUNCHWAY_CONFORMANCE_IMAGE"),
            on_kubernetes: is("LAUNCHWAY_CONFORMANCE_RUNTIME", "kubernetes"),
            kubelet_asks: is("LAUNCHWAY_CONFORMANCE_PROBES", "kubelet"),
        }
    }
}

#[async_trait]
impl Harness for External {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn image(&self) -> String {
        self.image.clone()
    }

    fn splits_streams(&self) -> bool {
        !self.on_kubernetes
    }

    fn ends_unread_commands(&self) -> bool {
        !self.on_kubernetes
    }

    fn limits_processes(&self) -> bool {
        !self.on_kubernetes
    }

    fn reaches_instances(&self) -> bool {
        !self.kubelet_asks
    }

    fn tells_answers(&self) -> bool {
        !self.kubelet_asks
    }
}

macro_rules! on_external {
    ($($group:ident::$case:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs a krane that runs: see the module"]
        async fn $case() {
            run(&External::of_environment(), crate::cases::$group::$case).await;
        }
    )*};
}
crate::every_case!(on_external);
