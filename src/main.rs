//! The one binary.

fn main() -> launchway::cli::Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(launchway::cli::main()),
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            launchway::cli::Exit::Internal
        }
    }
}
