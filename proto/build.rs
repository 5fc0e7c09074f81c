//! Compiles the protos with protox, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What launchway serves.
const OURS: &[&str] = &[
    "ctrl/v1/build.proto",
    "ctrl/v1/cleanup.proto",
    "ctrl/v1/deployment.proto",
    "ctrl/v1/domain.proto",
    "ctrl/v1/environment.proto",
    "ctrl/v1/key.proto",
    "ctrl/v1/project.proto",
    "ctrl/v1/runtime.proto",
    "krane/v1/deployment.proto",
    "gateway/v1/route.proto",
];
/// What it only calls.
const THEIRS: [&str; 2] = ["depot/cli/v1/build.proto", "depot/core/v1/project.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let ours = protox::compile(OURS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), ours.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(ours)?;
    tonic_prost_build::configure().compile_fds(protox::compile(THEIRS, ["proto"])?)?;
    Ok(())
}
