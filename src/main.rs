//! The one binary.

use std::sync::Arc;

use launchway::{cli, up::OnDocker};

/// See docs/adr/0010-the-gateways-threads.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> cli::Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(cli::main(Arc::new(OnDocker))),
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            cli::Exit::Internal
        }
    }
}
