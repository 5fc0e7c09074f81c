//! The whole product on real parts: the binary, restate-server, the Docker
//! engine, an S3 and a gateway, on private ports and directories.
//! `./dev test` installs what this needs.

mod applications;
mod builders;
mod cancels;
mod cleanup;
#[path = "../support/kubernetes/mod.rs"]
mod cluster;
mod crashes;
mod deploys;
mod domains;
mod draining;
mod evictions;
mod gateways;
mod journals;
mod kubernetes;
mod mistakes;
mod output;
mod queue;
mod releases;
mod retries;
mod runtime;
#[path = "../support/mod.rs"]
mod servers;
mod setup;
mod submissions;
mod support;
mod switching;
mod traffic;
mod upgrades;
