//! The gateway over real sockets: real instances, a real route feed.

mod access;
mod failover;
mod feed;
mod pages;
mod protocol;
mod streaming;
mod support;
