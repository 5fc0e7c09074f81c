//! The gateway: routes requests to deployments by host, from a table in
//! memory that a feed keeps up to date and a file keeps over restarts.

mod body;
mod feed;
mod forward;
mod host;
mod pages;
mod server;
mod table;

pub use server::{GatewayError, GatewaySettings, serve};
