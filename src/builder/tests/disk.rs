//! A builder whose disk is full.

use std::time::Duration;

use launchway_workflows::{
    error::{ErrorCode, StepError},
    model::BuildOptions,
};
use tokio::time::Instant;

use super::{
    bench::{Backend, Bench, HEAD, build_with, docker_at},
    servers::private::Private,
};

/// What it may keep, what others have taken of that, and a context for which
/// that leaves no room.
const DISK_MIB: u32 = 384;
const TAKEN: usize = 336 << 20;
const CONTEXT: usize = 64 << 20;

/// It is not the user's fault, may pass, and spoils nothing.
#[tokio::test]
async fn a_full_disk_is_told_apart_and_the_same_context_is_built_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Private::prepare(dir.path()).with_a_disk_of(DISK_MIB);
    let mut process = engine.command().spawn().unwrap();
    let begun = Instant::now();
    while !engine.answers() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the engine does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let builder = docker_at(&engine.host(), None);
    // Of the bench only the context is used.
    let bench = Bench::new(Backend::Docker, HEAD).await;
    let mut noise = vec![0; CONTEXT];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut noise);
    bench.add("noise", &noise);
    bench.upload(&format!("{HEAD}COPY noise /noise\n")).await;
    let taken = engine.data().join("taken");
    std::fs::write(&taken, vec![0; TAKEN]).unwrap();
    let (full, _) = build_with(&*builder, &bench.spec(BuildOptions::default()).await).await;
    std::fs::remove_file(&taken).unwrap();
    let (fits, _) = build_with(&*builder, &bench.spec(BuildOptions::default()).await).await;
    stop(&mut process);
    let error = full.unwrap_err();
    assert_eq!(error.failure().code, ErrorCode::BuilderOutOfDisk, "{error:?}");
    assert!(matches!(error, StepError::Transient(_)), "{error:?}");
    fits.unwrap();
}

/// In good order, so that it unmounts what it has mounted.
fn stop(process: &mut std::process::Child) {
    let pid = process.id().to_string();
    std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    process.wait().unwrap();
}
