//! Builders: from an uploaded context to an image.

mod docker;
mod failure;
mod platform;
mod progress;

pub use docker::{DockerBuilder, engine_version};
pub use platform::{Platform, PlatformError};

#[cfg(test)]
mod tests;
