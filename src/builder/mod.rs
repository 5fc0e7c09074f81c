//! Builders: from an uploaded context to an image.

mod buildkit;
mod check;
mod depot;
mod docker;
mod engine;
mod failure;
mod platform;
mod progress;
mod redact;
mod turn;

pub use buildkit::{Address, BuildkitBuilder, EngineAddress, Tls};
pub use check::{check_buildkit, check_depot, check_docker};
pub use depot::{
    Claim, DepotAccount, DepotBuilder, Ledger, Limits as DepotLimits, Outcome as DepotOutcome,
    Registered,
};
pub use docker::DockerBuilder;
pub use engine::engine_version;
pub use platform::{Platform, PlatformError, Platforms};

#[cfg(test)]
mod tests;
