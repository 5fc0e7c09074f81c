//! Builders: from an uploaded context to an image.

mod docker;
mod failure;
mod platform;
mod progress;

pub use docker::DockerBuilder;
pub use platform::{Platform, PlatformError};
