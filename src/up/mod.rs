//! `up` and `serve`: the processes of an installation, and the one place that
//! wires adapters to each other.

mod adapters;
mod child;
mod credentials;
pub(crate) mod depot;
mod detach;
mod down;
mod draining;
mod layout;
mod lock;
mod parts;
mod ports;
mod process;
mod run;
mod secrets;
mod state;

pub use adapters::{Adapters, OnDocker};
pub use credentials::{Server, config_path, read as read_credentials};
pub use detach::detach;
pub use down::{DownOptions, down};
pub use draining::Draining;
pub use layout::{Layout, default_data_dir};
pub use run::{Role, serve, up};
pub use state::{Status, UpState};

/// Something stands in the way of starting: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(pub String);

impl SetupError {
    fn from<E: std::fmt::Display>(error: E) -> Self {
        Self(error.to_string())
    }
}
